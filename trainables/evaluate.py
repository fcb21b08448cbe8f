"""Held-out losses by entropy group, with no dropout.

Shapes: R rows, T positions; N labelled positions of a batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trainables import parallel
from trainables.loss import token_loss
from trainables.models import embed, hidden_states, output_matrix
from trainables.packing import Packed


@dataclass(frozen=True)
class HeldOut:
    """A frozen evaluation set on a device; `high_RT` and `low_RT` are aligned to the labels, not to the tokens.

    Attributes:
        packed: the rows.
        high_RT, low_RT: masks of the labels in the two entropy groups.
    """

    packed: Packed
    label_RT: Tensor
    high_RT: Tensor
    low_RT: Tensor

    @classmethod
    def on(cls, device: torch.device, packed: Packed, groups: tuple[Tensor, Tensor]) -> "HeldOut":
        """From masks aligned to the tokens: the label of position i is token i + 1."""
        high_RT, low_RT = (torch.nn.functional.pad(mask[:, 1:], (0, 1)).to(device) for mask in groups)
        return cls(packed.to(device), packed.label_RT.to(device), high_RT, low_RT)


@torch.no_grad()
def evaluate(model: PreTrainedModel, held_out: HeldOut, precision: torch.dtype, rows: int = 8) -> dict[str, float]:
    """Mean loss over all, the high-entropy and the low-entropy held-out tokens, in nats.

    Sums and counts are reduced over all ranks, then divided.

    Args:
        rows: rows of one forward pass.
    """
    model.eval()
    packed = held_out.packed
    device = packed.token_RT.device
    totals = torch.zeros(6, dtype=torch.float64, device=device)
    for start in range(parallel.rank() * rows, len(packed.token_RT), parallel.size() * rows):
        part = slice(start, start + rows)
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            hidden_BTD = hidden_states(
                model, embed(model, packed.token_RT[part]), packed.document_RT[part], packed.position_RT[part]
            )
        label_BT = held_out.label_RT[part]
        weight_VD = output_matrix(model).to(hidden_BTD.dtype)
        loss_N, _ = token_loss(hidden_BTD.flatten(0, 1), weight_VD, label_BT.flatten(), entropy=False)
        loss_BT = loss_N.reshape(label_BT.shape).double()
        for i, mask_BT in enumerate((label_BT >= 0, held_out.high_RT[part], held_out.low_RT[part])):
            totals[2 * i] += (loss_BT * mask_BT).sum()
            totals[2 * i + 1] += mask_BT.sum()
    sums = parallel.sum_over_ranks(totals).tolist()
    names = ("loss", "high_entropy_loss", "low_entropy_loss")
    return {name: sums[2 * i] / sums[2 * i + 1] for i, name in enumerate(names)}
