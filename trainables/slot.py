"""A warm slot: a Tune trainable that keeps one Ray Train worker group and hands it one trial after another.

Starting a worker group takes seconds (processes, imports, process group, CUDA context, weights); handing a running
group the next trial takes a fraction of one.
"""

import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.train import FailureConfig, RunConfig, ScalingConfig

from trainables.mailbox import Answer, Assignment, Mailbox, Order, Reference
from trainables.settings import ModelSettings

# How often a waiting slot looks whether its Ray Train run is still alive, in seconds.
_LOOK = 5.0
_END_TIMEOUT = 20.0


@dataclass(frozen=True)
class SlotConfig:
    """What all slots of a search share.

    Attributes:
        workers: Ray Train workers of a slot, the ranks of its process group.
        cpus, gpus: of each worker; a worker uses `cpus` threads.
        prepared: for each model, the reference to its `Prepared`.
        how: how the workers build a model.
        storage: folder for Ray Train's own files.
        restarts: worker groups that a trial may lose before it fails.
    """

    workers: int
    cpus: int
    gpus: int
    prepared: dict[str, Reference]
    how: ModelSettings
    storage: Path
    restarts: int = 2


class Slot(tune.Trainable):  # type: ignore[misc]
    """Each Tune step is one evaluation interval of the trial at hand.

    A trial's config has "name", "model", "settings" (Settings.to_json), "checkpoint" and "test". A result has the
    metrics of `Run.advance`, the "seconds" that these took, and "failure", "detail", "test" and "data_error" of its
    trainables.mailbox.Answer. A trial's first result has "overhead_s", the seconds from the end of the trial before it
    to its own first training step; a slot's first has "slot_start_s" instead.
    """

    def setup(self, config: dict[str, Any], slot: SlotConfig) -> None:
        self._idle_since = time.time()
        self._started = False
        self._slot = slot
        self._number = 0
        self._error: BaseException | None = None
        self._mailbox = Mailbox.remote()  # type: ignore[attr-defined]
        self._run = threading.Thread(target=self._fit, daemon=True)
        self._run.start()
        self.reset_config(config)

    def _fit(self) -> None:
        # Importing torch here and not at the top lets the slot's process start its workers sooner.
        from ray.train.torch import TorchConfig, TorchTrainer

        from trainables.worker import serve

        resources: dict[str, float] = {"CPU": self._slot.cpus}
        if self._slot.gpus:
            resources["GPU"] = self._slot.gpus
        try:
            TorchTrainer(
                serve,
                train_loop_config={"mailbox": self._mailbox, "threads": self._slot.cpus, "how": self._slot.how},
                torch_config=TorchConfig(backend="nccl" if self._slot.gpus else "gloo"),
                scaling_config=ScalingConfig(
                    num_workers=self._slot.workers,
                    use_gpu=self._slot.gpus > 0,
                    resources_per_worker=resources,
                ),
                run_config=RunConfig(
                    name=f"slot-{os.getpid()}",
                    storage_path=str(self._slot.storage),
                    # Workers may die again and again over a slot's life; how often in one trial is counted here.
                    failure_config=FailureConfig(max_failures=-1, controller_failure_limit=3),
                ),
            ).fit()
        except BaseException as error:
            self._error = error

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        # The reference is passed on as it is: only the workers, which have torch loaded, read what it refers to.
        self._assignment = Assignment(
            new_config["name"],
            self._slot.prepared[new_config["model"]],
            new_config["settings"],
            Path(new_config["checkpoint"]),
            new_config["test"],
        )
        self._evaluations = 0
        return True

    def step(self) -> dict[str, Any]:
        self._evaluations += 1
        self._number += 1
        began = time.time()
        ray.get(self._mailbox.put_order.remote(Order(self._number, self._assignment, self._evaluations)))
        answer = self._await_answer()
        result: dict[str, Any] = {
            **answer.metrics,
            "seconds": time.time() - max(began, answer.first_step_at or began),
            "failure": answer.failure,
            "detail": answer.detail,
            # Tune flattens mappings.
            "test": answer.test and json.dumps(answer.test),
            "data_error": answer.data_error,
        }
        if not self._started and answer.received_at is not None:
            result["slot_start_s"] = answer.received_at - self._idle_since
        elif self._evaluations == 1 and answer.first_step_at is not None:
            result["overhead_s"] = answer.first_step_at - self._idle_since
        self._started = True
        self._idle_since = time.time()
        return result

    def _await_answer(self) -> Answer:
        while True:
            answer: Answer | None = ray.get(self._mailbox.answer.remote(self._number, _LOOK))
            if answer is not None:
                return answer
            if not self._run.is_alive():
                raise RuntimeError(f"the slot's worker group ended: {self._error}")
            lost = ray.get(self._mailbox.groups_lost.remote())
            if lost > self._slot.restarts:
                answer = Answer(self._number, {}, "worker lost", f"{lost} worker groups lost")
                # The next group must not take this order up again.
                ray.get(self._mailbox.put_answer.remote(answer))
                return answer

    def cleanup(self) -> None:
        """Ends the workers and waits until Ray Train has given back what they held."""
        ray.get(self._mailbox.put_order.remote(Order(self._number + 1, None)))
        self._run.join(_END_TIMEOUT)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the worker writes each run's checkpoint itself."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the worker reads it itself."""
