"""rebound.png and verdict.png: what came of a search, and how sure that is. The report has these and all else."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from optuna.trial import FrozenTrial, TrialState

from search.results.model_result import ModelResult, better_side, collect_differences, select_curves
from search.space import Space
from search.studies.comparison import LABELS, point_of
from search.studies.verdict import Verdict
from trainables.figures import COLOURS, GREY, draw_legend, make_panels, shorten, write_png

# Verdicts differ by colour, and by shape without it. The shapes have their names from Plotly.
VERDICT_STYLES = {
    Verdict.BETTER: (COLOURS[1], "circle"),
    Verdict.WORSE: (COLOURS[0], "x"),
    Verdict.EQUAL: (GREY, "square"),
    Verdict.UNDECIDED: (GREY, "diamond"),
}
# Characters beside a panel.
_LONGEST_LABEL = 24
_MARKERS = {"circle": "o", "diamond": "D", "square": "s", "x": "X"}


def write_figures(output: Path, space: Space, results: Sequence[ModelResult]) -> list[Path]:
    """Writes the figures that have something to show. Returns their paths."""
    figures = {"rebound.png": draw_rebound(results), "verdict.png": draw_verdict(results, space)}
    written = []
    for name, figure in figures.items():
        if figure is not None:
            write_png(output / name, figure)
            written.append(output / name)
    return written


def draw_rebound(results: Sequence[ModelResult]) -> Figure:
    """Held-out high-entropy loss by tokens, one panel for each model: the runs of each arm's chosen setting in colour,
    the trials of the search in grey."""
    figure, panels = make_panels([result.model for result in results])
    for panel, result in zip(panels, results, strict=True):
        for number, trial in enumerate(result.searched.trials(TrialState.COMPLETE, TrialState.PRUNED)):
            _draw_run(panel, trial, "0.85", 0.8, "trials" if number == 0 else None)
        for colour, curve in zip(cycle(COLOURS), select_curves(result), strict=False):
            for number, run in enumerate(curve.runs):
                _draw_run(panel, run, colour, 1.5, curve.label if number == 0 else None)
        panel.set(xlabel="tokens trained on", ylabel="held-out high-entropy loss (nats)")
        panel.xaxis.set_major_formatter(_format_count)
        if panel.lines:
            draw_legend(panel)
    return figure


def draw_verdict(results: Sequence[ModelResult], space: Space) -> Figure | None:
    """The confirmation: each arm's difference to no dropout with its interval; None without any."""
    differences = collect_differences(results, space)
    if not differences or space.confirmation is None:
        return None
    most = max(len(by_arm) for by_arm in differences.values())
    figure, panels = make_panels(list(differences), height=1.8 + 0.45 * most)
    styles = {verdict: (colour, _MARKERS[symbol]) for verdict, (colour, symbol) in VERDICT_STYLES.items()}
    for panel, by_arm in zip(panels, differences.values(), strict=True):
        panel.axvline(0, color="0.2", linewidth=0.8)
        for row, difference in enumerate(by_arm.values()):
            colour, marker = styles[difference.verdict]
            panel.plot([difference.low, difference.high], [row, row], color=colour, linewidth=1.8)
            panel.plot([difference.mean], [row], color=colour, marker=marker, markersize=8)
        panel.set_yticks(range(len(by_arm)), [shorten(arm, _LONGEST_LABEL) for arm in by_arm])
        panel.set_ylim(len(by_arm) - 0.5, -0.5)
        panel.set_xlabel(better_side(space))
        panel.locator_params(axis="x", nbins=5)
    point = "the best evaluation" if point_of(space) == "best" else "the end"
    # In lines that a single panel is wide enough for.
    figure.suptitle(
        f"{LABELS[space.measure]} against no dropout\nat {point}, {space.confirmation.confidence:.0%} intervals",
        fontsize="medium",
    )
    present = {difference.verdict for by_arm in differences.values() for difference in by_arm.values()}
    shapes = [
        Line2D([], [], color=colour, marker=marker, markersize=8, linewidth=1.8, label=verdict.words)
        for verdict, (colour, marker) in styles.items()
        if verdict in present
    ]
    figure.legend(handles=shapes, loc="outside lower center", ncols=len(shapes), frameon=False)
    return figure


def _draw_run(panel: Any, run: FrozenTrial, colour: str, width: float, label: str | None) -> None:
    points = sorted(run.intermediate_values.items())
    panel.plot([t for t, _ in points], [v for _, v in points], color=colour, linewidth=width, label=label)


def _format_count(number: float, _: object) -> str:
    """12,345,678 as "12.3 M"."""
    for unit, name in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= 0.9995 * unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.3g}"
