"""Each figure is written when it has something to show, and shows it."""

from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from search.results.figures import VERDICT_STYLES, draw_rebound, draw_verdict, write_figures
from search.results.model_result import ModelResult, select_curves
from search.space import Space
from search.studies.verdict import Verdict
from tests.search.fed import ARMS, EFFECTS, curve, fed, space

NEVER_STOPPED = {"early_stopping": {"pruner": "none", "patience": None}}


def points(figure: Figure, marker: str) -> list[tuple[float, float]]:
    """What the first panel shows with a marker."""
    lines = [line for line in figure.axes[0].lines if line.get_marker() == marker]
    return [(float(x), float(y)) for line in lines for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


@pytest.fixture
def confirmed(tmp_path: Path) -> tuple[Space, ModelResult]:
    asked = space(arms=ARMS)
    return asked, fed(tmp_path, asked)


def test_the_rebound_has_a_curve_for_each_trial_and_a_name_for_each_arm(tmp_path: Path) -> None:
    asked = space(confirmation=None, **NEVER_STOPPED)
    result = fed(tmp_path, asked)
    panel = draw_rebound([result]).axes[0]
    assert len(panel.lines) == 8 + 2
    assert all(len(line.get_xdata()) == 8 for line in panel.lines)
    best = result.searched.best()
    assert best is not None
    shape = result.searched.parameters(best)["curriculum"]["shape"]
    labels = ["trials", "no dropout", f"entrodrop, trial {best.number} ({shape})"]
    assert panel.get_legend_handles_labels()[1] == labels
    assert panel.get_ylabel() == "held-out high-entropy loss (nats)"


def test_a_confirmed_arm_is_shown_with_all_its_seeds(confirmed: tuple[Space, ModelResult]) -> None:
    asked, result = confirmed
    assert asked.confirmation is not None
    shown = select_curves(result)
    names = [setting.label.partition(",")[0] for setting in shown]
    assert names == ["no dropout", "entrodrop", "weight-decay", "random-tokens"]
    for arm, setting in zip(result.searched.arms, shown, strict=True):
        assert setting.study == "builtin/nano/confirmation"
        assert [run.user_attrs["arm"] for run in setting.runs] == [arm] * asked.confirmation.seeds


def test_the_verdict_tells_arms_apart_by_their_markers(confirmed: tuple[Space, ModelResult]) -> None:
    asked, result = confirmed
    figure = draw_verdict([result], asked)
    assert figure is not None
    panel = figure.axes[0]
    assert figure.get_suptitle().startswith("high-entropy test loss against no dropout\nat the best evaluation, 95%")
    assert [label.get_text() for label in panel.get_yticklabels()] == ["entrodrop", "weight-decay", "random-tokens"]
    # Better, not decided, worse.
    for row, marker in enumerate("oDX"):
        ((mean, height),) = points(figure, marker)
        assert height == row
        assert mean == pytest.approx([-0.3, 0.0, 0.4][row], abs=0.1)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        verdict.words for verdict in VERDICT_STYLES if verdict != Verdict.EQUAL
    ]


def test_long_names_are_whole_or_shortened_and_never_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "random-tokens-" + "x" * 80
    monkeypatch.setitem(EFFECTS, name, 0.1)
    asked = space(arms=[*ARMS[:2], {"name": name, "schedule": {"tokens": "random"}}])
    model = "hub:owner/a-model-with-" + "y" * 60
    result = fed(tmp_path, asked, model)
    for figure in (draw_rebound([result] * 2), draw_verdict([result], asked)):
        assert figure is not None
        FigureCanvasAgg(figure).draw()
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert drawn.x0 >= 0
        assert drawn.y0 >= 0
        assert drawn.x1 <= width
        assert drawn.y1 <= height
        # The names leave most of a panel's width to what it shows.
        assert figure.axes[0].get_window_extent().width > 0.25 * figure.bbox.width


def test_what_has_nothing_to_show_is_not_written(tmp_path: Path) -> None:
    asked = space(budget={"trials": 2, "epochs": 8})
    written = write_figures(tmp_path, asked, [fed(tmp_path, asked, confirm=False)])
    assert written == [tmp_path / "rebound.png"]
    assert list(tmp_path.glob("*.png")) == written


@pytest.mark.faults
def test_both_figures_are_written_whole(tmp_path: Path) -> None:
    asked = space(models=["builtin/nano", "builtin/micro"], arms=ARMS, **NEVER_STOPPED)
    written = write_figures(tmp_path, asked, [fed(tmp_path, asked, model) for model in asked.models])
    names = ["rebound.png", "verdict.png"]
    assert [path.name for path in written] == names
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000
    assert {path.name for path in tmp_path.iterdir()} == {*names, "study.journal"}


def test_many_models_stand_in_rows_and_long_names_are_cut(tmp_path: Path) -> None:
    asked = space(confirmation=None)
    result = fed(tmp_path, asked, "/somewhere/with/a/very/long/name/of/a/folder/model", losses=curve)
    figure = draw_rebound([result] * 4)
    assert len({round(panel.get_subplotspec().get_position(figure).y0, 3) for panel in figure.axes}) == 2
    assert all(len(panel.get_title()) == 32 for panel in figure.axes)
    assert figure.get_figwidth() == pytest.approx(3 * 5.2)
