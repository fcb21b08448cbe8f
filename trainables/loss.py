"""Cross-entropy and entropy from hidden states and the output matrix, without the full logits.

Shapes: N positions, D hidden width, V vocabulary; C positions at a time.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Bytes of float32 logits that are held at a time: small enough for a laptop, large enough to keep a GPU busy.
CHUNK_BYTES = 64 * 2**20


def token_loss(
    hidden_ND: Tensor,
    output_VD: Tensor,
    label_N: Tensor,
    *,
    entropy: bool = True,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each label, and entropy of each predicted distribution.

    With z_n = output_VD @ hidden_n and p = softmax(z_n), loss_n = logsumexp(z_n) - z_n[label_n] and
    H_n = -sum_v p_v ln p_v. The logits are computed in float32, a chunk of positions at a time, and again in the
    backward pass.

    Args:
        hidden_ND: final hidden states, float32 or bfloat16.
        output_VD: output (unembedding) matrix.
        label_N: int64; -100 marks a position without a label, whose loss is 0 and has no gradient.
        entropy: False leaves the entropies at zero and saves their cost.
        chunk_bytes: float32 logits held at a time.

    Returns:
        (loss_N, entropy_N) in nats, float32. Only the loss is differentiable.
    """
    loss_N, entropy_N = _TokenLoss.apply(  # type: ignore[no-untyped-call]
        hidden_ND, output_VD, label_N, entropy, chunk_bytes
    )
    return loss_N, entropy_N


def _chunks(rows: int, columns: int, chunk_bytes: int) -> list[slice]:
    size = max(1, chunk_bytes // (4 * columns))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _logits(hidden_CD: Tensor, output_VD: Tensor) -> Tensor:
    # The product runs in the width of its inputs (bfloat16 on bfloat16 weights), everything after it in float32.
    return (hidden_CD.to(output_VD.dtype) @ output_VD.T).float()


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, output_VD: Tensor, label_N: Tensor, entropy: bool, chunk_bytes: int
    ) -> tuple[Tensor, Tensor]:
        loss_N = hidden_ND.new_zeros(len(label_N), dtype=torch.float32)
        entropy_N = torch.zeros_like(loss_N)
        normalizer_N = torch.zeros_like(loss_N)
        for rows in _chunks(len(label_N), len(output_VD), chunk_bytes):
            logit_CV = _logits(hidden_ND[rows], output_VD)
            label_C = label_N[rows]
            normalizer_C = torch.logsumexp(logit_CV, dim=-1)
            picked_C = logit_CV.gather(1, label_C.clamp(min=0).unsqueeze(1)).squeeze(1)
            loss_N[rows] = torch.where(label_C >= 0, normalizer_C - picked_C, 0.0)
            normalizer_N[rows] = normalizer_C
            if entropy:
                log_p_CV = logit_CV.sub_(normalizer_C.unsqueeze(1))
                entropy_N[rows] = -(log_p_CV.exp() * log_p_CV).sum(dim=-1)
        ctx.save_for_backward(hidden_ND, output_VD, label_N, normalizer_N)
        ctx.chunk_bytes = chunk_bytes
        ctx.mark_non_differentiable(entropy_N)
        return loss_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_ND, output_VD, label_N, normalizer_N = ctx.saved_tensors
        grad_hidden_ND = torch.zeros_like(hidden_ND)
        grad_output_VD = torch.zeros_like(output_VD, dtype=torch.float32)
        for rows in _chunks(len(label_N), len(output_VD), ctx.chunk_bytes):
            hidden_CD, label_C = hidden_ND[rows], label_N[rows]
            weight_C = torch.where(label_C >= 0, grad_N[rows], 0.0)
            grad_CV = _logits(hidden_CD, output_VD).sub_(normalizer_N[rows].unsqueeze(1)).exp_()
            grad_CV *= weight_C.unsqueeze(1)
            grad_CV.scatter_add_(1, label_C.clamp(min=0).unsqueeze(1), -weight_C.unsqueeze(1))
            grad_CV = grad_CV.to(output_VD.dtype)
            grad_hidden_ND[rows] = (grad_CV @ output_VD).to(hidden_ND.dtype)
            grad_output_VD += grad_CV.T @ hidden_CD.to(output_VD.dtype)
        return grad_hidden_ND, grad_output_VD.to(output_VD.dtype), None, None, None
