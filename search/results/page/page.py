"""One HTML file that shows one search, or several side by side, and asks no server for anything."""

import base64
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from search.output.folder import RESOLVED
from search.results.archive import LoadedSearch
from search.results.costs import describe_costs
from search.results.files import describe_result
from search.results.model_result import ModelResult, label_arm, verdict_of
from search.results.page import plots
from search.results.page.beside import Beside, set_beside
from search.results.page.plots import Plot
from search.results.page.rendering import make_environment
from search.results.page.styles import MEASURES
from search.results.page.trials import tabulate
from search.space import EXACT, Space
from search.studies.study import describe_reason
from search.studies.verdict import Verdict
from trainables.config.command_line import invocation
from trainables.config.data import FilesData, HubData
from trainables.storage.files import is_url, write_atomic

# Of plotly.js the part with bars and points; the Python package has only all of it, 4.8 MB. It comes from npm:
# `npm pack plotly.js-basic-dist-min@VERSION`, of the version that plotly.offline.get_plotlyjs_version() tells.
_PLOTLY = files("search.results.page") / "vendored" / "plotly-basic.min.js"
# The search's own pictures, and their colours in the report.
_PICTURES = {
    "rebound.png": "Held-out high-entropy loss by tokens, without dropout and with the chosen schedule",
    "verdict.png": "Each arm against no dropout, with its interval",
}
_COLOURS = 48
_POINTS = {
    "best": "at the best evaluation (the checkpoint one would keep)",
    "final": "at the end",
    "mean": "on average over all evaluations",
}


@dataclass(frozen=True)
class _Section:
    """What the page shows of one model."""

    model: str
    verdict: Verdict | None
    verdict_words: str
    words: str
    cost: str
    failures: list[tuple[str, str]]
    steps: list[dict[str, str]]
    plots: list[Plot]
    documents: dict[str, Any] | None


@dataclass(frozen=True)
class _Part:
    """What the page shows of one search."""

    label: str
    search: LoadedSearch
    question: str
    sections: list[_Section]
    plots: list[Plot]
    resolved: str
    again: str
    pictures: dict[str, str]


def write_page(path: Path, searches: Sequence[LoadedSearch]) -> None:
    """Writes the report of these searches to `path`, whole or not at all."""
    write_atomic(path, render_page(searches))


def render_page(searches: Sequence[LoadedSearch]) -> str:
    """The report of these searches."""
    labelled = _label(searches)
    beside: Beside | None = set_beside(labelled) if len(searches) > 1 else None
    template = make_environment().get_template("report.html.j2")
    return template.render(
        title=", ".join(dict.fromkeys(search.space.name for search in searches)),
        parts=[_build_part(label, search) for label, search in labelled.items()],
        beside=beside,
        table=tabulate(labelled),
        plotly_js=Markup(_PLOTLY.read_text(encoding="utf-8")),
    )


def _label(searches: Sequence[LoadedSearch]) -> dict[str, LoadedSearch]:
    """The searches by their names; by a number as well, where two have one name."""
    names = [search.space.name for search in searches]
    return {
        name if names.count(name) == 1 else f"{name} ({number})": search
        for number, (name, search) in enumerate(zip(names, searches, strict=True), 1)
    }


def _build_part(label: str, search: LoadedSearch) -> _Part:
    results, space = search.results, search.space
    # One that lies at a URL is to be saved first.
    space_file = RESOLVED if is_url(search.named) else f"{search.named}/{RESOLVED}"
    shown = [
        plots.plot_verdicts(results, space),
        plots.plot_curricula(results),
        plots.plot_trend(search.summary["trend"]),
    ]
    return _Part(
        label,
        search,
        ask_question(space),
        [_build_section(search, result) for result in results],
        [plot for plot in shown if plot is not None],
        (search.folder / RESOLVED).read_text(encoding="utf-8"),
        f"{invocation('search.run')} {shlex.quote(space_file)} --output runs/again",
        _embed_pictures(search.folder),
    )


def _embed_pictures(folder: Path) -> dict[str, str]:
    """What is seen without JavaScript: the search's own pictures, in few colours, as URLs that hold them; by what they
    show."""
    embedded = {}
    for name, words in _PICTURES.items():
        if not (path := folder / name).is_file():
            continue
        small = io.BytesIO()
        with Image.open(path) as picture:
            picture.convert("RGB").quantize(_COLOURS).save(small, "PNG", optimize=True)
        embedded[words] = f"data:image/png;base64,{base64.b64encode(small.getvalue()).decode()}"
    return embedded


def ask_question(space: Space) -> str:
    """What a search is to find out, in a sentence."""
    data, budget = space.data, space.budget
    if isinstance(data, FilesData):
        source = ", ".join(Path(one).name for one in data.paths())
    else:
        source = data.path if isinstance(data, HubData) else f"{data.source} {data.task}"
    arms = "" if space.arms is None else f" among the arms {', '.join(label_arm(arm.name) for arm in space.arms)}"
    limits = {"tokens": budget.tokens, "hours": budget.hours, "device hours": budget.device_hours}
    spent = [f"at most {value:,g} {words}" for words, value in limits.items() if value is not None]
    losses = _join([MEASURES[objective] for objective in space.objectives])
    sought = (
        f"the least held-out {losses}" if space.measure != EXACT else "the most right answers to held-out questions"
    )
    return (
        f"Which schedule{arms} gives {sought} {_POINTS[space.evaluation_that_counts]} of {budget.epochs} epochs "
        f"on {data.train:,} training documents ({source}), for {_join(space.models)}? Budget of each model"
        f"{' and arm' if arms else ''}: {', '.join([f'{budget.trials} full trials', *spent])}."
    )


def _join(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _build_section(search: LoadedSearch, result: ModelResult) -> _Section:
    entry, space = search.summary["models"][result.model], search.space
    shown = [
        plots.plot_rebound(result, search.evaluations),
        plots.plot_history(result),
        plots.plot_importances(result, entry),
        *plots.plot_slices(result),
        plots.plot_rungs(entry),
        plots.plot_front(result, space),
    ]
    verdict, words = verdict_of(result, space), describe_result(result, space)
    return _Section(
        result.model,
        verdict,
        verdict.words if verdict is not None else "not confirmed",
        words[0].upper() + words[1:],
        describe_costs(entry),
        _list_failures(entry),
        entry.get("next", []),
        [plot for plot in shown if plot is not None],
        entry.get("documents"),
    )


def _list_failures(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    confirming = entry.get("confirmation", {}).get("failures", {})
    return [
        *((f"trial {number}", describe_reason(reason)) for number, reason in entry["failures"].items()),
        *((f"confirmation, run {number}", describe_reason(reason)) for number, reason in confirming.items()),
    ]
