"""What trials that are stopped early leave in Ray: no process, no placement group, no shared memory.

    python -m tests.faults.leftovers [--trials 50] [--json FILE] [--quick]

Trials of a tiny model, each stopped at its first evaluation, on two warm slots; what Ray has on this machine is counted
before and after. About a minute.

Keys: trials, left (what there is more of, or less, than before; empty if nothing).
"""

import json
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import ray
from optuna.trial import TrialState

from search.cluster.ray_runtime import join_or_start_ray
from search.environment import ray_environment
from search.interruption import Interruption
from search.scheduling.trial_loop import TrialLoop
from search.scheduling.tune_adapter import remove_checkpoints, run_trials
from search.studies.pruners import LOSING
from search.studies.search_study import SearchStudy
from search.studies.storage import open_journal
from tests import tiny
from tests.scripts import parse, parser_of, write_results
from tests.search.studies.test_search_study import MODEL, space
from trainables.settings import ModelSettings
from trainables.slots.shared import SlotConfig, StopSignal
from trainables.storage.files import remove


class AllStop(SearchStudy):
    def _reason_to_stop(self, number: int) -> str:
        return LOSING


def census() -> dict[str, Any]:
    """What Ray has on this machine, apart from what it keeps."""
    groups = ray.util.placement_group_table()
    names: Counter[str] = Counter()
    for process in psutil.Process().children(recursive=True):
        # It may end just now.
        with suppress(psutil.NoSuchProcess):
            # A worker that Ray is just starting will be idle.
            if not any(word.endswith("_worker.py") for word in process.cmdline()):
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


def changes_since(before: dict[str, Any]) -> dict[str, list[Any]]:
    """What there is more of, or less, two minutes later at most: before and after, by kind."""
    deadline = time.monotonic() + 120
    while (after := census()) != before and time.monotonic() < deadline:
        time.sleep(0.5)
    return {kind: [before[kind], after[kind]] for kind in before if before[kind] != after[kind]}


def left_by(trials: int, folder: Path) -> dict[str, Any]:
    """What so many stopped trials have changed, before and after."""
    asked = space(
        budget={"trials": trials, "epochs": 3},
        sampler={"name": "random"},
        training={"batch_size": 4},
        confirmation=None,
    )
    study = AllStop(open_journal(folder / "study.journal"), MODEL, asked)
    prepared = tiny.prepared(folder / "cache")
    trial_loop = TrialLoop([study], 2, lambda _: 3 * prepared.train_tokens, mock.Mock(), Interruption())
    with join_or_start_ray(folder):
        reference, stop_signal = ray.put(prepared), StopSignal.remote()  # type: ignore[attr-defined]
        ray.get(stop_signal.stopped.remote())
        before = census()
        slot = SlotConfig(1, 1, 0, "pack", {MODEL: reference}, ModelSettings(), folder / "cache", stop_signal)
        run_trials(trial_loop, slot, 2, folder / "ray", folder / "checkpoints", folder / "models")
        remove_checkpoints([study], folder / "checkpoints", remove)
        assert trial_loop.error is None
        assert {trial.state for trial in study.study.trials} == {TrialState.PRUNED}
        left = changes_since(before)
    assert not (folder / "checkpoints").exists()
    assert not (folder / "ray").exists()
    return left


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--trials", type=int, default=50)
    options = parse(parser, trials=4)
    os.environ.update(ray_environment())
    with tempfile.TemporaryDirectory() as folder:
        result = {"trials": options.trials, "left": left_by(options.trials, Path(folder))}
    print(json.dumps(result, indent=2))
    write_results(options, result)
    return int(bool(result["left"]))


if __name__ == "__main__":
    sys.exit(main())
