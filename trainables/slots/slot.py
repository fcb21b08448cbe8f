"""A warm slot: a Tune trainable that keeps one Ray Train worker group and hands it one trial after another.

Starting a worker group takes seconds (processes, imports, process group, CUDA context, weights); handing a running
group the next trial takes a fraction of one.
"""

import shutil
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import GetTimeoutError

from trainables.slots.actors import ACTOR_DIED, describe_death, place_on_this_node
from trainables.slots.mailbox import Failure, GroupHealth, Mailbox, Reference, RunSpec, TrainRequest, TrainResponse
from trainables.slots.shared import SlotConfig

# How often a waiting slot looks how its workers are, in seconds.
_LOOK = 1.0
_END_TIMEOUT = 20.0


@dataclass(frozen=True)
class SlotReport:
    """How an evaluation interval of a trial went. Tune adds keys of its own to a result, and flattens mappings: a
    result of a slot is {"report": SlotReport}.

    Attributes:
        response: of the workers.
        seconds: that the interval took them.
        accumulation: if the trial went on with smaller micro-batches.
        overhead_s: of a trial's first report, the seconds from the end of the trial before it to its own first training
            step; None for a slot's first one.
        slot_start_s: of a slot's first report instead.
        mailbox: of a trial's first report, the `Mailbox` that hears whether the trial goes on.
    """

    response: TrainResponse
    seconds: float = 0.0
    accumulation: int | None = None
    overhead_s: float | None = None
    slot_start_s: float | None = None
    mailbox: Reference | None = None


class NoRoomError(RuntimeError):
    """The cluster has shrunk, and this slot is one of those that find no place any more."""


class Slot(tune.Trainable):  # type: ignore[misc]
    """Each Tune step is one evaluation interval of the trial at hand, but for its last step, which waits until the
    driver has stopped the trial: it does so for each one, also for one that has come to its end or failed.

    A trial's config has "name", "model", "settings" (Settings.to_json), "checkpoint", "test", "keep" (an `ExportSpec`,
    or None), and "done", the evaluations that are not to be reported again. A result has "report", a `SlotReport`; the
    last one has "done" as well, and its report what was discarded.
    """

    def setup(self, config: dict[str, Any], slot: SlotConfig) -> None:
        self._idle_since = time.monotonic()
        self._started = False
        self._slot = slot
        self._number = 0
        self._error: BaseException | None = None
        # In Ray's own folder on this node: nothing in it is needed by another one.
        self._group_folder = Path(self.logdir) / "group"
        self._mailbox = Mailbox.options(scheduling_strategy=place_on_this_node()).remote()  # type: ignore[attr-defined]
        self._run = threading.Thread(target=self._fit, daemon=True)
        self._run.start()
        self.reset_config(config)

    def _fit(self) -> None:
        # Imported here and not at the top: the slot's process begins its mailbox while it loads what is large.
        from trainables.slots.worker_group import run_group

        try:
            run_group(self._slot, self._mailbox, self._group_folder)
        except BaseException as error:
            self._error = error

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        # The reference is passed on as it is: only the workers, which have torch loaded, read what it refers to.
        self._run_spec = RunSpec(
            new_config["name"],
            self._slot.prepared[new_config["model"]],
            new_config["settings"],
            new_config["checkpoint"],
            new_config["test"],
            new_config["keep"],
        )
        self._given: dict[str, Any] = new_config["settings"]
        self._evaluations: int = new_config["done"]
        self._ended = 0
        self._begins = True
        # Nothing is left to train; it has been told that the search ends.
        self._over = self._interrupted = False
        return True

    def step(self) -> dict[str, Any]:
        self._evaluations += 1
        response = self._request_evaluation()
        while response.failure == Failure.OUT_OF_MEMORY:
            if (smaller := self._halve_micro_batches()) is not None:
                self._run_spec = smaller
            elif response.ended and self._ended < self._slot.restarts:
                # As after any loss of a worker: it need not be this trial that takes too much.
                self._ended += 1
            else:
                break
            response = self._request_evaluation()
        report = SlotReport(response, response.busy_s - (response.setup_s or 0.0))
        if self._run_spec.settings != self._given:
            report = replace(report, accumulation=self._run_spec.settings["accumulation"])
        if self._begins:
            report = replace(report, mailbox=self._mailbox)
        if response.setup_s is not None:
            # What is neither the workers' own time nor the slot's idle time is what a request takes to reach them.
            reached_s = time.monotonic() - self._idle_since - response.busy_s
            if not self._started:
                report = replace(report, slot_start_s=reached_s)
            elif self._begins:
                report = replace(report, overhead_s=reached_s + response.setup_s)
        self._started, self._begins = True, False
        self._idle_since = time.monotonic()
        self._over = self._over or response.last or response.interrupted or response.failure is not None
        self._interrupted = self._interrupted or response.interrupted
        return {"report": report} if response.discarded is None else {"report": report, "done": True}

    def _halve_micro_batches(self) -> RunSpec | None:
        """The run with micro-batches of half the rows, and the same batches; None if it has them already, or if
        they cannot be halved."""
        settings = self._run_spec.settings
        accumulation = 2 * settings["accumulation"]
        if settings != self._given or settings["batch_size"] % (accumulation * self._slot.workers):
            return None
        return replace(self._run_spec, settings={**settings, "accumulation": accumulation})

    def _request_evaluation(self) -> TrainResponse:
        """Requests the evaluation at hand, and waits for the response."""
        self._number += 1
        evaluations = None if self._over else self._evaluations
        ray.get(self._mailbox.put_request.remote(TrainRequest(self._number, self._run_spec, evaluations)))
        while True:
            response: TrainResponse | None = ray.get(self._mailbox.wait_for_response.remote(self._number, _LOOK))
            if response is not None:
                return response
            if not self._run.is_alive():
                raise RuntimeError(f"the slot's worker group ended: {self._describe_end()}")
            health: GroupHealth = ray.get(self._mailbox.health.remote())
            if not self._interrupted and self._ask_stop_signal(self._slot.stop_signal.stopped.remote()):
                if health.silent_s is None:
                    return TrainResponse(self._number, {}, interrupted=True)
                ray.get(self._mailbox.interrupt.remote())
            elif not health.placed and self._ask_stop_signal(self._slot.stop_signal.should_exit.remote()):
                raise NoRoomError("the cluster has no room for this slot")
            elif health.groups_lost > self._slot.restarts:
                # The next group must not take this request up again.
                self._give_up(Failure.WORKER_LOST, f"{health.groups_lost} worker groups lost", group_ends=False)
            elif health.silent_s is not None and health.silent_s > self._slot.hang_s:
                self._give_up(Failure.HANG, f"no progress for {health.silent_s:.0f} s", group_ends=True)
                for worker in ray.get(self._mailbox.workers.remote()):
                    ray.kill(worker)

    def _ask_stop_signal(self, said: Reference) -> bool:
        """What the stop signal says; no while Ray starts it again."""
        try:
            return bool(ray.get(said, timeout=_LOOK))
        except (GetTimeoutError, *ACTOR_DIED):
            return False

    def _describe_end(self) -> str:
        # Ray Train wraps what befell its controller.
        error = getattr(self._error, "controller_failure", self._error)
        return describe_death(error) if isinstance(error, ACTOR_DIED) else str(error)

    def _give_up(self, failure: Failure, detail: str, group_ends: bool) -> None:
        """Responds in the workers' place, so that a group that starts anew waits for the next request."""
        ray.get(self._mailbox.put_response.remote(TrainResponse(self._number, {}, failure, detail), group_ends))

    def cleanup(self) -> None:
        """Ends the workers and waits until Ray Train has given back what they held."""
        ray.get(self._mailbox.put_request.remote(TrainRequest(self._number + 1, None)))
        self._run.join(_END_TIMEOUT)
        shutil.rmtree(self._group_folder, ignore_errors=True)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the worker writes each run's checkpoint itself."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the worker reads it itself."""
