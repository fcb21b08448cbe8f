"""Each picture is there when it has something to show, and shows it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from search.results.figures import (
    VERDICTS,
    draw_front,
    draw_rebound,
    draw_rungs,
    draw_trend,
    draw_verdict,
    write_figures,
)
from search.results.model_result import ModelResult
from search.results.size_trend import fit_size_trend
from search.space import Space
from search.studies.bootstrap import Verdict
from tests.search.fed import ARMS, curve, fed, space

SIZES = [(1_000_000, 0.4), (5_000_000, 0.5), (16_000_000, 0.55)]
NEVER_STOPPED = {"early_stopping": {"pruner": "none"}}


def best(*sizes: tuple[int, float]) -> dict[str, Any] | None:
    return fit_size_trend([(count, {"mask_ratio": ratio, "learning_rate": 1e-3}) for count, ratio in sizes])


def points(figure: Figure, marker: str, panel: int = 0) -> list[tuple[float, float]]:
    """What is drawn with a marker."""
    lines = [line for line in figure.axes[panel].lines if line.get_marker() == marker]
    return [(float(x), float(y)) for line in lines for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


@pytest.fixture
def confirmed(tmp_path: Path) -> tuple[Space, ModelResult]:
    asked = space(arms=ARMS)
    return asked, fed(tmp_path, asked)


def test_the_rebound_has_a_curve_for_each_trial_and_a_name_for_each_arm(tmp_path: Path) -> None:
    asked = space(confirmation=None, **NEVER_STOPPED)
    panel = draw_rebound([fed(tmp_path, asked)]).axes[0]
    assert len(panel.lines) == 8 + 2
    assert all(len(line.get_xdata()) == 8 for line in panel.lines)
    assert panel.get_legend_handles_labels()[1][:2] == ["trials", "no dropout"]
    assert panel.get_ylabel() == "held-out high-entropy loss (nats)"


def test_the_verdict_tells_arms_apart_by_their_markers(confirmed: tuple[Space, ModelResult]) -> None:
    asked, size = confirmed
    figure = draw_verdict([size], asked)
    assert figure is not None
    panel = figure.axes[0]
    assert panel.get_xlabel() == "high-entropy test loss against no dropout (nats)"
    assert [label.get_text() for label in panel.get_yticklabels()] == ["entrodrop", "weight-decay", "random-tokens"]
    for row, verdict in enumerate([Verdict.BETTER, Verdict.NO_DIFFERENCE, Verdict.WORSE]):
        ((mean, height),) = points(figure, VERDICTS[verdict][1])
        assert height == row
        assert mean == pytest.approx([-0.3, 0.0, 0.4][row], abs=0.1)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [verdict.value for verdict in Verdict]
    assert len({marker for _, marker in VERDICTS.values()}) == len(VERDICTS) == len(Verdict)


def test_the_trend_extrapolates_from_three_sizes_on() -> None:
    figure = draw_trend(best(*SIZES))
    assert figure is not None
    assert [panel.get_title() for panel in figure.axes] == ["mask_ratio", "learning_rate"]
    panel = figure.axes[0]
    assert panel.get_xscale() == "log"
    assert points(figure, "o")[:3] == [(float(count), ratio) for count, ratio in SIZES]
    (interval,) = [line for line in panel.lines if line.get_linestyle() == "--"]
    assert interval.get_label().startswith("extrapolated")  # type: ignore[union-attr]
    two = draw_trend(best(*SIZES[:2]))
    assert two is not None
    assert points(two, "o") == [(float(count), ratio) for count, ratio in SIZES[:2]]


def test_the_front_steps_through_its_trials(tmp_path: Path) -> None:
    asked = space(objectives=["high_entropy_loss", "low_entropy_loss"], confirmation=None, **NEVER_STOPPED)
    size = fed(tmp_path, asked)
    figure = draw_front([size], asked)
    assert figure is not None
    assert len(points(figure, "o")) == 8
    front = points(figure, "D")
    assert front == [tuple(size.searched.values(trial)) for trial in size.searched.pareto_front()]
    assert len(front) > 1
    (line,) = [line for line in figure.axes[0].lines if line.get_marker() == "D"]
    assert (line.get_drawstyle(), line.get_linestyle()) == ("steps-post", "-")


def test_rungs_are_drawn_with_their_correlation(tmp_path: Path) -> None:
    asked = space(confirmation=None, **NEVER_STOPPED)
    figure = draw_rungs([fed(tmp_path, asked)], asked)
    assert figure is not None
    panel = figure.axes[0]
    # The curves do not cross.
    assert points(figure, "o") == [(200.0, pytest.approx(1.0)), (400.0, pytest.approx(1.0))]
    assert panel.get_ylim()[0] <= -1 < 1 <= panel.get_ylim()[1]
    assert "n = 8" in panel.get_legend_handles_labels()[1][0]


def test_what_has_nothing_to_show_is_not_written(tmp_path: Path) -> None:
    asked = space(budget={"trials": 2, "epochs": 8})
    size = fed(tmp_path, asked, confirm=False)
    written = write_figures(tmp_path, asked, [size], best(SIZES[0]))
    assert written == [tmp_path / "rebound.png"]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["rebound.png"]
    assert draw_trend(None) is None
    assert draw_trend(fit_size_trend([(1, {}), (2, {"mask_ratio": 0.5})])) is None
    assert draw_front([size], asked) is None


@pytest.mark.faults
def test_all_pictures_are_written_whole(tmp_path: Path) -> None:
    objectives = ["high_entropy_loss", "low_entropy_loss"]
    asked = space(models=["builtin/nano", "builtin/micro"], arms=ARMS, objectives=objectives, **NEVER_STOPPED)
    sizes = [fed(tmp_path, asked, model) for model in asked.models]
    written = write_figures(tmp_path, asked, sizes, best(*SIZES))
    names = ["rebound.png", "verdict.png", "trend.png", "front.png", "rungs.png"]
    assert [path.name for path in written] == names
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000
    assert {path.name for path in tmp_path.iterdir()} == {*names, "study.journal"}


def test_many_sizes_stand_in_rows_and_long_names_are_cut(tmp_path: Path) -> None:
    asked = space(confirmation=None)
    size = fed(tmp_path, asked, "/somewhere/with/a/very/long/name/of/a/folder/model", losses=curve)
    figure = draw_rebound([size] * 4)
    assert len({round(panel.get_subplotspec().get_position(figure).y0, 3) for panel in figure.axes}) == 2
    assert all(len(panel.get_title()) == 40 for panel in figure.axes)
    assert np.isclose(figure.get_figwidth(), 3 * 5.2)
