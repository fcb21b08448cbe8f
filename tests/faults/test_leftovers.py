"""Fifty trials that are stopped early leave nothing in Ray: no process, no placement group, no shared memory."""

import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
import ray
from optuna.trial import TrialState

from search.cluster import joined, ray_environment
from search.interruption import Interruption
from search.studies.size import SizeStudy
from search.studies.stopping import LOSING
from search.tuner import Conductor, run_trials
from tests import tiny
from tests.search.studies.test_size import MODEL, space
from trainables.mailbox import Bell
from trainables.settings import ModelSettings
from trainables.slot import SlotConfig

pytestmark = pytest.mark.integration

TRIALS = 50


class AllStop(SizeStudy):
    def _reason_to_stop(self, number: int) -> str:
        return LOSING


def census() -> dict[str, Any]:
    """What Ray has on this machine, apart from what it keeps."""
    groups = ray.util.placement_group_table()
    names: Counter[str] = Counter()
    for process in psutil.Process().children(recursive=True):
        # It may end just now.
        with suppress(psutil.NoSuchProcess):
            names[process.name()] += 1
    # Ray Train's coordinator is one for all runs on a cluster, and stays with it.
    for kept in ("ray::IDLE", "ray::_AutoscalingCoordinatorActor"):
        del names[kept]
    resources = ray.available_resources()
    return {
        "processes": names,
        "placement groups": sum(group["state"] != "REMOVED" for group in groups.values()),
        # Ray keeps some hundred bytes that say what a slot is.
        "object store": round(resources.pop("object_store_memory") / 1e8),
        "resources": resources,
        "shared memory": sum(1 for _ in Path("/dev/shm").iterdir()),
    }


def test_fifty_stopped_trials_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ray_environment(2).items():
        monkeypatch.setenv(name, value)
    asked = space(
        budget={"trials": TRIALS, "epochs": 3},
        sampler={"name": "random"},
        training={"batch_size": 4},
        confirmation=None,
    )
    study = AllStop(tmp_path / "study.journal", MODEL, asked)
    prepared = tiny.prepared(tmp_path / "cache")
    conductor = Conductor([study], 2, lambda _: 3 * prepared.train_tokens, mock.Mock(), Interruption())
    with joined(tmp_path):
        reference, bell = ray.put(prepared), Bell.remote()  # type: ignore[attr-defined]
        ray.get(bell.rung.remote())
        before = census()
        slot = SlotConfig(1, 1, 0, {MODEL: reference}, ModelSettings(), tmp_path / "ray", bell)
        run_trials(conductor, slot, 2, tmp_path / "checkpoints")
        assert conductor.error is None
        assert [trial.state for trial in study.study.trials] == [TrialState.PRUNED] * TRIALS
        deadline = time.monotonic() + 30
        while (after := census()) != before and time.monotonic() < deadline:
            time.sleep(0.5)
        assert after == before
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "ray").exists()
