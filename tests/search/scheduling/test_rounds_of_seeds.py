"""A confirmation in rounds on several slots, without Ray: a slot waits while a round decides on another."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from search.interruption import Interruption
from search.scheduling.trial_loop import TrialLoop
from search.studies.confirmation import Confirmation
from search.studies.storage import open_journal
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
    training: dict[str, tuple[mock.Mock, object]] = {}
    evaluations: dict[str, int] = {}
    for turn in range(1000):
        while len(training) < slots and (candidate := opened.begin(str(turn * 10 + len(training)))) is not None:
            trial = mock.Mock(trial_id=str(turn * 10 + len(training)))
            training[trial.trial_id] = trial, candidate
            evaluations[trial.trial_id] = 0
        if not training:
            break
        for key, (trial, candidate) in training.items():
            if evaluations[key] < 0:
                continue
            done = evaluations[key] + 1
            metrics = {"tokens": FULL_TOKENS * done / EVALUATIONS, "high_entropy_loss": 5.0}
            test = reading(candidate.arm, candidate.settings.seed) if done == EVALUATIONS else None  # type: ignore[attr-defined]
            opened.report(trial, SlotReport(TrainResponse(1, metrics, test=test), seconds=1.0))
            evaluations[key] = -done
        for trial, goes_on in opened.decide():
            if goes_on:
                evaluations[trial.trial_id] *= -1
            else:
                del training[trial.trial_id]
    assert opened.finished
    assert confirmation.ended
    runs = confirmation.study.trials
    assert [(t.user_attrs["seed"], t.user_attrs["arm"]) for t in runs] == [
        (seed, arm) for seed in range(1, len(runs) // 2 + 1) for arm in ("none", "entrodrop")
    ]
    assert len(runs) > 4
