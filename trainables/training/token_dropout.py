"""EntroDrop on a batch: which of its tokens are dropped, and what the model sees and learns instead.

Shapes: R rows of the training split, B rows of a batch, T positions.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.data.packing import Packed
from trainables.masking import (
    DRAW,
    REPLACE,
    candidates,
    dropped_range,
    dropped_tokens,
    ignore_labels,
    mask_tokens,
    random_tokens,
    uniforms,
)
from trainables.settings import EntroDrop
from trainables.training.warm_model import WarmModel


@dataclass(frozen=True)
class PresentedBatch:
    """A batch as the model sees it, on the device.

    Attributes:
        dropped_BT: the tokens that are dropped.
        by_zeros: whether zeros replace their embeddings.
    """

    rows: Packed
    label_BT: Tensor
    dropped_BT: Tensor
    by_zeros: bool


def present_all(warm: WarmModel, batch_B: Tensor) -> PresentedBatch:
    """The rows `batch_B` with no token dropped."""
    rows = warm.train[batch_B]
    return PresentedBatch(rows, rows.label_RT, torch.zeros_like(rows.special_RT), by_zeros=False)


class TokenDropout:
    """Drops tokens of the training rows, as a pure function of seed, epoch (or not) and place in the data.

    Attributes:
        entropy_RT: of the training tokens, in nats, by which they are candidates.
        metrics: the ends of the candidates' entropies that there are, in nats, and the share of the candidates that is
            dropped at full strength.
    """

    entropy_RT: Tensor
    metrics: dict[str, float]

    def __init__(self, warm: WarmModel, entrodrop: EntroDrop, seed: int) -> None:
        self._warm, self._entrodrop, self._seed = warm, entrodrop, seed
        self.refresh_epochs = entrodrop.refresh_epochs
        self.set_entropies(warm.entropy_RT)

    def set_entropies(self, entropy_RT: Tensor) -> None:
        """Fixes which of the training tokens may be dropped."""
        self.entropy_RT = entropy_RT
        droppable_RT = self._warm.droppable_RT
        least, greatest, self._rate = dropped_range(self._entrodrop, entropy_RT, droppable_RT)
        ends = {"least_dropped_entropy": least, "greatest_dropped_entropy": greatest}
        self.metrics = {name: entropy for name, entropy in ends.items() if math.isfinite(entropy)}
        self.metrics["full_mask_rate"] = self._rate * self._entrodrop.mask_ratio
        candidate_RT = candidates(entropy_RT, droppable_RT, least, greatest)
        # The last row is the empty one.
        self._candidate_RT = nn.functional.pad(candidate_RT, (0, 0, 0, 1)).to(self._warm.device)

    def present(self, batch_B: Tensor, epoch: int, strength: float) -> PresentedBatch:
        """The rows `batch_B` with tokens dropped at mask_ratio * `strength`, the curriculum's value in [0, 1]."""
        rows, presentation = self._warm.train[batch_B], self._entrodrop.presentation
        label_BT = rows.label_RT
        draw = self._entrodrop.draw(epoch)

        def uniform_BT(stream: int) -> Tensor:
            return uniforms(self._seed, draw, rows.document_RT, rows.position_RT, stream)

        rate = self._rate * self._entrodrop.mask_ratio * strength
        dropped_BT = dropped_tokens(self._candidate_RT[batch_B], rate, uniform_BT(DRAW))
        match presentation:
            case "loss":
                label_BT = ignore_labels(label_BT, dropped_BT)
            case "input_mask_token":
                mask_token = self._warm.prepared.vocabulary.mask_token
                assert mask_token is not None
                rows = rows.with_tokens(mask_tokens(rows.token_RT, dropped_BT, mask_token))
            case "input_random_token":
                ordinary_W = self._warm.ordinary_W
                rows = rows.with_tokens(random_tokens(rows.token_RT, dropped_BT, uniform_BT(REPLACE), ordinary_W))
        return PresentedBatch(rows, label_BT, dropped_BT, presentation == "input")
