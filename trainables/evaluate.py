"""Held-out losses by entropy group, with no dropout.

Shapes: R rows, T positions; B rows of one forward pass.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables import parallel
from trainables.packing import Packed

# Rows of one forward pass.
ROWS = 8


@dataclass(frozen=True)
class HeldOut:
    """A frozen evaluation set on a device; the masks are aligned to the labels, not to the tokens.

    Attributes:
        packed: the rows.
        high_RT, low_RT: masks of the labels in the two entropy groups; None where only the whole counts.
    """

    packed: Packed
    label_RT: Tensor
    high_RT: Tensor | None = None
    low_RT: Tensor | None = None

    @classmethod
    def on(cls, device: torch.device, packed: Packed, groups: tuple[Tensor, Tensor] | None = None) -> "HeldOut":
        """From masks aligned to the tokens: the label of position i is token i + 1."""
        high_RT, low_RT = (
            (nn.functional.pad(mask[:, 1:], (0, 1)).to(device) for mask in groups) if groups else (None, None)
        )
        return cls(packed.to(device), packed.label_RT.to(device), high_RT, low_RT)


@torch.no_grad()
def evaluate(forward: nn.Module, held_out: HeldOut, precision: torch.dtype, rows: int = ROWS) -> dict[str, float]:
    """Means over held-out tokens; losses in nats.

    Sums and counts are reduced over all ranks, then divided.

    Args:
        forward: a `Forward`, the same number of times on every rank.
        rows: rows of one forward pass.

    Returns:
        loss, and where there are groups high_entropy_loss, low_entropy_loss and high_entropy_accuracy (share of the
        high-entropy tokens that are the likeliest one).
    """
    forward.eval()
    packed = held_out.packed
    totals = torch.zeros(8, dtype=torch.float64, device=packed.token_RT.device)
    for part, mine in parallel.parts(len(packed.token_RT), rows):
        batch = packed[part]
        label_BT = held_out.label_RT[part]
        result = forward(batch, label_BT, precision)
        if not mine:
            continue
        loss_BT = result.loss_N.reshape(label_BT.shape).double()
        values = [(loss_BT, label_BT >= 0)]
        if held_out.high_RT is not None and held_out.low_RT is not None:
            high_BT, low_BT = held_out.high_RT[part], held_out.low_RT[part]
            correct_BT = result.correct_N.reshape(label_BT.shape)
            values += [(loss_BT, high_BT), (loss_BT, low_BT), (correct_BT, high_BT)]
        for i, (value_BT, mask_BT) in enumerate(values):
            totals[2 * i] += (value_BT * mask_BT).sum()
            totals[2 * i + 1] += mask_BT.sum()
    sums = parallel.sum_over_ranks(totals).tolist()
    names = ["loss", "high_entropy_loss", "low_entropy_loss", "high_entropy_accuracy"]
    if held_out.high_RT is None:
        del names[1:]
    return {name: sums[2 * i] / sums[2 * i + 1] if sums[2 * i + 1] else math.nan for i, name in enumerate(names)}
