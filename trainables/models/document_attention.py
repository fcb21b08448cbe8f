"""Attention of each document by itself, without a mask, and without work for what a mask would hide.

On a CPU the documents go one after the other through torch's attention, in a single row without padding. On a GPU
torch's kernel for variable lengths takes all rows at once, in bfloat16 and without dropout only.

Shapes: B rows, T positions, N = B T; M positions with a token, in a single row; K documents; H heads, D their width.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trainables.models.loading import embed, hidden_states

_NAME = "documents"
# Devices with a kernel for variable lengths.
KERNEL_ON = ("cuda",)


def _attend(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BHTD: Tensor,
    value_BHTD: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **how: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers; a mask of integers is `lengths_mask` or `bounds_mask`."""
    if attention_mask is None or attention_mask.dtype not in (torch.int64, torch.int32):
        # As when answers are generated.
        return sdpa_attention_forward(
            module, query_BHTD, key_BHTD, value_BHTD, attention_mask, dropout=dropout, scaling=scaling, **how
        )
    parts = query_BHTD, key_BHTD, value_BHTD
    if attention_mask.dtype == torch.int64:
        return _one_by_one(parts, attention_mask.flatten().tolist(), dropout, scaling), None
    rows, _, length, _ = query_BHTD.shape
    # What is normalized comes in float32 under autocast, which does not know this kernel.
    query_NHD, key_NHD, value_NHD = (x.transpose(1, 2).flatten(0, 1).to(value_BHTD.dtype) for x in parts)
    bound_K = attention_mask[0, 0, 0].contiguous()
    causal = (-1, 0)
    out_NHD = varlen_attn(
        query_NHD, key_NHD, value_NHD, bound_K, bound_K, length, length,
        scale=scaling, window_size=causal, enable_gqa=True,
    )  # fmt: skip
    assert isinstance(out_NHD, Tensor)
    return out_NHD.unflatten(0, (rows, length)), None


def _one_by_one(parts_1HMD: Sequence[Tensor], lengths: list[int], dropout: float, scaling: float | None) -> Tensor:
    attention = partial(
        nn.functional.scaled_dot_product_attention, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=True
    )
    out = [attention(q, k, v) for q, k, v in zip(*(x.split(lengths, dim=2) for x in parts_1HMD), strict=True)]
    return torch.cat([x.transpose(1, 2) for x in out], dim=1)


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)


def lengths_mask(position_M: Tensor) -> Tensor:
    """The lengths of the documents in a single row, in the shape of a mask that models pass on: int64, 111K.

    Args:
        position_M: each token's index in its document.
    """
    start_K = torch.nonzero(position_M == 0).flatten()
    return torch.diff(start_K, append=start_K.new_tensor([len(position_M)])).reshape(1, 1, 1, -1)


def bounds_mask(document_BT: Tensor, most: int | None) -> Tensor:
    """Where each document begins in the flattened rows, and N, in the shape of a mask that models pass on: int32, 11TK.

    The positions of a row that have no token count as a document.

    Args:
        most: as many documents as there may be, or more; None: they are counted, for which a GPU has to be waited for.
    """
    start_BT = torch.ones_like(document_BT, dtype=torch.bool)
    start_BT[:, 1:] = document_BT[:, 1:] != document_BT[:, :-1]
    start_N = start_BT.flatten()
    most = int(start_N.sum()) if most is None else most
    start_K = torch.argsort((~start_N).to(torch.uint8), stable=True)[:most]
    # Behind the last document there are empty ones.
    real_K = torch.arange(len(start_K), device=start_N.device) < start_N.sum()
    bound_K = nn.functional.pad(torch.where(real_K, start_K, len(start_N)), (0, 1), value=len(start_N))
    return bound_K.int().expand(1, 1, document_BT.shape[1], -1)


@torch.no_grad()
def attend_by_document(model: PreTrainedModel) -> bool:
    """Has the model attend document by document where that changes nothing. Returns whether it does.

    A model whose attention cannot be set, or that looks across tokens in another way too, is left with its mask; so is
    one with a sliding window.
    """
    config = model.config.get_text_config()
    if model.config._attn_implementation == _NAME:
        return True
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windows = getattr(config, "sliding_window", None) is not None or kinds != {"full_attention"}
    if windows or model.config._attn_implementation != "sdpa":
        return False
    device = model.device
    kernel = device.type in KERNEL_ON
    training = model.training
    model.eval()
    token_1N = torch.arange(12, device=device).unsqueeze(0) * 37 % min(config.vocab_size, 1000)
    document_1N = (torch.arange(12, device=device) >= 5).long().unsqueeze(0)
    position_1N = torch.arange(12, device=device).unsqueeze(0) - 5 * document_1N
    try:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=kernel):
            embedding_1ND = embed(model, token_1N)
            parts = zip(embedding_1ND.split([5, 7], dim=1), position_1N.split([5, 7], dim=1), strict=True)
            expected_1ND = torch.cat([hidden_states(model, *part) for part in parts], dim=1)
            model.set_attn_implementation(_NAME)
            mask = bounds_mask(document_1N, 3) if kernel else lengths_mask(position_1N[0])
            error = (hidden_states(model, embedding_1ND, position_1N, mask) - expected_1ND).abs().max()
        agrees = bool(error <= (0.03 if kernel else 1e-3) * expected_1ND.abs().max())
    # What a model does with a mask that it does not know is up to it; not every GPU has the kernel.
    except (RuntimeError, TypeError, ValueError, IndexError):
        agrees = False
    if not agrees:
        model.set_attn_implementation("sdpa")
    model.train(training)
    return agrees
