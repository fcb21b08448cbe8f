"""Entropy of each token under a frozen reference model.

H_t = -sum_v p(v | x_<t) ln p(v | x_<t), in nats, for the token at position t: it comes from the logits at t - 1. The
first token of a document has none; it is stored as infinity, so that it is in no low-entropy set.

Shapes: R rows, T positions.
"""

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from trainables.loss import token_loss
from trainables.models import embed, hidden_states, output_matrix
from trainables.packing import Packed


@torch.no_grad()
def score(model: PreTrainedModel, packed: Packed, rows: int = 8) -> tuple[Tensor, Tensor]:
    """Entropy and loss of each token under `model`, `rows` packed rows at a time.

    Returns:
        (entropy_RT, loss_RT) in nats, float32, on the CPU; infinity and 0 where a token has no prediction.
    """
    model.eval()
    device = next(model.parameters()).device
    entropy_RT = torch.full(packed.token_RT.shape, torch.inf)
    loss_RT = torch.zeros(packed.token_RT.shape)
    label_RT = packed.label_RT
    for start in range(0, len(label_RT), rows):
        part = slice(start, start + rows)
        token_BT, document_BT = packed.token_RT[part].to(device), packed.document_RT[part].to(device)
        hidden_BTD = hidden_states(model, embed(model, token_BT), document_BT, packed.position_RT[part].to(device))
        label_BT = label_RT[part]
        loss_N, entropy_N = token_loss(hidden_BTD.flatten(0, 1), output_matrix(model), label_BT.to(device).flatten())
        entropy_BT = entropy_N.reshape(label_BT.shape).cpu()
        loss_BT = loss_N.reshape(label_BT.shape).cpu()
        # Logits at i predict token i + 1: the one shift.
        predicted_BT = label_BT[:, :-1] >= 0
        entropy_RT[part, 1:] = torch.where(predicted_BT, entropy_BT[:, :-1], torch.inf)
        loss_RT[part, 1:] = torch.where(predicted_BT, loss_BT[:, :-1], 0.0)
    return entropy_RT, loss_RT


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
