"""What a slot's mailbox is told of workers that died, and which of Ray Train's helpers a group starts."""

import os
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from trainables.settings import ModelSettings
from trainables.slots import worker_group
from trainables.slots.shared import SlotConfig


class Preempted(RayActorError):
    preempted = True


# What Ray 2.60 raises of an actor that its memory monitor has ended, cut short.
LOW_ON_MEMORY = OutOfMemoryError("2 worker(s) were killed due to the node running low on memory. 9 / 10 GB\nmore")


@pytest.mark.parametrize(
    ("errors", "memory", "preempted", "died"),
    [
        ([RayActorError()], False, False, [0]),
        ([ValueError("of the train loop")], False, False, []),
        ([RayActorError(), LOW_ON_MEMORY], True, False, [0, 1]),
        ([RayActorError(error_msg="The node was running low on memory.")], True, False, [0]),
        ([ValueError("of its peer"), Preempted()], False, True, [1]),
        # Ray Train wraps the error of a worker that does not response.
        ([SimpleNamespace(health_check_failure=LOW_ON_MEMORY)], True, False, [0]),
    ],
)
def test_the_mailbox_is_told_why_a_group_was_lost(
    errors: list[Exception], memory: bool, preempted: bool, died: list[int]
) -> None:
    mailbox = mock.Mock()
    with mock.patch("ray.get"):
        worker_group._Losses(mailbox).after_exception(mock.Mock(), dict(enumerate(errors)))
    (told, was_preempted, dead), _ = mailbox.group_failed.remote.call_args
    assert (told is not None, was_preempted, dead) == (memory, preempted, died)
    assert not memory or ("running low on memory" in told and "\n" not in told)


def test_helpers_are_not_started() -> None:
    trainer = worker_group._Trainer(print, scaling_config=ScalingConfig(num_workers=1))
    usual = {type(callback).__name__ for callback in DataParallelTrainer._create_default_callbacks(trainer)}
    ours = {type(callback).__name__ for callback in trainer._create_default_callbacks()}
    assert usual - ours == {"DatasetsCallback", "PlacementGroupCleanerCallback"}
    assert not ours - usual


@pytest.mark.parametrize("placement", ["pack", "spread"])
def test_workers_lie_over_nodes_as_asked(tmp_path: Path, placement: str) -> None:
    with mock.patch.object(worker_group, "_Trainer") as trainer, mock.patch.dict(os.environ):
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "7"
        slot = SlotConfig(2, 1, 0, placement, {}, ModelSettings(), tmp_path, mock.Mock())
        worker_group.run_group(slot, mock.Mock(), tmp_path)
        # A node of a cluster has not been told by the search; what a person has set there stays.
        assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "0.5"
        assert os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] == "7"
    assert trainer.call_args.kwargs["scaling_config"].placement_strategy == placement.upper()
