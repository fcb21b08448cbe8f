"""Which tokens are dropped, and how a dropped token is presented to the model.

Shapes: B rows, T positions, D embedding width.
"""

import math

import torch
from torch import Tensor

from trainables.entropy import threshold
from trainables.settings import EntroDrop

# SplitMix64 (Steele, Lea, Flood 2014): increment and the two multipliers, as signed 64-bit integers.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
# Seeds are less than this.
_STREAM = 1 << 40
# Streams: which tokens are dropped, and what stands in for them.
DRAW, REPLACE = 0, 1


def uniforms(seed: int, epoch: int, document_BT: Tensor, position_BT: Tensor, stream: int = DRAW) -> Tensor:
    """Numbers in [0, 1), each a pure function of (seed, epoch, document, position in the document).

    They do not depend on packing, on the order of the data, on the number of workers or on the device, so that a
    resumed run, or one with more workers, drops the same tokens.

    Args:
        document_BT: index of each token's document, int64.
        position_BT: index of each token in its document, int64.
        stream: tells draws for different ends apart.

    Returns:
        float64 of shape BT, multiples of 2**-53.
    """
    state = _mix(_mix(torch.full_like(document_BT, seed + stream * _STREAM)) + epoch)
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


def dropped_tokens(candidate_BT: Tensor, rate: float, uniform_BT: Tensor) -> Tensor:
    """The candidates (as `candidates` gives them) drawn with probability `rate`, in [0, 1]; bool of shape BT."""
    return candidate_BT & (uniform_BT < rate)


def dropped_range(entrodrop: EntroDrop, entropy_RT: Tensor, droppable_RT: Tensor) -> tuple[float, float, float]:
    """The least and the greatest entropy of a candidate, in nats, and a factor of the rate.

    The random control drops as many tokens as the method would: fewer of more candidates.
    """
    tau = entrodrop.nats
    if tau is None:
        assert entrodrop.quantile is not None
        tau = threshold(entropy_RT, droppable_RT, entrodrop.quantile)
    share = float((entropy_RT[droppable_RT] <= tau).double().mean())
    match entrodrop.tokens:
        case "low_entropy":
            return -math.inf, tau, 1.0
        case "high_entropy":
            return threshold(entropy_RT, droppable_RT, 1 - share), math.inf, 1.0
        case "random":
            return -math.inf, math.inf, share
    raise ValueError(f"tokens {entrodrop.tokens!r}")


def candidates(entropy_BT: Tensor, droppable_BT: Tensor, least: float, greatest: float) -> Tensor:
    """The tokens that may be dropped: droppable, and of an entropy from `least` to `greatest`, in nats.

    The low-entropy set of EntroDrop has an entropy of at most tau (arXiv 2512.23422).

    Args:
        entropy_BT: entropy of each token given the tokens before it, in nats.
        droppable_BT: false for special tokens, padding and the first token of a document. (A zero embedding there
            leaves the residual stream at exactly zero, where the gradient of RMSNorm overflows.)

    Returns:
        bool of shape BT.
    """
    return (entropy_BT >= least) & (entropy_BT <= greatest) & droppable_BT


def zero_inputs(embedding_BTD: Tensor, dropped_BT: Tensor) -> Tensor:
    """Presentation `input`: the embedding of a dropped token is replaced by zeros; its label stays."""
    return embedding_BTD.masked_fill(dropped_BT.unsqueeze(-1), 0.0)


def mask_tokens(token_BT: Tensor, dropped_BT: Tensor, mask_token: int) -> Tensor:
    """Presentation `input_mask_token`: the input of a dropped token is the mask token; its label stays."""
    return token_BT.masked_fill(dropped_BT, mask_token)


def random_tokens(token_BT: Tensor, dropped_BT: Tensor, uniform_BT: Tensor, ordinary_W: Tensor) -> Tensor:
    """Presentation `input_random_token`: the input of a dropped token is one of the W ordinary (not special) tokens.

    Args:
        uniform_BT: from `uniforms`, of another stream than the draw of the dropped tokens.
    """
    index_BT = (uniform_BT * len(ordinary_W)).to(torch.int64)
    return torch.where(dropped_BT, ordinary_W[index_BT], token_BT)


def ignore_labels(label_BT: Tensor, dropped_BT: Tensor, ignore_index: int = -100) -> Tensor:
    """Presentation `loss`: a dropped token's label leaves the loss; its input stays.

    Args:
        label_BT: label_BT[:, i] is token i + 1.
        dropped_BT: aligned to the tokens.
    """
    # The label at i is dropped where token i + 1 is: the one shift.
    return label_BT.masked_fill(torch.nn.functional.pad(dropped_BT[:, 1:], (0, 1)), ignore_index)
