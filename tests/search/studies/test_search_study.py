from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from search.arms import BASELINE, ENTRODROP, curriculum_name, flatten
from search.results.files import format_best_schedule, write_results
from search.results.model_result import ModelResult
from search.space import Space, load
from search.studies.arm_spaces import REGULARIZED
from search.studies.pruners import LOSING, PLATEAU
from search.studies.search_study import SearchStudy
from search.studies.storage import open_journal
from search.studies.study import objective_value
from tests import ROOT
from trainables.config.recipe import load_recipe
from trainables.config.to_settings import settings_of
from trainables.settings import Lora
from trainables.token_weight import Eaft

MODEL = "builtin/nano"
MATH = ROOT / "spaces" / "math.yaml"


def space(**changes: Any) -> Space:
    data = {"source": "builtin", "task": "word_problems", "train": 4, "validation": 4, "test": 6}
    common = {"models": [MODEL], "data": data, "budget": {"trials": 8, "epochs": 8}, "early_stopping": {"audit": 0.0}}
    return Space.model_validate(common | changes)


def study(folder: Path, **changes: Any) -> SearchStudy:
    opened = SearchStudy(open_journal(folder / "study.journal"), MODEL, space(**changes))
    opened.set_full_tokens(800)
    return opened


def run(opened: SearchStudy, number: int, losses: list[float]) -> str:
    """Reports `losses`, an epoch each, as long as the study lets the trial go on."""
    done = len(opened.losses(number))
    for epoch, loss in enumerate(losses[done:], done + 1):
        if reason := opened.report(number, {"tokens": 100 * epoch, "high_entropy_loss": loss}):
            opened.tell(number, TrialState.PRUNED, reason)
            return reason
    opened.tell(number, TrialState.COMPLETE)
    return "complete"


def curve(best: float, end: float) -> list[float]:
    """Falls for three epochs, then rebounds for five."""
    return [best + 0.2, best + 0.1, best, *(best + (end - best) * i / 5 for i in range(1, 6))]


def test_the_first_two_trials_are_the_baseline_and_a_middling_sigmoid(tmp_path: Path) -> None:
    opened = study(tmp_path)
    first, second = opened.ask(), opened.ask()
    assert first is not None
    assert second is not None
    assert (first.number, first.arm, first.settings.entrodrop) == (0, BASELINE, None)
    assert (second.number, second.arm) == (1, ENTRODROP)
    assert second.parameters["curriculum"]["shape"] == "sigmoid"
    assert second.parameters["curriculum"]["midpoint"] == pytest.approx(0.45)
    assert second.parameters["curriculum"]["steepness"] == 10.95
    assert second.parameters["mask_ratio"] == pytest.approx(0.5)


def test_parameters_belong_to_their_shape(tmp_path: Path) -> None:
    own = {"constant": set(), "linear": set(), "cosine": set(), "sigmoid": {"midpoint", "steepness"}, "step": {"at"}}
    opened = study(tmp_path, budget={"trials": 30, "epochs": 8}, sampler={"name": "random"})
    seen = set()
    while (candidate := opened.ask()) is not None:
        run(opened, candidate.number, curve(5.0, 6.0))
        if candidate.arm == ENTRODROP:
            curriculum = dict(candidate.parameters["curriculum"])
            shape = curriculum.pop("shape")
            assert set(curriculum) == own[shape]
            seen.add(shape)
    assert seen == set(own)


def test_states_are_true(tmp_path: Path) -> None:
    opened = study(tmp_path, early_stopping={"pruner": "rungs", "patience": 8, "audit": 0.0})
    assert run(opened, opened.ask().number, curve(5.0, 5.4)) == "complete"  # type: ignore[union-attr]
    assert run(opened, opened.ask().number, curve(5.0, 5.2)) == "complete"  # type: ignore[union-attr]
    assert run(opened, opened.ask().number, curve(5.5, 6.5)) == LOSING  # type: ignore[union-attr]
    failed = opened.ask()
    assert failed is not None
    opened.report(failed.number, {"tokens": 100, "high_entropy_loss": 5.3})
    opened.tell(failed.number, TrialState.FAIL, "nan")
    complete, pruned, fail = (opened.trials(s) for s in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    assert [t.number for t in complete] == [0, 1]
    assert [t.number for t in pruned] == [2]
    assert [t.user_attrs["reason"] for t in fail] == ["nan"]
    assert pruned[0].user_attrs["reason"] == LOSING == "losing"
    assert 2 <= len(pruned[0].intermediate_values) < 8
    assert opened.best().number == 1  # type: ignore[union-attr]
    assert opened.baseline().value == pytest.approx(5.0)  # type: ignore[union-attr]


def test_the_baseline_is_never_stopped(tmp_path: Path) -> None:
    opened = study(tmp_path, early_stopping={"patience": 1, "first_rung": 0.1, "audit": 0.0})
    baseline, other = opened.ask(), opened.ask()
    assert baseline is not None
    assert other is not None
    assert run(opened, other.number, curve(4.0, 4.1)) == PLATEAU
    assert run(opened, baseline.number, curve(6.0, 9.0)) == "complete"


def test_a_rung_compares_the_best_so_far_where_that_is_the_objective(tmp_path: Path) -> None:
    # Trial 1 is ahead at the end, trial 2 at its best: it must not be stopped for its rebound.
    opened = study(tmp_path, early_stopping={"patience": 8, "first_rung": 0.5, "audit": 0.0}, objective="best")
    run(opened, opened.ask().number, curve(6.0, 6.1))  # type: ignore[union-attr]
    run(opened, opened.ask().number, curve(5.0, 5.1))  # type: ignore[union-attr]
    assert run(opened, opened.ask().number, curve(4.9, 7.0)) == "complete"  # type: ignore[union-attr]


@pytest.mark.parametrize(("objective", "expected"), [("best", 2.0), ("final", 5.0), ("mean", 10 / 3)])
def test_objectives(objective: str, expected: float) -> None:
    assert objective_value(objective, [3.0, 2.0, 5.0]) == pytest.approx(expected)


def test_a_resumed_search_goes_on_as_the_uninterrupted_one(tmp_path: Path) -> None:
    def losses(number: int) -> list[float]:
        return curve(5 + number % 3 / 10, 6 + number % 5 / 10)

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = study(tmp_path / "a", budget={"trials": 14, "epochs": 8})
    while (candidate := whole.ask()) is not None:
        run(whole, candidate.number, losses(candidate.number))

    opened = study(tmp_path / "b", budget={"trials": 9, "epochs": 8})
    for _ in range(6):
        candidate = opened.ask()
        assert candidate is not None
        run(opened, candidate.number, losses(candidate.number))
    left = opened.ask()
    assert left is not None
    opened.report(left.number, {"tokens": 100, "high_entropy_loss": losses(left.number)[0]})

    resumed = study(tmp_path / "b", budget={"trials": 14, "epochs": 8})
    again = resumed.ask()
    assert again is not None
    assert (again.number, again.parameters) == (left.number, left.parameters)
    run(resumed, again.number, losses(again.number))
    while (candidate := resumed.ask()) is not None:
        run(resumed, candidate.number, losses(candidate.number))

    def table(opened: SearchStudy) -> list[Any]:
        return [(t.number, t.state, t.params, t.value, t.intermediate_values) for t in opened.study.trials]

    assert table(resumed) == table(whole)


def test_a_space_without_a_searched_setting_has_two_trials(tmp_path: Path) -> None:
    fixed = {
        "entropy_threshold": {"quantile": 0.5},
        "mask_ratio": 0.4,
        "presentation": "loss",
        "curriculum": [{"shape": "step", "at": 0.3}],
    }
    opened = study(tmp_path, schedule=fixed)
    baseline, only = opened.ask(), opened.ask()
    assert opened.ask() is None
    assert baseline is not None
    assert only is not None
    assert only.parameters["curriculum"] == {"shape": "step", "at": 0.3}
    run(opened, only.number, curve(5.0, 6.0))
    assert opened.parameters(opened.best()) == only.parameters  # type: ignore[arg-type]


def test_learning_rate_and_presentation_can_be_searched(tmp_path: Path) -> None:
    opened = study(
        tmp_path,
        training={"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "weight_decay": [0.0, 0.1, 1.0]},
        schedule={"presentation": ["input", "loss"]},
    )
    candidates = [opened.ask() for _ in range(8)]
    assert candidates[0] is not None
    assert candidates[0].settings.learning_rate == pytest.approx(1e-3)
    rates = {c.settings.learning_rate for c in candidates if c is not None}
    assert len(rates) > 4
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert {c.parameters["presentation"] for c in candidates[1:] if c is not None} == {"input", "loss"}


def test_what_the_repositorys_space_suggests_stays_as_it_is(tmp_path: Path) -> None:
    # The numbers in LOG.md depend on the names and on their order.
    opened = SearchStudy(open_journal(tmp_path / "study.journal"), MODEL, load(MATH).config)
    opened.set_full_tokens(800)
    candidates = [opened.ask() for _ in range(3)]
    assert list(candidates[1].parameters) == [  # type: ignore[union-attr]
        "entropy_threshold",
        "mask_ratio",
        "presentation",
        "curriculum",
        "learning_rate",
        "weight_decay",
    ]
    assert [list(t.params) for t in opened.study.trials[:2]] == [
        [],
        [
            "curriculum.shape",
            "curriculum.sigmoid.midpoint",
            "curriculum.sigmoid.steepness",
            "entropy_threshold.quantile",
            "mask_ratio",
        ],
    ]
    assert opened.study.trials[2].params == {
        "curriculum.shape": "linear",
        "entropy_threshold.quantile": 0.7246,
        "mask_ratio": 0.6705,
    }


def test_splines_tokens_and_regularizers_can_be_searched(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "schedule": {
            "tokens": ["low_entropy", "random"],
            "refresh_epochs": [0, 2],
            "entropy_threshold": {"nats": {"low": 0.5, "high": 2.0}},
            "curriculum": {"shape": "spline", "knots": 2},
        },
        "training": {"label_smoothing": {"low": 0.0, "high": 0.2}, "neftune_alpha": [0.0, 5.0]},
    }
    opened = study(tmp_path, **changes)
    baseline, middle, *others = [opened.ask() for _ in range(8)]
    assert baseline is not None
    assert middle is not None
    assert baseline.settings.label_smoothing == 0.0
    assert middle.parameters["curriculum"] == {"shape": "spline", "rises": [0.5, 0.5, 0.5]}
    assert middle.settings.label_smoothing == pytest.approx(0.1)
    trial = opened.study.trials[2]
    rises = [trial.params[f"curriculum.spline.rise_{i}"] for i in (1, 2, 3)]
    assert others[0] is not None
    assert others[0].parameters["curriculum"]["rises"] == rises
    assert {c.settings.entrodrop.tokens for c in others if c and c.settings.entrodrop} == {"low_entropy", "random"}
    assert {c.settings.entrodrop.refresh_epochs for c in others if c and c.settings.entrodrop} == {0, 2}
    assert curriculum_name(middle.arm, middle.parameters) == "spline 0.5 0.5 0.5"
    assert flatten(middle.parameters)["curriculum.rises"] == [0.5, 0.5, 0.5]

    run(opened, middle.number, curve(5.0, 6.0))
    text = format_best_schedule(ModelResult(opened, None), space(**changes))
    assert text is not None
    (tmp_path / "best.yaml").write_text(text)
    assert settings_of(load_recipe(tmp_path / "best.yaml").config) == middle.settings
    again = SearchStudy(open_journal(tmp_path / "again.journal"), MODEL, load(tmp_path / "best.yaml").config)
    again.set_full_tokens(800)
    first, second = again.ask(), again.ask()
    assert first is not None
    assert second is not None
    assert (first.settings, second.settings) == (baseline.settings, middle.settings)


def test_without_a_schedule_regularizers_and_token_weights_are_searched(tmp_path: Path) -> None:
    weight = {"kind": "eaft", "alpha": {"low": 0.2, "high": 1.0}}
    lora = {"rank": [4, 8], "alpha": 16.0, "target_modules": ["all-linear", ["q_proj", "v_proj"]]}
    training = {"hidden_dropout": {"low": 0.0, "high": 0.4}, "token_weight": weight, "lora": lora}
    changes: dict[str, Any] = {"schedule": None, "training": training}
    opened = study(tmp_path, **changes)
    baseline, middle = opened.ask(), opened.ask()
    assert baseline is not None
    assert middle is not None
    assert (baseline.arm, baseline.settings.hidden_dropout) == (BASELINE, 0.0)
    assert (middle.arm, middle.settings.entrodrop) == (REGULARIZED, None)
    assert middle.settings.hidden_dropout == pytest.approx(0.2)
    assert (baseline.settings.token_weight, middle.settings.token_weight) == (None, Eaft(20, 0.6))
    assert flatten(middle.parameters)["token_weight.kind"] == "eaft"
    assert middle.settings.lora == Lora(8, 16.0, 0.0, ("q_proj", "v_proj"))
    assert flatten(middle.parameters)["lora.target_modules"] == "q_proj v_proj"
    assert (curriculum_name(baseline.arm, baseline.parameters), curriculum_name(middle.arm, middle.parameters)) == (
        "no dropout",
        "regularized",
    )
    run(opened, baseline.number, curve(5.0, 6.0))
    run(opened, middle.number, curve(4.0, 6.0))
    assert opened.best().number == 1  # type: ignore[union-attr]
    write_results(tmp_path, space(**changes), [ModelResult(opened, None)], {})
    best = load_recipe(tmp_path / "best_schedule.builtin-nano.yaml")
    assert settings_of(best.config) == middle.settings
