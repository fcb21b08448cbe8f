"""A Tune trainable that answers at once: what is left of a search is its bookkeeping."""

import random
from typing import Any

from ray import tune

from trainables.slots.mailbox import TrainResponse
from trainables.slots.slot import SlotReport

REPORTS, TOKENS = 20, 100


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
    """The same with the report of a slot."""

    def step(self) -> dict[str, Any]:
        return {"report": SlotReport(TrainResponse(self._evaluations + 1, super().step()), seconds=0.1)}
