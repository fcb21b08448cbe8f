"""A slot's Ray Train worker group."""

import asyncio
import os
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from trainables.slots.actors import ACTOR_DIED, describe_death, died_by_preemption, died_for_memory
from trainables.slots.mailbox import Reference
from trainables.slots.shared import SlotConfig

# What Ray Train reads in the process that starts a group; a node of a cluster does not have the search's environment.
_ENVIRONMENT = {
    # A node that was taken away may be minutes in coming back.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


def run_group(slot: SlotConfig, mailbox: Reference, storage: Path) -> None:
    """Keeps a worker group until the mailbox has a request without a run.

    Args:
        storage: folder for Ray Train's own files, on this node.

    Raises:
        ray.train.TrainingFailedError: the group cannot be started.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    resources: dict[str, float] = {"CPU": slot.cpus}
    if slot.gpus:
        resources["GPU"] = slot.gpus
    config = {
        "mailbox": mailbox,
        "threads": slot.cpus,
        "share": slot.gpus,
        "how": slot.how,
        "source": slot.source,
        "cache": slot.cache,
    }
    _Trainer(
        _serve,
        train_loop_config=config,
        backend_config=_WorkersConnect(),
        scaling_config=ScalingConfig(
            num_workers=slot.workers,
            use_gpu=slot.gpus > 0,
            resources_per_worker=resources,
            placement_strategy=slot.placement.upper(),
        ),
        run_config=RunConfig(
            name=f"slot-{os.getpid()}",
            storage_path=str(storage),
            # Workers may die again and again over a slot's life; how often in one trial is counted by the slot.
            failure_config=FailureConfig(max_failures=-1, controller_failure_limit=3),
            callbacks=[_Losses(mailbox)],
        ),
    ).fit()


def _serve(config: dict[str, Any]) -> None:
    """Only the workers load what they train with."""
    from trainables.slots.worker import serve

    serve(config)


class _SeesGpus(Backend):  # type: ignore[misc]
    # A worker that saw its own alone could not pass gradients from GPU to GPU.
    share_cuda_visible_devices = True


class _WorkersConnect(BackendConfig):  # type: ignore[misc]
    """The workers join their process group by themselves. Ray Train's TorchConfig has it made by the controller's
    process, which then loads torch: 2 s of a CPU, and 180 MB."""

    backend_cls = _SeesGpus


class _Trainer(DataParallelTrainer):  # type: ignore[misc]
    """Ray Train's, without helpers. The methods are not public: pyproject.toml holds Ray to the versions that it was
    tested with.

    Three processes that Ray Train starts for each worker group, 200 MB and seconds of a CPU each, are left out. One is
    for datasets of Ray Data, which are not used here. One gives back what the workers of a dead controller held, for
    which search/scheduling/placement_groups.py needs no dashboard. The third is the controller's: it runs in this one,
    which has loaded what it needs.
    """

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        controller = TrainController(**parts)
        asyncio.run(controller.run())
        return controller.get_result()

    def _create_default_callbacks(self) -> list[Any]:
        unused = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unused)]


class _Losses(UserCallback):  # type: ignore[misc]
    """Tells the mailbox what Ray knows of a worker that died."""

    def __init__(self, mailbox: Reference) -> None:
        self._mailbox = mailbox

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        # Ray Train wraps the error of a worker that does not response.
        errors = {rank: getattr(error, "health_check_failure", error) for rank, error in worker_exceptions.items()}
        deaths = {rank: error for rank, error in errors.items() if isinstance(error, ACTOR_DIED)}
        memory = next((describe_death(error) for error in deaths.values() if died_for_memory(error)), None)
        preempted = any(map(died_by_preemption, deaths.values()))
        ray.get(self._mailbox.group_failed.remote(memory, preempted, list(deaths)))
