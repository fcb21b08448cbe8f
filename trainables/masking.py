"""Which tokens are dropped, and how a dropped token is presented to the model.

Shapes: B rows, T positions, D embedding width.
"""

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea, Flood 2014): increment and the two multipliers, as signed 64-bit integers.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def uniforms(seed: int, epoch: int, document_BT: Tensor, position_BT: Tensor) -> Tensor:
    """Numbers in [0, 1), each a pure function of (seed, epoch, document, position in the document).

    They do not depend on packing, on the order of the data, on the number of workers or on the device, so that a
    resumed run, or one with more workers, drops the same tokens.

    Args:
        document_BT: index of each token's document, int64.
        position_BT: index of each token in its document, int64.

    Returns:
        float64 of shape BT, multiples of 2**-53.
    """
    state = _mix(_mix(torch.full_like(document_BT, seed)) + epoch)
    bits_BT = _mix(_mix(state + document_BT) + position_BT)
    return _shift_right(bits_BT, 11).to(torch.float64) * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's output function; int64 arithmetic wraps as the unsigned original does."""
    x = x + _GAMMA
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's own shift keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def dropped_tokens(
    entropy_BT: Tensor, threshold: float, rate: float, uniform_BT: Tensor, droppable_BT: Tensor
) -> Tensor:
    """The tokens to drop: low-entropy (H <= threshold), droppable, and drawn with probability `rate`.

    Args:
        entropy_BT: entropy of each token given the tokens before it, in nats.
        threshold: tau, in nats.
        rate: mask_ratio * c(u), in [0, 1].
        uniform_BT: from `uniforms`.
        droppable_BT: false for special tokens, padding and the first token of a document. (A zero embedding there
            leaves the residual stream at exactly zero, where the gradient of RMSNorm overflows.)

    Returns:
        bool of shape BT.
    """
    return (entropy_BT <= threshold) & droppable_BT & (uniform_BT < rate)


def zero_inputs(embedding_BTD: Tensor, dropped_BT: Tensor) -> Tensor:
    """Presentation `input`: the embedding of a dropped token is replaced by zeros; its label stays."""
    return embedding_BTD.masked_fill(dropped_BT.unsqueeze(-1), 0.0)


def ignore_labels(label_BT: Tensor, dropped_BT: Tensor, ignore_index: int = -100) -> Tensor:
    """Presentation `loss`: a dropped token's label leaves the loss; its input stays.

    Args:
        label_BT: the token at each position itself, not shifted.
    """
    return label_BT.masked_fill(dropped_BT, ignore_index)
