from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from search.results.stopping_audit import audit_stopping
from search.studies.pruners import LOSING, PLATEAU
from search.studies.search_study import SearchStudy
from tests.studies import ask, fail, run, search

# Learning rates of two arms that are far apart.
ARMS: list[dict[str, Any]] = [
    {"name": "none", "schedule": None, "training": {"learning_rate": {"low": 0.1, "high": 0.2}}},
    {"name": "entrodrop"},
]
# All that would be stopped runs on.
ALL = {"pruner": "rungs", "patience": 3, "first_rung": 0.5, "audit": 1.0}


def audited(study: SearchStudy) -> dict[str, Any]:
    return audit_stopping(study, 0.25, 2)


def from_to(study: SearchStudy, *ends: tuple[float, float]) -> None:
    """Trials that are at the first loss up to the middle, and at the second one from there on."""
    for first, second in ends:
        run(study, ask(study), [first] * 4 + [second] * 4)


def test_each_rung_is_compared_with_the_end(tmp_path: Path) -> None:
    study = search(tmp_path, objective="final")
    fail(study, ask(study))
    # In the middle and at the end in the opposite order.
    from_to(study, (5.0, 3.3), (5.1, 3.2), (5.2, 3.1), (5.3, 3.0))
    found = audited(study)
    assert [rung["tokens"] for rung in found["rungs"]] == [200, 400]
    assert [rung["trials"] for rung in found["rungs"]] == [4, 4]
    assert [rung["rank_correlation"] for rung in found["rungs"]] == [pytest.approx(-1.0)] * 2
    assert (found["audited"], found["wrong"], found["wrong_share"]) == (0, 0, None)


def test_rungs_before_one_evaluation_are_one_and_the_end_is_none(tmp_path: Path) -> None:
    study = search(tmp_path, objective="final")
    from_to(study, (5.0, 3.3), (5.1, 3.2), (5.2, 3.1), (5.3, 3.0))
    # They are evaluated at each 100 of 800 tokens: those at 8, 16, 32 and 64 are judged by the first of them.
    assert [rung["tokens"] for rung in audit_stopping(study, 0.01, 2)["rungs"]] == [100, 200, 300, 600]
    assert audit_stopping(study, 0.95, 2)["rungs"] == []


def test_two_trials_say_nothing(tmp_path: Path) -> None:
    study = search(tmp_path)
    from_to(study, (5.0, 4.0), (5.1, 4.1), (5.2, 4.2))
    # One of the three is the baseline.
    assert [rung["rank_correlation"] for rung in audited(study)["rungs"]] == [None, None]


def test_equal_trials_say_nothing(tmp_path: Path) -> None:
    # As before the dropout of a late curriculum starts.
    study = search(tmp_path, objective="final")
    from_to(study, (5.0, 3.0), (5.0, 3.1), (5.0, 3.2), (5.0, 3.3))
    assert [rung["rank_correlation"] for rung in audited(study)["rungs"]] == [None, None]


def test_a_rung_compares_within_an_arm(tmp_path: Path) -> None:
    # One arm is far ahead at each time, which says nothing of the order within the other.
    study = search(tmp_path, arms=ARMS, objective="final", budget={"trials": 4, "epochs": 8})
    while (candidate := study.ask()) is not None:
        place = candidate.number / 100
        first, second = (9.0, 9.0) if candidate.arm == "none" else (5.0, 5.0)
        run(study, candidate, [first + place] * 4 + [second - place] * 4)
    assert [rung["rank_correlation"] for rung in audited(study)["rungs"]] == [pytest.approx(-1.0)] * 2


def test_stopping_was_wrong_where_the_trial_would_have_been_the_best(tmp_path: Path) -> None:
    study = search(tmp_path, objective="final", early_stopping=ALL)
    from_to(study, (5.0, 5.0), (4.0, 4.0), (5.0, 3.0), (5.1, 4.5))
    assert [trial.user_attrs.get("audit") for trial in study.study.trials] == [
        None,
        None,
        {"reason": LOSING, "tokens": 400},
        {"reason": LOSING, "tokens": 400},
    ]
    found = audited(study)
    assert (found["audited"], found["wrong"], found["wrong_share"]) == (2, 1, 0.5)


def test_stopping_on_a_plateau_loses_only_what_comes_after_it(tmp_path: Path) -> None:
    study = search(tmp_path, early_stopping=ALL)
    from_to(study, (6.0, 6.0))
    falling = [5.0 - 0.1 * epoch for epoch in range(8)]
    assert run(study, ask(study), falling) == "complete"
    # Both are the best of all; what the first one stops with is its own, and the second one falls again.
    run(study, ask(study), [4.0, 3.9, *[4.2] * 6])
    run(study, ask(study), [4.0, 3.9, *[4.2] * 5, 3.8])
    assert [trial.user_attrs["audit"]["reason"] for trial in study.study.trials[2:]] == [PLATEAU] * 2
    assert (audited(study)["audited"], audited(study)["wrong"]) == (2, 1)


def test_a_trial_that_stopped_on_a_plateau_is_one_to_beat(tmp_path: Path) -> None:
    study = search(tmp_path, early_stopping=ALL)
    from_to(study, (6.0, 6.0))
    for losses, end in (([3.0] * 4, TrialState.PRUNED), ([5.0] * 4 + [4.5] * 4, TrialState.COMPLETE)):
        candidate = ask(study)
        for epoch, loss in enumerate(losses, 1):
            study.report(candidate.number, {"tokens": 100 * epoch, "high_entropy_loss": loss})
        study.tell(candidate.number, end, PLATEAU if end == TrialState.PRUNED else None)
    assert (audited(study)["audited"], audited(study)["wrong"]) == (1, 0)
