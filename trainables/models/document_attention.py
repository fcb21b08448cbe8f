"""Attention of each document by itself, in a row without padding: no mask, and no work for what it would hide.

Shapes: N tokens of K documents, one after another in a single row; H heads, D their width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trainables.models.loading import embed, hidden_states

_NAME = "documents"


def _attend(
    module: nn.Module,
    query_1HND: Tensor,
    key_1HND: Tensor,
    value_1HND: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **how: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers; a mask of integers is the lengths of documents."""
    if attention_mask is None or attention_mask.dtype != torch.int64:
        # As when answers are generated.
        return sdpa_attention_forward(
            module, query_1HND, key_1HND, value_1HND, attention_mask, dropout=dropout, scaling=scaling, **how
        )
    lengths = attention_mask.flatten().tolist()
    parts = zip(*(x.split(lengths, dim=2) for x in (query_1HND, key_1HND, value_1HND)), strict=True)
    out = [
        nn.functional.scaled_dot_product_attention(
            *part, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=True
        )
        for part in parts
    ]
    return torch.cat([x.transpose(1, 2) for x in out], dim=1), None


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)


def document_lengths(position_N: Tensor) -> Tensor:
    """The lengths of documents, in the shape of a mask that models pass on.

    Args:
        position_N: each token's index in its document.
    """
    start_K = torch.nonzero(position_N == 0).flatten()
    return torch.diff(start_K, append=start_K.new_tensor([len(position_N)])).reshape(1, 1, 1, -1)


@torch.no_grad()
def attend_by_document(model: PreTrainedModel) -> bool:
    """Has the model attend document by document where that changes nothing. Returns whether it does.

    A model whose attention cannot be set, or that looks across tokens in another way too, is left with its mask; so are
    sliding windows, and GPUs, where each document would cost a kernel of its own.
    """
    config = model.config.get_text_config()
    if model.config._attn_implementation == _NAME:
        return True
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if (
        model.device.type != "cpu"
        or model.config._attn_implementation != "sdpa"
        or getattr(config, "sliding_window", None) is not None
        or kinds != {"full_attention"}
    ):
        return False
    training = model.training
    model.eval()
    embedding_1ND = embed(model, torch.arange(12).unsqueeze(0) * 37 % min(config.vocab_size, 1000))
    position_N = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6])
    parts = zip(embedding_1ND.split([5, 7], dim=1), position_N.split([5, 7]), strict=True)
    expected_1ND = torch.cat([hidden_states(model, part_1ND, part_N[None]) for part_1ND, part_N in parts], dim=1)
    model.set_attn_implementation(_NAME)
    try:
        own_1ND = hidden_states(model, embedding_1ND, position_N[None], document_lengths(position_N))
        agrees = torch.allclose(own_1ND, expected_1ND, rtol=0.0, atol=1e-3 * float(expected_1ND.abs().max()))
    # What a model does with a mask that it does not know is up to it.
    except (RuntimeError, TypeError, ValueError, IndexError):
        agrees = False
    if not agrees:
        model.set_attn_implementation("sdpa")
    model.train(training)
    return agrees
