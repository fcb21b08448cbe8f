"""A confirmation in rounds on several slots, without Ray: a slot waits while a round decides on another."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from search.interruption import Interruption
from search.scheduling.trial_loop import TrialLoop
from search.studies.confirmation import Confirmation
from search.studies.storage import open_journal
from search.studies.study import Candidate
from tests.studies import FULL_TOKENS, run_all, search, space
from trainables.slots.mailbox import TrainResponse
from trainables.slots.slot import SlotReport

ROUNDS = {"confirmation": {"best": 1, "seeds": "auto", "max_seeds": 4}}
EVALUATIONS = 8


def reading(arm: str, seed: int) -> dict[str, object]:
    loss = 5.0 + 0.3 * np.random.default_rng([seed, arm == "none"]).standard_normal() + np.zeros(6)
    values = {"high_entropy_loss": {"sums": (10 * loss).tolist(), "counts": [10.0] * 6}}
    return {point: {"test": values} for point in ("best", "final")}


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.faults
def test_all_rounds_run_whatever_the_number_of_slots(tmp_path: Path, slots: int) -> None:
    study = search(tmp_path, **ROUNDS)
    run_all(study, lambda candidate: 5.0 - candidate.number / 100, EVALUATIONS)
    confirmation = Confirmation(open_journal(tmp_path / "study.journal"), study, space(**ROUNDS))
    opened = TrialLoop([study, confirmation], slots, lambda _: FULL_TOKENS, mock.Mock(), Interruption())
    training: dict[str, Candidate] = {}
    evaluations: dict[str, int] = {}
    for turn in range(1000):
        while len(training) < slots and (candidate := opened.begin(str(turn * 10 + len(training)))) is not None:
            key = str(turn * 10 + len(training))
            training[key], evaluations[key] = candidate, 0
        if not training:
            break
        for key, candidate in training.items():
            if evaluations[key] < 0:
                continue
            done = evaluations[key] + 1
            metrics = {"tokens": FULL_TOKENS * done / EVALUATIONS, "high_entropy_loss": 5.0}
            test = reading(candidate.arm, candidate.settings.seed) if done == EVALUATIONS else None
            opened.report(key, SlotReport(TrainResponse(1, metrics, test=test), seconds=1.0))
            evaluations[key] = -done
        for decision in opened.decide():
            if decision.goes_on:
                evaluations[decision.tune_id] *= -1
            else:
                opened.take_back(decision.tune_id)
                del training[decision.tune_id]
    assert opened.finished
    assert confirmation.ended
    runs = confirmation.study.trials
    assert [(t.user_attrs["seed"], t.user_attrs["arm"]) for t in runs] == [
        (seed, arm) for seed in range(1, len(runs) // 2 + 1) for arm in ("none", "entrodrop")
    ]
    assert len(runs) > 4
