"""Cross-entropy by the fused kernels of liger-kernel (arXiv 2410.10989), where they agree with a dense float64 one.

They count the labels, for which each forward pass waits once for all that the GPU still has to do.

Shapes: N positions, D hidden width, V vocabulary.
"""

import importlib.util
import warnings
from functools import cache

import torch
from torch import Tensor, nn

# Relative errors of the loss and of both gradients.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


def usable(hidden_ND: Tensor) -> bool:
    """Whether the kernels are there for this device and type, and right."""
    device = hidden_ND.device
    return device.type == "cuda" and hidden_ND.dtype in TOLERANCE and _agree(device, hidden_ND.dtype)


@cache
def _agree(device: torch.device, dtype: torch.dtype) -> bool:
    if importlib.util.find_spec("liger_kernel") is None:
        return False
    error = parity(device, dtype)
    if error > TOLERANCE[dtype]:
        warnings.warn(f"liger-kernel is not used: its loss in {dtype} is wrong by {error:.1e}", stacklevel=2)
    return error <= TOLERANCE[dtype]


def parity(device: torch.device, dtype: torch.dtype, label_smoothing: float = 0.1) -> float:
    """The greatest relative error of loss and gradients on a small problem, against full logits in float64."""
    generator = torch.Generator().manual_seed(0)
    # Logits of variance 1: bfloat16 logits of greater size are coarser than the tolerance.
    hidden_ND = (torch.randn(96, 64, generator=generator) / 8).to(dtype)
    output_VD = torch.randn(1000, 64, generator=generator).to(dtype)
    label_N = torch.randint(1000, (96,), generator=generator)
    label_N[::7] = -100
    weight_N = torch.rand(96, generator=generator)

    def results(type_: torch.dtype, fused: bool) -> list[Tensor]:
        hidden, output = (x.to(device, type_).detach().requires_grad_() for x in (hidden_ND, output_VD))
        label = label_N.to(device)
        if fused:
            loss_N, _ = fused_loss(hidden, output, label, label_smoothing)
        else:
            logit_NV = hidden @ output.T
            loss_N = nn.functional.cross_entropy(logit_NV, label, reduction="none", label_smoothing=label_smoothing)
        return [loss_N.detach(), *torch.autograd.grad((loss_N * weight_N.to(device)).sum(), (hidden, output))]

    pairs = zip(results(dtype, True), results(torch.float64, False), strict=True)
    return max(float((ours.double() - dense).norm() / dense.norm()) for ours, dense in pairs)


def fused_loss(hidden_ND: Tensor, output_VD: Tensor, label_N: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """(loss_N, correct_N), as `trainables.loss.token_loss` gives them."""
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    class_weights = bias = soft_cap = None
    loss_N, _, correct_N, _ = LigerFusedLinearCrossEntropyFunction.apply(
        hidden_ND,
        output_VD,
        label_N,
        class_weights,
        bias,
        -100,
        0.0,  # weight of the squared logsumexp
        label_smoothing,
        "none",
        soft_cap,
        False,  # return the squared logsumexp
        torch.float32,  # the output matrix's gradient is summed in
        False,  # scale by the token's probability
        True,  # return whether the label is the likeliest token
    )
    return loss_N, correct_N.detach() > 0
