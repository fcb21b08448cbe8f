"""The trials of searches, as the report's table and its linked pictures show them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.arms import BASELINE, curriculum_strengths, flatten
from search.environment import mlflow_address
from search.output.cursor import Cursor
from search.output.events import Evaluations
from search.output.folder import CURSOR
from search.results.archive import LoadedSearch
from search.results.costs import tabulate_trials
from search.results.model_result import ModelResult, label_arm
from search.results.page.rendering import round_for_page
from search.results.page.styles import MEASURES, STYLES
from search.studies.study import describe_reason, losses_of
from trainables.errors import mask_secrets

# Points of a curve that are drawn, at most.
_POINTS = 50


@dataclass(frozen=True)
class TrialRow:
    """A trial of a search.

    Attributes:
        group: its losses may be compared with those of the trials in the same group.
        settings: that differ between trials, by short names: numbers or words.
        tokens: trained.
        losses: in nats, by the name of a measure and "at best" (its evaluation of least high-entropy loss) or "at
            last".
        best, last, end: high-entropy losses in nats, the least, the last, and the one at the end of the budget.
        epochs, curve: high-entropy losses in nats by epoch, so many of them as are drawn.
        strengths: of its curriculum over the run, each in [0, 1]; empty without one.
        link: to its run in MLflow; None if MLflow has no address for a browser.
    """

    search: str
    model: str
    number: int
    arm: str
    state: str
    reason: str
    group: int
    settings: dict[str, float | str]
    tokens: int
    losses: dict[str, float]
    best: float | None
    last: float | None
    end: float | None
    epochs: list[float]
    curve: list[float]
    strengths: tuple[float, ...]
    run_id: str | None
    link: str | None

    @property
    def name(self) -> str:
        return f"{self.model}, trial {self.number}"


@dataclass(frozen=True)
class TrialsTable:
    """All trials of the searches of a page.

    Attributes:
        settings, losses: the names that any row has, in order.
        logarithmic: the settings that were searched by their logarithm.
        floors: for each group the least high-entropy loss without dropout, in nats; None where that is not known.
        ranges: for each group the least and the greatest loss of its curves, in nats.
    """

    rows: list[TrialRow]
    settings: list[str]
    losses: list[str]
    logarithmic: list[str]
    floors: list[float | None]
    ranges: list[tuple[float, float]]

    def values(self, name: str) -> list[str]:
        """The different values of an attribute, in order of appearance."""
        return list(dict.fromkeys(getattr(row, name) for row in self.rows))

    def to_json(self) -> dict[str, Any]:
        """What the pictures are drawn from: a trial has its settings and losses in the order of their names, and the
        places of its epochs and of its strengths among those of all trials."""
        shown = ("name", "search", "model", "arm", "state", "group", "curve")
        epochs: dict[tuple[float, ...], int] = {}
        strengths: dict[tuple[float, ...], int] = {}
        trials = [
            {key: getattr(row, key) for key in shown}
            | {
                "settings": [row.settings.get(name) for name in self.settings],
                "losses": [row.losses.get(name) for name in self.losses],
                "epochs": epochs.setdefault(tuple(row.epochs), len(epochs)),
                "strengths": strengths.setdefault(row.strengths, len(strengths)),
            }
            for row in self.rows
        ]
        table = {
            "trials": trials,
            "settings": self.settings,
            "losses": self.losses,
            "logarithmic": self.logarithmic,
            "floors": self.floors,
            "styles": dict(zip(self.values("arm"), cycle(STYLES), strict=False)),
            "epochs": list(epochs),
            "strengths": list(strengths),
        }
        rounded: dict[str, Any] = round_for_page(table)
        return rounded


def tabulate(searches: Mapping[str, LoadedSearch], running: bool = True) -> TrialsTable:
    """The trials of all models of some searches, by the searches' labels.

    Args:
        running: whether those that have not ended are among them.
    """
    groups: dict[object, int] = {}
    rows: list[TrialRow] = []
    floors: dict[int, float | None] = {}
    logarithmic: dict[str, None] = {}
    for label, search in searches.items():
        runs, address = Cursor(search.folder / CURSOR).runs, search.space.tracking.uri or mlflow_address() or ""
        base = f"{mask_secrets(address).rstrip('/')}/#/runs/" if address.startswith("http") else None
        for result in search.results:
            key = comparable_by(search, result.model) or (label, result.model)
            group = groups.setdefault(key, len(groups))
            found = list(_rows_of(label, result, search.evaluations, group, runs, base))
            found = [row for row in found if running or row.state != "running"]
            rows += found
            logarithmic |= dict.fromkeys(_list_logarithmic(result))
            least = [row.best for row in found if row.arm == label_arm(BASELINE) and row.best is not None]
            floors[group] = min([*least, *filter(None, [floors.get(group)])], default=None)
    by_name: dict[str, set[float | str]] = {}
    for row in rows:
        for name, value in row.settings.items():
            by_name.setdefault(name, set()).add(value)
    settings = [name for name, values in by_name.items() if len(values) > 1]
    for row in rows:
        for name in row.settings.keys() - set(settings):
            del row.settings[name]
    points = ["at best", "at last"]
    if all(search.space.evaluation_that_counts == "final" for search in searches.values()):
        points.reverse()
    losses = [f"{words} {point}" for words in MEASURES.values() for point in points]
    losses = [name for name in losses if any(name in row.losses for row in rows)]
    logarithms = [name for name in settings if name in logarithmic]
    values: list[list[float]] = [[] for _ in groups]
    for row in rows:
        values[row.group] += row.curve
    ranges = [(min(each, default=0.0), max(each, default=1.0)) for each in values]
    return TrialsTable(rows, settings, losses, logarithms, [floors[group] for group in range(len(groups))], ranges)


def _list_logarithmic(result: ModelResult) -> Iterator[str]:
    for trial in result.searched.trials(*TrialState):
        for name, distribution in trial.distributions.items():
            if getattr(distribution, "log", False):
                # As in "entrodrop.curriculum.sigmoid.steepness".
                yield name.rpartition(".")[2]


def comparable_by(search: LoadedSearch, model: str) -> tuple[str, str] | None:
    """What two searches must share for their losses to be compared: the model, and the hash of its evaluation set;
    None if that is not known yet."""
    # The summary of a search that runs has no hash, and takes seconds to make.
    evaluation_hash = search.summary["models"].get(model, {}).get("evaluation_hash") if search.finished else None
    return (model, evaluation_hash) if evaluation_hash is not None else None


def _rows_of(
    label: str, result: ModelResult, evaluations: Evaluations, group: int, runs: Mapping[str, str], base: str | None
) -> Iterator[TrialRow]:
    study = result.searched
    entries = {entry["number"]: entry for entry in tabulate_trials(study)}
    for trial in study.trials(*TrialState):
        if (entry := entries.get(trial.number)) is None:
            continue
        parameters, losses = study.parameters(trial), losses_of(trial)
        epochs, curve = evaluations.curve(study.name, trial, "high_entropy_loss")
        run_id = runs.get(f"{study.name}/{trial.number}")
        yield TrialRow(
            search=label,
            model=result.model,
            number=trial.number,
            arm=label_arm(entry["arm"]),
            state=entry["state"],
            reason=describe_reason(entry["reason"]) if entry["reason"] else "",
            group=group,
            settings={
                _shorten(name): _plain(value) for name, value in flatten(parameters).items() if value is not None
            },
            tokens=entry["tokens"],
            losses=_losses_at(evaluations, study.name, trial, losses),
            best=min(losses, default=None),
            last=losses[-1] if losses else None,
            end=losses[-1] if losses and trial.state == TrialState.COMPLETE else None,
            epochs=_thin(epochs),
            curve=_thin(curve),
            strengths=curriculum_strengths(parameters),
            run_id=run_id,
            link=base + run_id if base is not None and run_id is not None else None,
        )


def _losses_at(evaluations: Evaluations, study: str, trial: FrozenTrial, losses: Sequence[float]) -> dict[str, float]:
    """Each measure at the evaluation of least high-entropy loss and at the last one, in nats."""
    found: dict[str, float] = {}
    for measure, words in MEASURES.items():
        _, values = evaluations.curve(study, trial, measure)
        if losses and len(values) == len(losses):
            found[f"{words} at best"] = values[losses.index(min(losses))]
            found[f"{words} at last"] = values[-1]
    return found


def _thin(values: Sequence[float]) -> list[float]:
    """The first, the last, and as many between them, evenly spaced, as are drawn."""
    if len(values) <= _POINTS:
        return list(values)
    return [values[round(n * (len(values) - 1) / (_POINTS - 1))] for n in range(_POINTS)]


def _shorten(name: str) -> str:
    return name.removeprefix("curriculum.").removeprefix("entropy_threshold.")


def _plain(value: Any) -> float | str:
    """A setting as a number or a word."""
    if isinstance(value, list):
        return " ".join(f"{one:.3g}" if isinstance(one, float) else str(one) for one in value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
