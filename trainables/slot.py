"""A warm slot: a Tune trainable that keeps one Ray Train worker group and hands it one trial after another.

Starting a worker group takes seconds (processes, imports, process group, CUDA context, weights); handing a running
group the next trial takes a fraction of one.
"""

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import GetTimeoutError

from trainables.deaths import ACTOR_DIED, cause_of_death
from trainables.mailbox import Answer, Assignment, Health, Mailbox, Order, Reference
from trainables.placement import this_node
from trainables.slot_config import SlotConfig

# How often a waiting slot looks how its workers are, in seconds.
_LOOK = 1.0
_END_TIMEOUT = 20.0


class NoRoomError(RuntimeError):
    """The cluster has shrunk, and this slot is one of those that find no place any more."""


class Slot(tune.Trainable):  # type: ignore[misc]
    """Each Tune step is one evaluation interval of the trial at hand.

    A trial's config has "name", "model", "settings" (Settings.to_json), "checkpoint", "test", "keep"
    (trainables.mailbox.Keep, or None), and "done", the evaluations that are not to be reported again. A result has the
    metrics of `Run.advance`, the "seconds" that these took, and "failure", "detail", "test", "fatal" and "interrupted"
    of its trainables.mailbox.Answer; "accumulation", if the trial went on with smaller micro-batches. A trial's first
    result has "overhead_s", the seconds from the end of the trial before it to its own first training step; a slot's
    first has "slot_start_s" instead.
    """

    def setup(self, config: dict[str, Any], slot: SlotConfig) -> None:
        self._idle_since = time.monotonic()
        self._started = False
        self._slot = slot
        self._number = 0
        self._error: BaseException | None = None
        # In Ray's own folder on this node: nothing in it is needed by another one.
        self._group_folder = Path(self.logdir) / "group"
        self._mailbox = Mailbox.options(scheduling_strategy=this_node()).remote()  # type: ignore[attr-defined]
        self._run = threading.Thread(target=self._fit, daemon=True)
        self._run.start()
        self.reset_config(config)

    def _fit(self) -> None:
        # Imported here and not at the top: the slot's process begins its mailbox while it loads what is large.
        from trainables.group import run_group

        try:
            run_group(self._slot, self._mailbox, self._group_folder)
        except BaseException as error:
            self._error = error

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        # The reference is passed on as it is: only the workers, which have torch loaded, read what it refers to.
        self._assignment = Assignment(
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
        return True

    def step(self) -> dict[str, Any]:
        self._evaluations += 1
        answer = self._ordered()
        while answer.failure == "out of memory":
            if (smaller := self._smaller()) is not None:
                self._assignment = smaller
            elif answer.ended and self._ended < self._slot.restarts:
                # As after any loss of a worker: it need not be this trial that takes too much.
                self._ended += 1
            else:
                break
            answer = self._ordered()
        result: dict[str, Any] = {
            **answer.metrics,
            "seconds": answer.busy_s - (answer.setup_s or 0.0),
            "failure": answer.failure,
            "detail": answer.detail,
            # Tune flattens mappings.
            "test": answer.test and json.dumps(answer.test),
            "fatal": answer.fatal,
            "interrupted": answer.interrupted,
        }
        if self._assignment.settings != self._given:
            result["accumulation"] = self._assignment.settings["accumulation"]
        if answer.setup_s is not None:
            # What is neither the workers' own time nor the slot's idle time is what an order takes to reach them.
            reached_s = time.monotonic() - self._idle_since - answer.busy_s
            if not self._started:
                result["slot_start_s"] = reached_s
            elif self._begins:
                result["overhead_s"] = reached_s + answer.setup_s
        self._started, self._begins = True, False
        self._idle_since = time.monotonic()
        return result

    def _smaller(self) -> Assignment | None:
        """The assignment with micro-batches of half the rows, and the same batches; None if it has them already, or if
        they cannot be halved."""
        settings = self._assignment.settings
        accumulation = 2 * settings["accumulation"]
        if settings != self._given or settings["batch_size"] % (accumulation * self._slot.workers):
            return None
        return replace(self._assignment, settings={**settings, "accumulation": accumulation})

    def _ordered(self) -> Answer:
        """Orders the evaluation at hand, and waits for the answer."""
        self._number += 1
        ray.get(self._mailbox.put_order.remote(Order(self._number, self._assignment, self._evaluations)))
        while True:
            answer: Answer | None = ray.get(self._mailbox.answer.remote(self._number, _LOOK))
            if answer is not None:
                return answer
            if not self._run.is_alive():
                raise RuntimeError(f"the slot's worker group ended: {self._why_ended()}")
            health: Health = ray.get(self._mailbox.health.remote())
            if self._told(self._slot.bell.rung.remote()):
                if health.silent_s is None:
                    return Answer(self._number, {}, interrupted=True)
                ray.get(self._mailbox.interrupt.remote())
            elif not health.placed and self._told(self._slot.bell.gives_way.remote()):
                raise NoRoomError("the cluster has no room for this slot")
            elif health.groups_lost > self._slot.restarts:
                # The next group must not take this order up again.
                self._give_up("worker lost", f"{health.groups_lost} worker groups lost", group_ends=False)
            elif health.silent_s is not None and health.silent_s > self._slot.hang_s:
                self._give_up("hang", f"no progress for {health.silent_s:.0f} s", group_ends=True)
                for worker in ray.get(self._mailbox.workers.remote()):
                    ray.kill(worker)

    def _told(self, said: Reference) -> bool:
        """What the bell says; no while Ray starts it again."""
        try:
            return bool(ray.get(said, timeout=_LOOK))
        except (GetTimeoutError, *ACTOR_DIED):
            return False

    def _why_ended(self) -> str:
        # Ray Train wraps what befell its controller.
        error = getattr(self._error, "controller_failure", self._error)
        return cause_of_death(error) if isinstance(error, ACTOR_DIED) else str(error)

    def _give_up(self, failure: str, detail: str, group_ends: bool) -> None:
        """Answers in the workers' place, so that a group that starts anew waits for the next order."""
        ray.get(self._mailbox.put_answer.remote(Answer(self._number, {}, failure, detail), group_ends))

    def cleanup(self) -> None:
        """Ends the workers and waits until Ray Train has given back what they held."""
        ray.get(self._mailbox.put_order.remote(Order(self._number + 1, None)))
        self._run.join(_END_TIMEOUT)
        shutil.rmtree(self._group_folder, ignore_errors=True)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the worker writes each run's checkpoint itself."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the worker reads it itself."""
