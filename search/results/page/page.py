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
from search.studies.study import describe_reason
from search.studies.verdict import Verdict
from trainables.storage.files import write_atomic


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


@dataclass(frozen=True)
class _Part:
    """What the page shows of one search."""

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
    environment.filters["number"] = _format_number
    template = environment.get_template("report.html.j2")
    names = ", ".join(search.space.name for search in searches)
    text = template.render(
        title=names, parts=[_build_part(s) for s in searches], plotly_js=plotly.offline.get_plotlyjs()
    )
    write_atomic(path, text)


def _build_part(search: LoadedSearch) -> _Part:
    results, space = search.results, search.space
    shown = [
        plots.plot_verdicts(results, space),
        plots.plot_curricula(results),
        plots.plot_trend(search.summary["trend"]),
    ]
    return _Part(
        search,
        [_build_section(search, result) for result in results],
        [plot for plot in shown if plot is not None],
        (search.folder / RESOLVED).read_text(encoding="utf-8"),
    )


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
    )


def _list_failures(entry: dict[str, Any]) -> list[tuple[str, str]]:
    confirming = entry.get("confirmation", {}).get("failures", {})
    return [
        *((f"trial {number}", describe_reason(reason)) for number, reason in entry["failures"].items()),
        *((f"confirmation, run {number}", describe_reason(reason)) for number, reason in confirming.items()),
    ]


def _format_number(value: object) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        value = int(value)
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"
