"""A Tune trainable that answers at once: what is left of a search is its bookkeeping."""

import random
from typing import Any

import ray
from ray import tune

from trainables.slots.mailbox import Mailbox, RunSpec, TrainRequest, TrainResponse
from trainables.slots.slot import SlotReport

REPORTS, TOKENS = 20, 100
# Seconds that the driver may take to handle a trial's last report.
_END_S = 600.0


class Instant(tune.Trainable):
    """It trains nothing. Its made-up losses fall by random steps to the end."""

    def setup(self, config: dict[str, Any], slot: Any = None) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._evaluations = new_config.get("done", 0)
        self._draw, self._loss = random.Random(repr(new_config)), 8.0
        return True

    def step(self) -> dict[str, Any]:
        self._evaluations += 1
        self._loss -= self._draw.uniform(0.02, 0.2)
        loss = self._loss
        return {
            "loss": loss / 3,
            "high_entropy_loss": loss,
            "low_entropy_loss": loss / 9,
            "high_entropy_accuracy": 1 / loss,
            "train_loss": loss / 4,
            "mask_rate": 0.1,
            "curriculum_strength": self._evaluations / REPORTS,
            "learning_rate": 1e-3,
            "tokens": float(TOKENS * self._evaluations),
            "epoch": float(self._evaluations),
            "tokens_per_s": 1000.0,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load."""


class InstantSlot(Instant):
    """The same as a slot: it runs ahead, and hears from its mailbox when the trial has ended. None is stopped early."""

    def setup(self, config: dict[str, Any], slot: Any = None) -> None:
        self._mailbox, self._number = Mailbox.remote(), 0  # type: ignore[attr-defined]
        super().setup(config, slot)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run = RunSpec(new_config["name"], None, {}, "")
        return super().reset_config(new_config)

    def step(self) -> dict[str, Any]:
        self._number += 1
        evaluations = self._evaluations + 1 if self._evaluations < REPORTS else None
        ray.get(self._mailbox.put_request.remote(TrainRequest(self._number, self._run, evaluations)))
        if evaluations is None:
            ended = ray.get(self._mailbox.wait_for_response.remote(self._number, _END_S))
            return {"report": SlotReport(ended), "done": True}
        ray.get(self._mailbox.next_request.remote(self._number - 1, 0, 0))
        response = TrainResponse(self._number, super().step())
        return {"report": SlotReport(response, seconds=0.1, mailbox=self._mailbox)}
