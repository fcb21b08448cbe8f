"""Several searches side by side: what each found, what differed in their spaces, what may be compared."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.results.archive import LoadedSearch
from search.results.model_result import verdict_of
from search.results.page.plots import Plot, plot_curves_together, plot_verdicts_together
from search.results.page.trials import comparable_by
from search.space import EXACT, Space, to_store
from search.studies.comparison import POINTS

# Characters of a hash that tell two apart.
_HASH = 8
# In place of the value of a key that a search does not have.
_ABSENT = object()


@dataclass(frozen=True)
class Beside:
    """Attributes:
    comparable: a line for each model on the searches whose losses may be compared.
    columns, rows: one for each search and model.
    change_columns, changes: one for each key of the space that differs.
    """

    comparable: list[str]
    columns: list[str]
    rows: list[list[object]]
    change_columns: list[str]
    changes: list[list[object]]
    plots: list[Plot]


def set_beside(searches: Mapping[str, LoadedSearch]) -> Beside:
    """Args: searches: by their labels, in the order in which the page shows them."""
    together = _group(searches)
    figures = [
        plot_verdicts_together(searches),
        *(
            plot_curves_together(model, {label: searches[label] for label in labels})
            for (model, _), labels in together.items()
            if len(labels) > 1
        ),
    ]
    nats = "" if any(search.space.measure == EXACT for search in searches.values()) else " (nats)"
    points = [f"difference to no dropout, {point}{nats}" for point in POINTS]
    return Beside(
        list(_say_what_is_comparable(searches, together)),
        ["search", "began", "model", "verdict", *points, "trials", "tokens", "data", "evaluation set", "folder"],
        list(_tabulate_results(searches)),
        ["setting", *searches],
        _find_differences(searches),
        [plot for plot in figures if plot is not None],
    )


def _group(searches: Mapping[str, LoadedSearch]) -> dict[tuple[str, str], list[str]]:
    """For each model and evaluation set the labels of the searches that have it."""
    together: dict[tuple[str, str], list[str]] = {}
    for label, search in searches.items():
        for result in search.results:
            if (key := comparable_by(search, result.model)) is not None:
                together.setdefault(key, []).append(label)
    return together


def _say_what_is_comparable(
    searches: Mapping[str, LoadedSearch], together: Mapping[tuple[str, str], list[str]]
) -> Iterator[str]:
    models = dict.fromkeys(result.model for search in searches.values() for result in search.results)
    for model in models:
        groups = [labels for (name, _), labels in together.items() if name == model]
        for labels in groups:
            if len(labels) > 1:
                same = len({_data_hash(searches[label], model) for label in labels}) == 1
                data = "the same training data" if same else "different training data"
                names = " and ".join(labels)
                yield f"{model}: {names} have the same evaluation set and {data}: their losses may be compared."
        if len(groups) > 1:
            sets = "; ".join(" and ".join(labels) for labels in groups)
            yield f"{model}: {sets} have different evaluation sets: compare verdicts, not losses."
        having = [label for label, search in searches.items() if model in search.summary["models"]]
        if unknown := [label for label in having if comparable_by(searches[label], model) is None]:
            yield f"{model}: of {' and '.join(unknown)} the evaluation set is not known: a search tells it at its end."
        if len(having) == 1:
            yield f"{model}: only {having[0]} has it."


def _data_hash(search: LoadedSearch, model: str) -> str | None:
    found: str | None = search.summary["models"][model].get("data_hash") or search.evaluations.data_hashes.get(model)
    return found


def _tabulate_results(searches: Mapping[str, LoadedSearch]) -> Iterator[list[object]]:
    for label, search in searches.items():
        for result in search.results:
            verdict, entry = verdict_of(result, search.space), search.summary["models"][result.model]
            intervals = [
                f"{difference.mean:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"
                if (difference := result.verdict.get(point)) is not None
                else ""
                for point in POINTS
            ]
            data, evaluation = _data_hash(search, result.model), entry.get("evaluation_hash")
            yield [
                label,
                search.date,
                result.model,
                f"{verdict.words} ({result.chosen})" if verdict is not None else "not confirmed",
                *intervals,
                sum(entry["trials"].values()),
                entry["tokens"]["trained"],
                data[:_HASH] if data else "not known",
                evaluation[:_HASH] if evaluation else "not known",
                search.named,
            ]


def _find_differences(searches: Mapping[str, LoadedSearch]) -> list[list[object]]:
    """The keys of the space in which any two searches differ, each with its value in all searches."""
    return [[path, *map(_show, values)] for path, values in _differ("", [_by_key(s.space) for s in searches.values()])]


def _by_key(space: Space) -> dict[str, Any]:
    """A space as YAML has it; the arms by their names, each with what it changes, and the curricula by their shapes."""
    values = to_store(space)
    del values["arms"]
    if space.arms is not None:
        # An arm's null is not what it inherits: `schedule: null` drops no tokens.
        changes = {arm.name: arm.model_dump(mode="json", exclude_defaults=True) for arm in space.arms}
        values["arms"] = {name: _without(arm, "name") for name, arm in changes.items()}
    for block in (values, *values.get("arms", {}).values()):
        if block.get("schedule") and isinstance(shapes := block["schedule"].get("curriculum"), list):
            block["schedule"]["curriculum"] = {shape["shape"]: _without(shape, "shape") for shape in shapes}
    return values


def _without(block: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in block.items() if key != name}


def _differ(path: str, values: Sequence[Any]) -> Iterator[tuple[str, Sequence[Any]]]:
    """Dotted paths below `path` of what differs, each with its values."""
    if all(value == values[0] for value in values):
        return
    there = [value for value in values if value is not _ABSENT]
    # What has nothing below it, as an arm that changes nothing, would not be seen.
    if not all(isinstance(value, dict) and value for value in there):
        yield path, values
        return
    for key in dict.fromkeys(key for block in there for key in block):
        below = [_ABSENT if value is _ABSENT else value.get(key, _ABSENT) for value in values]
        yield from _differ(f"{path}.{key}" if path else key, below)


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
