"""One HTML file that shows one search, or several side by side, and asks no server for anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.offline
from jinja2 import Environment, PackageLoader, StrictUndefined

from search.output.folder import RESOLVED
from search.results.archive import LoadedSearch
from search.results.costs import describe_costs
from search.results.files import describe_result
from search.results.model_result import ModelResult, verdict_of
from search.results.page import plots
from search.results.page.plots import Plot
from search.studies.bootstrap import Verdict
from search.studies.study import describe_reason
from trainables.storage.files import write_atomic


@dataclass(frozen=True)
class _Section:
    """What the page tells of one model size."""

    model: str
    verdict: Verdict | None
    verdict_words: str
    words: str
    cost: str
    failures: list[tuple[str, str]]
    schedule: str | None
    plots: list[Plot]


@dataclass(frozen=True)
class _Part:
    """What the page tells of one search."""

    search: LoadedSearch
    sections: list[_Section]
    plots: list[Plot]
    resolved: str

    @property
    def name(self) -> str:
        return self.search.space.name


def write_page(path: Path, searches: Sequence[LoadedSearch]) -> None:
    """Writes the report of these searches to `path`, whole or not at all."""
    environment = Environment(loader=PackageLoader("search.results.page"), autoescape=True, undefined=StrictUndefined)
    environment.filters["number"] = _number
    template = environment.get_template("report.html.j2")
    names = ", ".join(search.space.name for search in searches)
    text = template.render(title=names, parts=[_part(s) for s in searches], plotly_js=plotly.offline.get_plotlyjs())
    write_atomic(path, text)


def _part(search: LoadedSearch) -> _Part:
    sizes, space = search.sizes, search.space
    overall = [plots.verdicts(sizes, space), plots.curricula(sizes), plots.trend(search.summary["trend"])]
    return _Part(
        search,
        [_section(search, size) for size in sizes],
        [plot for plot in overall if plot is not None],
        (search.folder / RESOLVED).read_text(encoding="utf-8"),
    )


def _section(search: LoadedSearch, size: ModelResult) -> _Section:
    entry, space = search.summary["models"][size.model], search.space
    drawn = [
        plots.rebound(size, search.evaluations),
        plots.history(size),
        plots.importances(size, entry),
        *plots.slices(size),
        plots.rungs(entry),
        plots.front(size, space),
    ]
    verdict, words = verdict_of(size, space), describe_result(size, space)
    schedule = search.folder / f"best_schedule.{size.searched.slug}.yaml"
    return _Section(
        size.model,
        verdict,
        verdict.words if verdict is not None else "not confirmed",
        words[0].upper() + words[1:],
        describe_costs(entry),
        _failures(entry),
        str(schedule) if search.finished and schedule.is_file() else None,
        [plot for plot in drawn if plot is not None],
    )


def _failures(entry: dict[str, Any]) -> list[tuple[str, str]]:
    confirming = entry.get("confirmation", {}).get("failures", {})
    return [
        *((f"trial {number}", describe_reason(reason)) for number, reason in entry["failures"].items()),
        *((f"confirmation, run {number}", describe_reason(reason)) for number, reason in confirming.items()),
    ]


def _number(value: object) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"
