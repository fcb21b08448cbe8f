"""Each plot of the report is there when it has something to show, and shows it."""

from pathlib import Path
from typing import Any

import pytest
from plotly.offline import get_plotlyjs_version

from search.results.figures import VERDICT_STYLES
from search.results.page.plots import (
    Plot,
    plot_curricula,
    plot_front,
    plot_history,
    plot_rungs,
    plot_slices,
    plot_trend,
    plot_verdicts,
)
from search.results.page.styles import STYLES
from search.results.size_trend import fit_size_trend
from search.results.summary import summarize
from search.studies.verdict import Verdict
from tests import ROOT
from tests.search.fed import ARMS, fed, space

SIZES = [(1_000_000, 0.4), (5_000_000, 0.5), (16_000_000, 0.55)]
NEVER_STOPPED = {"early_stopping": {"pruner": "none", "patience": None}, "confirmation": None}


def fit(*sizes: tuple[int, float]) -> dict[str, Any] | None:
    return fit_size_trend([(count, {"mask_ratio": ratio, "learning_rate": 1e-3}) for count, ratio in sizes])


def points(plot: Plot | None, name: str) -> list[tuple[float, float]]:
    """What the first panel shows under a name."""
    assert plot is not None
    trace = next(trace for trace in plot.figure.data if trace.name == name)
    return list(zip(trace.x, trace.y, strict=True))


def test_the_trend_extrapolates_from_three_sizes_on() -> None:
    plot = plot_trend(fit(*SIZES))
    assert plot is not None
    assert [annotation.text for annotation in plot.figure.layout.annotations] == ["mask_ratio", "learning_rate"]
    assert plot.figure.layout.xaxis.type == "log"
    assert points(plot, "searched") == SIZES
    ((size, value),) = points(plot, "extrapolated")
    (row,) = [row for row in plot.rows if row[0] == "mask_ratio" and str(row[3]).startswith("extrapolated, 95%")]
    assert row[1:3] == [f"{size:,}", value]
    low, high = plot.figure.layout.yaxis.range
    assert low < 0.4 < value < high < 1
    two = plot_trend(fit(*SIZES[:2]))
    assert points(two, "searched") == SIZES[:2]
    assert two is not None
    assert {trace.name for trace in two.figure.data} == {"searched"}


def test_the_front_steps_through_its_trials(tmp_path: Path) -> None:
    asked = space(objectives=["high_entropy_loss", "low_entropy_loss"], **NEVER_STOPPED)
    result = fed(tmp_path, asked)
    study, plot = result.searched, plot_front(result, asked)
    assert len(points(plot, "trials")) == 8
    front = points(plot, "front")
    assert front == [tuple(study.values(trial)) for trial in study.pareto_front()]
    assert len(front) > 1
    baseline = study.baseline()
    assert baseline is not None
    assert points(plot, "no dropout") == [tuple(study.values(baseline))]
    assert plot is not None
    trace = plot.figure.data[1]
    assert (trace.mode, trace.line.shape) == ("lines+markers", "hv")


def test_rungs_are_shown_with_their_correlation(tmp_path: Path) -> None:
    asked = space(**NEVER_STOPPED)
    result = fed(tmp_path, asked)
    summary = summarize([result], asked, {result.model: None}, {}, lambda study, number: None)
    plot = plot_rungs(summary["models"][result.model])
    # The curves do not cross.
    assert points(plot, "rank correlation") == [(200, pytest.approx(1.0)), (400, pytest.approx(1.0))]
    assert plot is not None
    assert "1.00 at the first, of 8 trials that ran to the end" in plot.caption


def test_trials_that_ran_on_are_counted(tmp_path: Path) -> None:
    asked = space(**NEVER_STOPPED)
    result = fed(tmp_path, asked)
    entry = summarize([result], asked, {result.model: None}, {}, lambda study, number: None)["models"][result.model]
    for audited, words in ((1, "1 trial that ran on although it was"), (2, "2 trials that ran on although they were")):
        plot = plot_rungs(entry | {"audit": entry["audit"] | {"audited": audited, "wrong": 0}})
        assert plot is not None
        assert f"Of {words} to be stopped, 0 would have won." in plot.caption


def test_the_points_of_a_setting_have_the_colours_of_their_trials(tmp_path: Path) -> None:
    asked = space(arms=ARMS, **NEVER_STOPPED)
    # Every trial has a loss of its own.
    result = fed(tmp_path, asked, losses=lambda candidate: [5.0 + candidate.number * 7 % 32 / 100] * 8)
    plot = next(plot for plot in plot_slices(result) if plot.title == "Settings: entrodrop")
    numbers = {row[-1]: row[0] for row in plot.rows}
    assert len(numbers) == len(plot.rows) > 5
    for trace in plot.figure.data:
        assert list(trace.marker.color) == [numbers[y] for y in trace.y]
    (shapes,) = [trace for trace in plot.figure.data if isinstance(trace.x[0], str)]
    of_trials = {row[0]: row[plot.columns.index("shape")] for row in plot.rows}
    assert [of_trials[number] for number in shapes.marker.color] == list(shapes.x)
    (axis,) = [axis for axis in plot.figure.select_xaxes() if axis.categoryarray is not None]
    assert set(shapes.x) <= set(axis.categoryarray)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ("low_entropy", "% of the tokens below quantile 0."),
        ("high_entropy", "% of those of the highest entropies, as many as the tokens below quantile 0."),
        ("random", "up to as many tokens of any entropy as are "),
    ],
)
def test_the_best_curriculum_tells_which_tokens_are_dropped(tmp_path: Path, tokens: str, words: str) -> None:
    asked = space(arms=[*ARMS[:2], {"name": "control", "schedule": {"tokens": tokens}}], **NEVER_STOPPED)
    result = fed(tmp_path, asked, losses=lambda candidate: [5.0 - (candidate.arm == "control")] * 8)
    plot = plot_curricula([result])
    assert plot is not None
    assert words in plot.caption
    assert plot.rows[0][-1] == tokens
    (line,) = plot.figure.data
    # As the arm has it in all pictures.
    assert (line.line.color, line.line.dash) == STYLES[2][:2]


def test_the_lowest_trial_may_be_the_baseline(tmp_path: Path) -> None:
    asked = space(**NEVER_STOPPED)
    result = fed(tmp_path, asked, losses=lambda candidate: [5.0 + (candidate.arm != "none")] * 8)
    plot = plot_history(result)
    assert plot is not None
    assert plot.caption == "8 trials by their objective; the lowest is 5.0000, of trial 0 (no dropout)."


def test_verdicts_differ_by_their_symbols(tmp_path: Path) -> None:
    asked = space(arms=ARMS)
    plot = plot_verdicts([fed(tmp_path, asked)], asked)
    assert plot is not None
    assert [trace.name for trace in plot.figure.data] == [v.words for v in VERDICT_STYLES if v != Verdict.EQUAL]
    assert len({trace.marker.symbol for trace in plot.figure.data}) == len(VERDICT_STYLES) - 1
    assert [row[1] for row in plot.rows] == ["entrodrop", "weight-decay", "random-tokens"]


def test_plotly_js_is_of_the_version_that_the_figures_are_for() -> None:
    text = (ROOT / "search/results/page/vendored/plotly-basic.min.js").read_text(encoding="utf-8")
    assert f"plotly.js (basic - minified) v{get_plotlyjs_version().partition('.')[0]}." in text[:200]


def test_what_has_nothing_to_show_is_left_out(tmp_path: Path) -> None:
    asked = space(budget={"trials": 2, "epochs": 8})
    result = fed(tmp_path, asked, confirm=False)
    summary = summarize([result], asked, {result.model: None}, {}, lambda study, number: None)
    assert plot_verdicts([result], asked) is None
    assert plot_front(result, asked) is None
    assert plot_rungs(summary["models"][result.model]) is None
    assert plot_trend(None) is None
    assert plot_trend(fit_size_trend([(1, {}), (2, {"mask_ratio": 0.5})])) is None
