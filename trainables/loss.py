"""Cross-entropy and entropy from hidden states and the output matrix, without the full logits.

Shapes: N positions, D hidden width, V vocabulary; K columns of the vocabulary at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainables import liger
from trainables.entropy import entropy_of_logits

# Bytes of float32 logits that are held at a time. On a CPU they fit into its cache: for 2,048 positions, 576 wide, and
# 49,152 words, forward and backward in bfloat16 took 1.4 s on two cores with 8 MiB and 1.8 s with 64 MiB.
_CHUNK_BYTES = {"cpu": 8 * 2**20, "cuda": 256 * 2**20}
_LEAST_COLUMNS = 256
# Columns whose largest logit is found first, to find the largest of all: on a CPU it takes half the time.
_BLOCK = 16
# Devices on which labels are counted; on others, counting them waits for all that was asked for before.
_COUNTED_ON = ("cpu",)


@dataclass(frozen=True)
class Logits:
    """How a model makes logits of z = output_VD @ hidden: soft_cap * tanh(scale * z / soft_cap), or scale * z."""

    scale: float = 1.0
    soft_cap: float | None = None


class TokenLoss(NamedTuple):
    """Per position: cross-entropy and entropy in nats, float32, and whether the label is the likeliest token."""

    loss_N: Tensor
    entropy_N: Tensor
    correct_N: Tensor


def token_loss(
    hidden_ND: Tensor,
    output_VD: Tensor,
    label_N: Tensor,
    *,
    entropy: bool = False,
    likeliest: int | None = None,
    label_smoothing: float = 0.0,
    logits: Logits = Logits(),
    chunk_bytes: int | None = None,
    most_labels: int | None = None,
) -> TokenLoss:
    """Cross-entropy of each label, and entropy of each predicted distribution.

    With logits z_n and p = softmax(z_n): loss_n = logsumexp(z_n) - z_n[label_n] and H_n = -sum_v p_v ln p_v. With label
    smoothing e, the label's z_n[label_n] becomes (1 - e) z_n[label_n] + e mean(z_n). The logits are computed in
    float32, a chunk of the vocabulary at a time (online softmax, arXiv 1805.02867), and again in the backward pass, so
    that the output matrix's gradient is written once and nothing of size NV is ever held. On CUDA liger-kernel does the
    same, without the entropy, where it is installed and agrees.

    Args:
        hidden_ND: final hidden states, float32 or bfloat16.
        output_VD: output (unembedding) matrix; the product with it runs in its width.
        label_N: int64; -100 marks a position without a label: its loss and entropy are 0, and it has no gradient.
        entropy: False leaves the entropies at zero and saves their cost.
        likeliest: the entropies are of so many of the likeliest tokens, their probabilities rescaled to sum to 1; None:
            of all tokens.
        chunk_bytes: float32 logits held at a time; None: what is fast on the device.
        most_labels: as many as there may be, or more; on a GPU this saves counting them. None: they are counted.

    Returns:
        Only the loss is differentiable.
    """
    if not entropy and logits.soft_cap is None and liger.usable(hidden_ND):
        loss_N, correct_N = liger.fused_loss(hidden_ND * logits.scale, output_VD, label_N, label_smoothing)
        return TokenLoss(loss_N, torch.zeros_like(loss_N), correct_N)
    if chunk_bytes is None:
        chunk_bytes = chunk_bytes_of(hidden_ND.device.type, len(label_N))
    kept_M = _find_labelled(label_N, most_labels)
    label_M = label_N[kept_M]
    arguments = hidden_ND[kept_M], output_VD, label_M, entropy, likeliest, label_smoothing, logits, chunk_bytes
    parts_M = _TokenLoss.apply(*arguments)  # type: ignore[no-untyped-call]
    return TokenLoss(
        *(x_M.new_zeros(len(label_N)).index_put((kept_M,), x_M.masked_fill(label_M < 0, 0)) for x_M in parts_M)
    )


def _find_labelled(label_N: Tensor, most: int | None) -> Tensor:
    """Indices of all positions that have a label; where they are not counted, as many as there may be."""
    if most is None or label_N.device.type in _COUNTED_ON:
        return torch.nonzero(label_N >= 0).squeeze(1)
    return torch.argsort((label_N < 0).to(torch.uint8), stable=True)[:most]


def chunk_bytes_of(device: str, positions: int) -> int:
    """Bytes of float32 logits that are held at a time.

    Args:
        device: its kind, "cpu" or "cuda".
    """
    return max(_CHUNK_BYTES[device], 4 * positions * _LEAST_COLUMNS)


def _chunks(rows: int, columns: int, chunk_bytes: int) -> Iterator[slice]:
    size = max(1, chunk_bytes // (4 * max(rows, 1)))
    return (slice(start, min(start + size, columns)) for start in range(0, columns, size))


def _labels_in(columns: slice, label_N: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each label is among the columns, and which of them it is (any, if it is not)."""
    here_N = (label_N >= columns.start) & (label_N < columns.stop)
    return here_N, (label_N - columns.start).clamp(0, columns.stop - columns.start - 1)


def _logits(hidden_ND: Tensor, output_KD: Tensor, logits: Logits) -> Tensor:
    # The product runs in the width of the output matrix (bfloat16 under autocast), everything after it in float32.
    logit_NK = (hidden_ND @ output_KD.T).float()
    if logits.scale != 1.0:
        logit_NK *= logits.scale
    if logits.soft_cap is not None:
        logit_NK = logit_NK.div_(logits.soft_cap).tanh_().mul_(logits.soft_cap)
    return logit_NK


def _merge_largest(logit_NK: Tensor, earlier_NL: Tensor, count: int) -> Tensor:
    """The `count` largest of these logits and earlier ones, in descending order."""
    rows, columns = logit_NK.shape
    blocks = columns // _BLOCK
    if blocks > count:
        # They lie in the blocks with the largest maxima. What is left over at the end counts as one block more.
        block_NBJ = logit_NK[:, : blocks * _BLOCK].view(rows, _BLOCK, blocks)
        index_NJ = block_NBJ.amax(dim=1).topk(count, dim=1).indices
        inside_NBJ = block_NBJ.gather(2, index_NJ.unsqueeze(1).expand(-1, _BLOCK, -1))
        logit_NK = torch.cat([inside_NBJ.flatten(1), logit_NK[:, blocks * _BLOCK :]], dim=1)
    both_NK = torch.cat([earlier_NL, logit_NK], dim=1)
    return both_NK.topk(min(count, both_NK.shape[1]), dim=1).values


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        output_VD: Tensor,
        label_N: Tensor,
        entropy: bool,
        likeliest: int | None,
        label_smoothing: float,
        logits: Logits,
        chunk_bytes: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        words = len(output_VD)
        # The entropy of all tokens is summed up, that of the likeliest ones made of their logits.
        summed = entropy and likeliest is None
        working_ND = hidden_ND.to(output_VD.dtype)
        # Over the chunks so far: m = max z, s = sum exp(z - m), t = sum exp(z - m) (z - m); sums in float64.
        peak_N = torch.full(label_N.shape, -torch.inf, dtype=torch.float32, device=hidden_ND.device)
        picked_N = torch.zeros_like(peak_N)
        sum_N, weighted_N, total_N = (torch.zeros_like(peak_N, dtype=torch.float64) for _ in range(3))
        largest_NL = peak_N.new_empty(len(label_N), 0)
        for columns in _chunks(len(label_N), words, chunk_bytes):
            logit_NK = _logits(working_ND, output_VD[columns], logits)
            here_N, index_N = _labels_in(columns, label_N)
            picked_N = torch.where(here_N, logit_NK.gather(1, index_N.unsqueeze(1)).squeeze(1), picked_N)
            if label_smoothing:
                total_N += logit_NK.sum(dim=1)
            if entropy and likeliest is not None:
                largest_NL = _merge_largest(logit_NK, largest_NL, likeliest)
            new_N = torch.maximum(peak_N, logit_NK.amax(dim=1))
            fall_N = (peak_N - new_N).double()
            factor_N = fall_N.exp()
            if summed:
                # exp(-inf) * -inf at the first chunk is no number: there is nothing to rescale yet.
                weighted_N = torch.where(factor_N > 0, factor_N * (weighted_N + sum_N * fall_N), 0.0)
            sum_N *= factor_N
            shifted_NK = logit_NK.sub_(new_N.unsqueeze(1))
            exponential_NK = shifted_NK.exp() if summed else shifted_NK.exp_()
            sum_N += exponential_NK.sum(dim=1)
            if summed:
                weighted_N += exponential_NK.mul_(shifted_NK).sum(dim=1)
            peak_N = new_N
        log_sum_N = sum_N.log()
        normalizer_N = peak_N + log_sum_N
        target_N = picked_N.double()
        if label_smoothing:
            target_N = (1 - label_smoothing) * target_N + label_smoothing * total_N / words
        loss_N = (normalizer_N - target_N).float()
        entropy_N = torch.zeros_like(loss_N)
        if summed:
            entropy_N = (log_sum_N - weighted_N / sum_N).float()
        elif entropy:
            entropy_N = entropy_of_logits(largest_NL)
        correct_N = picked_N == peak_N
        ctx.save_for_backward(hidden_ND, output_VD, label_N, normalizer_N.float())
        ctx.label_smoothing, ctx.logits, ctx.chunk_bytes = label_smoothing, logits, chunk_bytes
        ctx.mark_non_differentiable(entropy_N, correct_N)
        return loss_N, entropy_N, correct_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, output_VD, label_N, normalizer_N = ctx.saved_tensors
        smoothing, logits = ctx.label_smoothing, ctx.logits
        working_ND = hidden_ND.to(output_VD.dtype)
        grad_hidden_ND = torch.zeros_like(hidden_ND, dtype=torch.float32)
        # A frozen output matrix (as under LoRA) needs no gradient.
        grad_output_VD = torch.empty_like(output_VD) if ctx.needs_input_grad[1] else None
        for columns in _chunks(len(label_N), len(output_VD), ctx.chunk_bytes):
            logit_NK = _logits(working_ND, output_VD[columns], logits)
            slope_NK = 1 - (logit_NK / logits.soft_cap) ** 2 if logits.soft_cap is not None else None
            grad_NK = logit_NK.sub_(normalizer_N.unsqueeze(1)).exp_()
            if smoothing:
                grad_NK -= smoothing / len(output_VD)
            here_N, index_N = _labels_in(columns, label_N)
            grad_NK.scatter_add_(1, index_N.unsqueeze(1), (here_N * (smoothing - 1)).unsqueeze(1))
            grad_NK *= (grad_N * logits.scale).unsqueeze(1)
            if slope_NK is not None:
                grad_NK *= slope_NK
            working_NK = grad_NK.to(output_VD.dtype)
            if grad_output_VD is not None:
                torch.mm(working_NK.T, working_ND, out=grad_output_VD[columns])
            grad_hidden_ND += working_NK @ output_VD[columns]
        return grad_hidden_ND.to(hidden_ND.dtype), grad_output_VD, *(None,) * 6
