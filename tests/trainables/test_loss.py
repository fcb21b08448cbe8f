"""Chunked cross-entropy and entropy against full logits in float64."""

from unittest import mock

import pytest
import torch
from torch import Tensor

from trainables import loss
from trainables.loss import token_loss

N, D, V = 90, 12, 300


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden_ND, output_VD, label_N with a third ignored, and a weight for each position's loss."""
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(N, D, generator=generator).to(dtype).requires_grad_()
    output_VD = torch.randn(V, D, generator=generator).to(dtype).requires_grad_()
    label_N = torch.randint(V, (N,), generator=generator)
    label_N[::3] = -100
    return hidden_ND, output_VD, label_N, torch.randn(N, generator=generator)


def dense(hidden_ND: Tensor, output_VD: Tensor, label_N: Tensor, weight_N: Tensor) -> list[Tensor]:
    """(loss, entropy, gradient of hidden, gradient of the matrix) by autograd through float64 logits."""
    hidden_ND, output_VD = (x.detach().double().requires_grad_() for x in (hidden_ND, output_VD))
    log_p_NV = (hidden_ND @ output_VD.T).log_softmax(-1)
    labelled_N = label_N >= 0
    loss_N = torch.zeros(N, dtype=torch.float64)
    loss_N[labelled_N] = -log_p_NV[labelled_N, label_N[labelled_N]]
    (loss_N * weight_N).sum().backward()
    assert hidden_ND.grad is not None
    assert output_VD.grad is not None
    return [loss_N.detach(), -(log_p_NV.exp() * log_p_NV).sum(-1).detach(), hidden_ND.grad, output_VD.grad]


def chunked(dtype: torch.dtype, chunk_bytes: int) -> list[Tensor]:
    hidden_ND, output_VD, label_N, weight_N = inputs(dtype)
    loss_N, entropy_N = token_loss(hidden_ND, output_VD, label_N, chunk_bytes=chunk_bytes)
    (loss_N * weight_N).sum().backward()
    assert hidden_ND.grad is not None
    assert output_VD.grad is not None
    return [loss_N.detach(), entropy_N, hidden_ND.grad, output_VD.grad]


def error(value: Tensor, expected: Tensor) -> float:
    """Relative to the largest value."""
    return float((value.double() - expected.double()).abs().max() / expected.double().abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("chunk_bytes", [1, 4 * V * 7, 4 * V * N, loss.CHUNK_BYTES])
def test_values_and_gradients_equal_dense_float64(dtype: torch.dtype, tolerance: float, chunk_bytes: int) -> None:
    for value, expected in zip(chunked(dtype, chunk_bytes), dense(*inputs(dtype)), strict=True):
        assert error(value, expected) < tolerance


def test_losses_are_float32_and_gradients_have_the_type_of_their_inputs() -> None:
    kinds = [tensor.dtype for tensor in chunked(torch.bfloat16, 4 * V * 7)]
    assert kinds == [torch.float32, torch.float32, torch.bfloat16, torch.bfloat16]


def test_the_chunk_size_does_not_matter() -> None:
    whole = chunked(torch.float32, 4 * V * N)
    for rows in (1, 13, 45):
        for value, expected in zip(chunked(torch.float32, 4 * V * rows), whole, strict=True):
            assert error(value, expected) < 1e-6


def test_the_full_logits_are_never_held() -> None:
    shapes = []

    def recorded(hidden_CD: Tensor, output_VD: Tensor) -> Tensor:
        shapes.append((len(hidden_CD), len(output_VD)))
        return (hidden_CD @ output_VD.T).float()

    with mock.patch.object(loss, "_logits", recorded):
        chunked(torch.float32, 4 * V * 8)
    assert max(shapes) == (8, V)
    # Once forward and once backward.
    assert sum(rows for rows, _ in shapes) == 2 * N


def test_a_position_without_label_has_neither_loss_nor_gradient() -> None:
    loss_N, entropy_N, grad_hidden_ND, _ = chunked(torch.float32, 4 * V * 8)
    assert (loss_N[::3] == 0).all()
    assert (grad_hidden_ND[::3] == 0).all()
    assert (entropy_N[::3] > 0).all()
    hidden_ND, output_VD, label_N, _ = inputs(torch.float32)
    token_loss(hidden_ND, output_VD, torch.full_like(label_N, -100))[0].sum().backward()
    assert output_VD.grad is not None
    assert (output_VD.grad == 0).all()


def test_entropy_can_be_left_out() -> None:
    hidden_ND, output_VD, label_N, _ = inputs(torch.float32)
    with_entropy, without = (token_loss(hidden_ND, output_VD, label_N, entropy=entropy) for entropy in (True, False))
    assert torch.equal(with_entropy[0], without[0])
    assert (without[1] == 0).all()
    assert not with_entropy[1].requires_grad


def test_extreme_logits_stay_finite() -> None:
    hidden_ND = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    output_VD = torch.tensor([[1.0], [0.5], [-1.0]], requires_grad=True)
    loss_N, entropy_N = token_loss(hidden_ND, output_VD, torch.tensor([0, 0]))
    loss_N.sum().backward()
    assert loss_N.tolist() == [0.0, 2000.0]
    assert entropy_N.tolist() == [0.0, 0.0]
    assert hidden_ND.grad is not None
    assert hidden_ND.grad.tolist() == [[0.0], [-2.0]]
