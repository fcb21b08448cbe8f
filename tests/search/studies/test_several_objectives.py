from pathlib import Path

import pytest

from search.studies.pruners import PLATEAU
from tests.studies import ask, fail, run, search

BOTH = ["high_entropy_loss", "loss"]


def test_the_pareto_front_is_what_nothing_beats_in_all_objectives(tmp_path: Path) -> None:
    study = search(tmp_path, objectives=BOTH)
    points = [(5.0, 5.0), (3.0, 6.0), (4.0, 4.0), (4.5, 4.5), (3.0, 7.0), (9.0, 3.0)]
    for first, second in points:
        run(study, ask(study), [first] * 8, loss=[second] * 8)
    fail(study, ask(study))
    assert [trial.number for trial in study.pareto_front()] == [1, 2, 5]
    assert [study.values(trial) for trial in study.pareto_front()] == [[3.0, 6.0], [4.0, 4.0], [9.0, 3.0]]


def test_equal_trials_are_both_on_the_front(tmp_path: Path) -> None:
    study = search(tmp_path, objectives=BOTH)
    for _ in range(2):
        run(study, ask(study), [4.0] * 8, loss=[5.0] * 8)
    assert [trial.number for trial in study.pareto_front()] == [0, 1]


def test_with_one_objective_the_front_is_the_best(tmp_path: Path) -> None:
    study = search(tmp_path)
    for loss in (5.0, 4.0, 4.5):
        run(study, ask(study), [loss] * 8)
    assert [trial.number for trial in study.pareto_front()] == [1]


@pytest.mark.parametrize(("objective", "expected"), [("best", [2.0, 7.0]), ("final", [4.0, 6.0]), ("mean", [3.0, 7.0])])
def test_all_objectives_are_of_the_same_weights(tmp_path: Path, objective: str, expected: list[float]) -> None:
    # With `best`: those of the evaluation of least high-entropy loss.
    study = search(tmp_path, objectives=BOTH, objective=objective)
    run(study, ask(study), [3.0, 2.0, 4.0, 3.0, 2.0, 4.0, 2.0, 4.0], loss=[8.0, 7.0, 6.0, 8.0, 7.0, 6.0, 8.0, 6.0])
    assert study.values(study.study.trials[0]) == pytest.approx(expected)


def test_a_trial_goes_on_while_one_objective_improves(tmp_path: Path) -> None:
    study = search(tmp_path, objectives=BOTH, early_stopping={"patience": 2, "first_rung": 0.25, "audit": 0.0})
    falling = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0]
    run(study, ask(study), [1.0] * 8, loss=[1.0] * 8)
    assert run(study, ask(study), [3.0] * 8, loss=falling) == "complete"
    assert run(study, ask(study), [9.0] * 8, loss=falling) == "complete"
    assert run(study, ask(study), [3.0] * 8, loss=[3.0] * 8) == PLATEAU
