from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState
from scipy import stats

from search.studies.pruners import LOSING, PLATEAU, chance_below
from search.studies.search_study import SearchStudy
from tests.studies import ask, run, search

CURVES = {"pruner": "curves", "patience": 8, "first_rung": 0.25, "audit": 0.0}


def falling(level: float) -> list[float]:
    """Eight losses that end at `level`, nearly as their first one says."""
    return [level + 0.8 / epoch + 0.001 * (7 * epoch % 3) for epoch in range(1, 9)]


def with_history(folder: Path, **changes: object) -> SearchStudy:
    """A baseline and eight trials that ran to their end, at levels from 5.0 to 5.7."""
    study = search(folder, **({"budget": {"trials": 30, "epochs": 8}, "early_stopping": CURVES} | changes))
    for number in range(9):
        candidate = ask(study)
        losses = falling(5.0 + (number - 1) % 8 / 10)
        for epoch, loss in enumerate(losses, 1):
            study.report(candidate.number, {"tokens": 100 * epoch, "high_entropy_loss": loss})
        study.tell(candidate.number, TrialState.COMPLETE)
    return study


def test_the_chance_is_that_of_the_prediction_interval_of_a_line() -> None:
    generator = np.random.default_rng(0)
    x_N = generator.normal(size=12)
    y_N = 2 + 3 * x_N + generator.normal(scale=0.5, size=12)
    line = stats.linregress(x_N, y_N)
    rest_N = y_N - line.intercept - line.slope * x_N
    spread = np.sqrt((rest_N**2).sum() / 10 * (1 + 1 / 12 + (1.5 - x_N.mean()) ** 2 / ((x_N - x_N.mean()) ** 2).sum()))
    expected = stats.t.cdf((6.0 - line.intercept - 1.5 * line.slope) / spread, 10)
    found = chance_below(6.0, np.stack([np.ones(12), x_N], axis=1), y_N, np.array([1.0, 1.5]))
    assert found == pytest.approx(expected, rel=1e-9)


def test_the_chance_is_kept_for_unrelated_curves() -> None:
    # Of trials that come out below the bound with probability 0.05, one in twenty is given that chance or less.
    generator = np.random.default_rng(1)
    wrong = 0
    for _ in range(2000):
        feature_NF = np.concatenate([np.ones((10, 1)), generator.normal(size=(10, 2))], axis=1)
        end_N = feature_NF @ [1.0, 0.5, -0.5] + generator.normal(scale=0.3, size=10)
        bound = end_N[9] + 1e-9
        wrong += chance_below(bound, feature_NF[:9], end_N[:9], feature_NF[9]) < 0.05
    assert wrong / 2000 == pytest.approx(0.05, abs=0.02)


def test_few_trials_say_nothing() -> None:
    feature_NF = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 4.0]])
    assert chance_below(0.0, feature_NF, np.array([1.0, 2.0, 4.0]), np.array([1.0, 9.0])) == 1.0


def test_a_trial_that_will_not_win_is_stopped_and_one_that_may_is_not(tmp_path: Path) -> None:
    study = with_history(tmp_path)
    assert run(study, ask(study), falling(6.0)) == LOSING
    assert run(study, ask(study), falling(4.9)) == "complete"
    stopped = study.trials(TrialState.PRUNED)
    # Not before a quarter of the budget.
    assert [max(trial.intermediate_values) for trial in stopped] == [200]


def test_without_a_history_none_is_stopped(tmp_path: Path) -> None:
    study = search(tmp_path, early_stopping=CURVES)
    assert [run(study, ask(study), falling(5.0 + number)) for number in range(4)] == ["complete"] * 4


def test_other_arms_are_no_history(tmp_path: Path) -> None:
    arms = [{"name": "none", "schedule": None}, {"name": "a"}, {"name": "b", "schedule": {"tokens": "random"}}]
    study = search(tmp_path, arms=arms, budget={"trials": 8, "epochs": 8}, early_stopping=CURVES)
    ended = {}
    while (candidate := study.ask()) is not None:
        level = 5.0 + candidate.number / 100 if candidate.arm == "a" else 6.0 - candidate.number / 100
        ended[candidate.number] = (candidate.arm, run(study, candidate, falling(level)))
    # Each trial of b is its best so far, if far behind a.
    assert all(how == "complete" for arm, how in ended.values() if arm == "b")
    assert any(how == LOSING for arm, how in ended.values() if arm == "a")


def test_trials_on_a_plateau_are_history_as_far_as_they_came(tmp_path: Path) -> None:
    study = search(
        tmp_path, budget={"trials": 20, "epochs": 8}, early_stopping=CURVES | {"patience": 2, "first_rung": 0.3}
    )
    for number in range(9):
        # Each one is the best so far.
        best = 6.0 - number / 10 + number**2 % 5 / 1000
        losses = [best + 0.3, best + 0.1, best, best + 0.1, best + 0.2, *[best + 0.3] * 3]
        assert run(study, ask(study), losses) == ("complete" if number == 0 else PLATEAU)
    assert run(study, ask(study), [7.3, 7.1, 7.0, 6.9, 6.8, 6.7, 6.6, 6.5]) == LOSING
