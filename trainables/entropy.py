"""Entropy of each token: what it is, which tokens are low-entropy, and the groups that evaluation looks at.

H_t = -sum_v p(v | x_<t) ln p(v | x_<t), in nats, for the token at position t: it comes from the logits at t - 1. A
token without a prediction that counts (the first of a document, one outside of the loss) has none; it is stored as
infinity, so that it is in no low-entropy set (arXiv 2512.23422).

Shapes: R rows, T positions, V vocabulary.
"""

import numpy as np
import torch
from torch import Tensor


def entropy_of_logits(logit_V: Tensor) -> Tensor:
    """H = -sum_v p_v ln p_v of p = softmax(logits) over the last dimension, in nats.

    `trainables.loss.token_loss` computes the same from hidden states, a chunk of the vocabulary at a time.
    """
    log_p_V = torch.log_softmax(logit_V, dim=-1)
    return -(log_p_V.exp() * log_p_V).sum(dim=-1)


def threshold(entropy_RT: Tensor, droppable_RT: Tensor, quantile: float) -> float:
    """tau: the quantile of the entropies of the tokens that may be dropped, in nats (linear interpolation)."""
    # torch.quantile refuses more than 2**24 values.
    return float(np.quantile(entropy_RT[droppable_RT].double().numpy(), quantile))


def evaluation_groups(entropy_RT: Tensor, high: float, low: float) -> tuple[Tensor, Tensor]:
    """Masks of the held-out tokens with the highest and the lowest reference entropy.

    Args:
        entropy_RT: infinity where a token has no prediction.
        high: share of the predicted tokens that are high-entropy.
        low: share that are low-entropy.

    Returns:
        (high_RT, low_RT), bool; ties are broken by position, so that the sizes are exact.
    """
    flat = entropy_RT.flatten()
    predicted = torch.nonzero(torch.isfinite(flat)).squeeze(1)
    ordered = predicted[torch.argsort(flat[predicted], stable=True)]
    high_count, low_count = (max(1, round(share * len(ordered))) for share in (high, low))
    masks = []
    for chosen in (ordered[len(ordered) - high_count :], ordered[:low_count]):
        mask = torch.zeros(flat.shape, dtype=torch.bool)
        mask[chosen] = True
        masks.append(mask.reshape(entropy_RT.shape))
    return masks[0], masks[1]
