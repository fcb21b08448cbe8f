from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.studies.pruners import LOSING, PLATEAU, RungPruner, has_plateaued, is_audited, rungs, value_at
from tests.studies import ask, run, search


def trial(losses: list[float], arm: str = "a", step: int = 100, state: TrialState = TrialState.RUNNING) -> FrozenTrial:
    values = {step * i: loss for i, loss in enumerate(losses, 1)}
    value = losses[-1] if state == TrialState.COMPLETE else None
    return create_trial(state=state, value=value, intermediate_values=values, user_attrs={"arm": arm})


def stopped(own: FrozenTrial, *others: FrozenTrial, objective: str = "best") -> bool:
    study = optuna.create_study()
    study.add_trials([*others, own])
    return RungPruner(0.25, 2, 800, objective).prune(study, study.trials[-1])


# When nothing improves any more.


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([3.0, 2.0], False),
        ([3.0, 2.0, 2.1, 2.2], True),
        ([3.0, 2.0, 2.1, 1.9], False),
        ([3.0, 2.0, 2.0, 2.0], True),
        ([3.0, 2.0, 2.5, 2.4, 1.9, 1.8], False),
    ],
)
def test_a_plateau_is_patience_evaluations_without_improvement(losses: list[float], expected: bool) -> None:
    assert has_plateaued(losses, 2) == expected


# Rungs.


def test_rungs_are_below_the_budget() -> None:
    assert rungs(0.25, 2, 800) == [200, 400]
    assert rungs(0.1, 3, 1001) == [101, 301, 901]
    assert rungs(0.25, 2, 0) == []


@pytest.mark.parametrize(("objective", "expected"), [("best", 2.0), ("final", 4.0), ("mean", 3.0)])
def test_the_value_at_a_rung_is_the_objective_so_far(objective: str, expected: float) -> None:
    # Evaluations at 100, 200, 300, 400: the first one from 250 on is that at 300.
    assert value_at(trial([3.0, 2.0, 4.0, 1.0]), 250, objective) == pytest.approx(expected)
    assert value_at(trial([3.0, 2.0, 4.0, 1.0]), 401, objective) is None
    assert value_at(trial([]), 100, objective) is None


def test_a_trial_is_stopped_at_a_rung_if_it_is_not_in_the_better_half() -> None:
    others = [trial([2.0, 2.0]), trial([3.0, 3.0])]
    assert stopped(trial([4.0, 4.0]), *others)
    assert not stopped(trial([2.5, 2.5]), *others)
    assert not stopped(trial([1.0, 1.0]), *others)


def test_between_rungs_nothing_is_stopped() -> None:
    others = [trial([2.0] * 3), trial([2.0] * 3)]
    assert not stopped(trial([9.0]), *others)
    assert not stopped(trial([9.0] * 3), *others)


def test_the_first_at_a_rung_goes_on() -> None:
    assert not stopped(trial([9.0, 9.0]), trial([1.0]))


def test_equal_trials_go_on() -> None:
    assert not stopped(trial([2.0, 2.0]), trial([2.0, 2.0]), trial([2.0, 2.0]), trial([2.0, 2.0]))


def test_trials_are_compared_at_the_same_tokens() -> None:
    # The others came further, and were worse here.
    ahead = trial([5.0, 5.0, 1.0, 1.0], state=TrialState.COMPLETE)
    assert not stopped(trial([4.0, 4.0]), ahead, ahead)
    assert stopped(trial([6.0, 6.0]), ahead, ahead)


def test_trials_are_compared_within_their_arm() -> None:
    assert not stopped(trial([4.0, 4.0]), trial([1.0, 1.0], arm="b"), trial([1.0, 1.0], arm="b"))


def test_failed_trials_are_not_compared_with() -> None:
    failed = trial([1.0, 1.0], state=TrialState.FAIL)
    assert not stopped(trial([4.0, 4.0]), failed, failed)


def test_a_rung_is_not_missed_between_two_evaluations() -> None:
    # Evaluations at 300 and 600; the rungs are at 200 and 400.
    others = [trial([2.0, 2.0], step=300), trial([3.0, 3.0], step=300)]
    assert stopped(trial([4.0], step=300), *others)
    assert stopped(trial([4.0, 4.0], step=300), *others)


@pytest.mark.parametrize(("objective", "expected"), [("best", False), ("final", True), ("mean", True)])
def test_a_rebound_counts_where_it_is_the_objective(objective: str, expected: bool) -> None:
    others = [trial([3.0, 3.0]), trial([3.0, 3.1])]
    assert stopped(trial([2.9, 5.0]), *others, objective=objective) == expected


# In a search.


def test_losing_and_a_plateau_are_different_reasons(tmp_path: Path) -> None:
    study = search(tmp_path, early_stopping={"pruner": "rungs", "patience": 3, "audit": 0.0})
    for losses, expected in (
        ([6.0] * 8, "complete"),
        ([5.0, 4.9, 4.8, 4.7, 4.6, 4.5, 4.4, 4.3], "complete"),
        ([4.0, *[4.1] * 7], PLATEAU),
        ([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0], LOSING),
    ):
        assert run(study, ask(study), losses) == expected
    # What lost has no objective; what improves no more has its own.
    assert [found.number for found in study.ranked("entrodrop")] == [2, 1]
    assert [found.state.name for found in study.study.trials] == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]


@pytest.mark.parametrize("objective", ["final", "mean"])
def test_a_plateau_stops_nothing_where_the_best_is_not_the_objective(tmp_path: Path, objective: str) -> None:
    study = search(tmp_path, objective=objective, early_stopping={"patience": 1, "audit": 0.0})
    for _ in range(2):
        assert run(study, ask(study), [5.0] * 8) == "complete"


def test_patience_is_independent_of_the_pruner(tmp_path: Path) -> None:
    study = search(tmp_path, early_stopping={"pruner": "none", "patience": 1, "audit": 0.0})
    ask(study)
    assert run(study, ask(study), [5.0] * 8) == PLATEAU


def test_without_patience_a_plateau_stops_nothing(tmp_path: Path) -> None:
    study = search(tmp_path, early_stopping={"patience": None, "audit": 0.0})
    ask(study)
    assert run(study, ask(study), [5.0] * 8) == "complete"


def test_at_its_end_a_trial_is_complete(tmp_path: Path) -> None:
    study = search(tmp_path, early_stopping={"patience": 7, "audit": 0.0})
    ask(study)
    assert run(study, ask(study), [5.0] * 8) == "complete"


# The audit.


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_audit_draws_its_share(share: float) -> None:
    drawn = [is_audited(share, 0, "builtin/nano", number) for number in range(4000)]
    assert sum(drawn) / 4000 == pytest.approx(share, abs=0.03)
    assert drawn == [is_audited(share, 0, "builtin/nano", number) for number in range(4000)]


def test_each_seed_and_each_study_draws_its_own() -> None:
    def drawn(seed: int, study: str) -> list[bool]:
        return [is_audited(0.5, seed, study, number) for number in range(100)]

    assert drawn(0, "builtin/nano") != drawn(1, "builtin/nano")
    assert drawn(0, "builtin/nano") != drawn(0, "builtin/micro")


def test_a_trial_of_the_audit_runs_on_and_says_so(tmp_path: Path) -> None:
    study = search(tmp_path, early_stopping={"patience": 1, "audit": 1.0})
    ask(study)
    assert run(study, ask(study), [5.0] * 8) == "complete"
    assert study.study.trials[1].user_attrs["audit"] == {"reason": PLATEAU, "tokens": 200}
