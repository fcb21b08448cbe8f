"""Held-out losses by entropy group, with no dropout.

Shapes: R rows, T positions; B rows of one forward pass, N = B T; M measures, K documents.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables import parallel
from trainables.data.packing import Packed
from trainables.forward import ROWS

MEASURES = ("loss", "high_entropy_loss", "low_entropy_loss", "high_entropy_accuracy")


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


@dataclass(frozen=True)
class Measured:
    """Sums over the tokens of each document, losses in nats, and how many tokens are in each sum.

    Attributes:
        names: of the measures: loss, and where there are groups high_entropy_loss, low_entropy_loss and
            high_entropy_accuracy (of the high-entropy tokens, those that are the likeliest one).
        sum_MK, count_MK: float64, on the CPU.
    """

    names: tuple[str, ...]
    sum_MK: Tensor
    count_MK: Tensor

    def means(self) -> dict[str, float]:
        """Means over the tokens of all documents; NaN without any token."""
        return dict(zip(self.names, (self.sum_MK.sum(dim=1) / self.count_MK.sum(dim=1)).tolist(), strict=True))

    def to_json(self) -> dict[str, dict[str, list[float]]]:
        """For each measure the documents' sums and counts."""
        return {
            name: {"sums": sums, "counts": counts}
            for name, sums, counts in zip(self.names, self.sum_MK.tolist(), self.count_MK.tolist(), strict=True)
        }


def evaluate(forward: nn.Module, held_out: HeldOut, precision: torch.dtype, rows: int = ROWS) -> dict[str, float]:
    """Means over held-out tokens, as `Measured.means` gives them."""
    return measure(forward, held_out, precision, rows).means()


@torch.no_grad()
def measure(forward: nn.Module, held_out: HeldOut, precision: torch.dtype, rows: int = ROWS) -> Measured:
    """Losses by document, without dropout; sums and counts are over all ranks.

    Args:
        forward: a `Forward`, the same number of times on every rank.
        rows: rows of one forward pass.
    """
    forward.eval()
    packed = held_out.packed
    names = MEASURES if held_out.high_RT is not None else MEASURES[:1]
    documents = int(packed.document_RT.max()) + 1
    total_2MK = torch.zeros(2, len(names), documents, dtype=torch.float64, device=packed.token_RT.device)
    for part, mine in parallel.parts(len(packed.token_RT), rows):
        label_BT = held_out.label_RT[part]
        result = forward(packed[part], label_BT, precision)
        if not mine:
            continue
        loss_N, correct_N = result.loss_N.double(), result.correct_N.double()
        values = [(loss_N, label_BT >= 0)]
        if held_out.high_RT is not None and held_out.low_RT is not None:
            high_BT, low_BT = held_out.high_RT[part], held_out.low_RT[part]
            values += [(loss_N, high_BT), (loss_N, low_BT), (correct_N, high_BT)]
        # What is no document's has no label either: it adds nothing.
        document_N = packed.document_RT[part].flatten().clamp(min=0)
        for i, (value_N, mask_BT) in enumerate(values):
            mask_N = mask_BT.flatten()
            total_2MK[0, i].index_add_(0, document_N, value_N * mask_N)
            total_2MK[1, i].index_add_(0, document_N, mask_N.double())
    sum_MK, count_MK = parallel.sum_over_ranks(total_2MK).cpu()
    return Measured(names, sum_MK, count_MK)
