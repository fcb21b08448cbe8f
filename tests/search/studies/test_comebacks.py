from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from search.studies.pruners import LOSING, beyond_comebacks
from search.studies.search_study import SearchStudy
from tests.studies import ask, run, search


def falling(first: float, last: float) -> list[float]:
    """Eight losses, evenly from the first to the last."""
    return [float(loss) for loss in np.linspace(first, last, 8)]


def with_history(folder: Path, count: int = 10, **changes: object) -> SearchStudy:
    """A baseline and `count` trials that ran to their end: they began at 6, and came back by 0.5 to 0.95."""
    stopping = {"first_rung": 0.25, "audit": 0.0, "patience": None}
    study = search(folder, **({"budget": {"trials": 30, "epochs": 8}, "early_stopping": stopping} | changes))
    for number in range(count + 1):
        candidate = ask(study)
        for epoch, loss in enumerate(falling(6.0, 5.5 - (number - 1) % 10 / 20), 1):
            study.report(candidate.number, {"tokens": 100 * epoch, "high_entropy_loss": loss})
        study.tell(candidate.number, TrialState.COMPLETE)
    return study


def test_a_trial_is_lost_beyond_the_largest_comeback_and_its_margin() -> None:
    comeback_N = np.linspace(0.0, 0.4, 8)
    # The margin is (0.2 + 4 / 8) of the range of 0.4.
    assert not beyond_comebacks(5.0 + 0.4 + 0.27, 5.0, comeback_N)
    assert beyond_comebacks(5.0 + 0.4 + 0.29, 5.0, comeback_N)


def test_the_margin_is_wider_the_fewer_have_ended() -> None:
    assert not beyond_comebacks(5.7, 5.0, np.linspace(0.0, 0.4, 6))
    assert beyond_comebacks(5.7, 5.0, np.linspace(0.0, 0.4, 40))


def test_few_comebacks_say_nothing() -> None:
    assert not beyond_comebacks(99.0, 5.0, np.zeros(4))
    assert beyond_comebacks(99.0, 5.0, np.zeros(5))


def test_where_all_rebound_a_trial_that_is_behind_is_lost() -> None:
    assert beyond_comebacks(5.2, 5.0, np.linspace(-0.2, -0.1, 20))
    assert not beyond_comebacks(4.8, 5.0, np.linspace(-0.2, -0.1, 20))


@pytest.mark.parametrize("objective", ["final", "mean"])
def test_what_no_comeback_could_save_is_stopped(tmp_path: Path, objective: str) -> None:
    study = with_history(tmp_path, objective=objective)
    assert run(study, ask(study), falling(9.0, 8.0)) == LOSING
    # Not before a quarter of the budget.
    assert [max(trial.intermediate_values) for trial in study.trials(TrialState.PRUNED)] == [200]
    # Behind at first, and saved by a comeback that is larger than all before.
    assert run(study, ask(study), falling(6.1, 4.9)) == "complete"


def test_with_best_only_patience_stops(tmp_path: Path) -> None:
    study = with_history(tmp_path)
    assert run(study, ask(study), falling(9.0, 8.0)) == "complete"


def test_without_a_history_none_is_stopped(tmp_path: Path) -> None:
    study = with_history(tmp_path, count=4, objective="final")
    assert run(study, ask(study), falling(9.0, 8.0)) == "complete"
