"""Cross-entropy and entropy a chunk of the vocabulary at a time, against full logits in float64."""

import itertools
from unittest import mock

import pytest
import torch
from torch import Tensor

from trainables import loss
from trainables.entropy import entropy_of_logits
from trainables.loss import Logits, token_loss

N, D, V = 90, 12, 300
CHUNKS = [1, 4 * N * 7, 4 * N * V, None]
PLAIN, CAPPED, SCALED = Logits(), Logits(soft_cap=5.0), Logits(scale=0.25)


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden_ND, output_VD, label_N with a third ignored, and a weight for each position's loss."""
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(N, D, generator=generator).to(dtype).requires_grad_()
    output_VD = torch.randn(V, D, generator=generator).to(dtype).requires_grad_()
    label_N = torch.randint(V, (N,), generator=generator)
    label_N[::3] = -100
    return hidden_ND, output_VD, label_N, torch.randn(N, generator=generator)


def dense(dtype: torch.dtype, smoothing: float = 0.0, logits: Logits = PLAIN) -> list[Tensor]:
    """Loss, entropy, and both gradients by autograd through float64 logits."""
    *tensors, label_N, weight_N = inputs(dtype)
    hidden_ND, output_VD = (x.detach().double().requires_grad_() for x in tensors)
    logit_NV = logits.scale * hidden_ND @ output_VD.T
    if logits.soft_cap is not None:
        logit_NV = logits.soft_cap * torch.tanh(logit_NV / logits.soft_cap)
    loss_N = torch.nn.functional.cross_entropy(logit_NV, label_N, reduction="none", label_smoothing=smoothing)
    (loss_N * weight_N).sum().backward()
    entropy_N = torch.where(label_N >= 0, entropy_of_logits(logit_NV), 0.0)
    assert hidden_ND.grad is not None
    assert output_VD.grad is not None
    return [loss_N.detach(), entropy_N.detach(), hidden_ND.grad, output_VD.grad]


def chunked(
    dtype: torch.dtype, chunk_bytes: int | None, smoothing: float = 0.0, logits: Logits = PLAIN
) -> list[Tensor]:
    hidden_ND, output_VD, label_N, weight_N = inputs(dtype)
    result = token_loss(
        hidden_ND,
        output_VD,
        label_N,
        entropy=True,
        label_smoothing=smoothing,
        logits=logits,
        chunk_bytes=chunk_bytes,
    )
    (result.loss_N * weight_N).sum().backward()
    assert hidden_ND.grad is not None
    assert output_VD.grad is not None
    return [result.loss_N.detach(), result.entropy_N, hidden_ND.grad, output_VD.grad]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("more", [0, 1, N // 3])
def test_labels_that_are_not_counted(smoothing: float, more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where there may also be fewer labels than are known of."""
    results = []
    for counted_on in ((), ("cpu",)):
        monkeypatch.setattr(loss, "_COUNTED_ON", counted_on)
        hidden_ND, output_VD, label_N, weight_N = inputs(torch.float32)
        most = int((label_N >= 0).sum()) + more
        result = token_loss(hidden_ND, output_VD, label_N, entropy=True, label_smoothing=smoothing, most_labels=most)
        (result.loss_N * weight_N).sum().backward()
        results.append([*result, hidden_ND.grad, output_VD.grad])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


def error(value: Tensor, expected: Tensor) -> float:
    """Relative to the largest value."""
    return float((value.double() - expected.double()).abs().max() / expected.double().abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("chunk_bytes", CHUNKS)
@pytest.mark.parametrize(("smoothing", "logits"), [(0.0, PLAIN), (0.1, PLAIN), (0.0, CAPPED), (0.2, SCALED)])
def test_values_and_gradients_equal_dense_float64(
    dtype: torch.dtype, tolerance: float, chunk_bytes: int | None, smoothing: float, logits: Logits
) -> None:
    values = chunked(dtype, chunk_bytes, smoothing, logits)
    for value, expected in zip(values, dense(dtype, smoothing, logits), strict=True):
        assert error(value, expected) < tolerance


@pytest.mark.parametrize("likeliest", [1, 2, 7, V - 1, V, V + 5])
@pytest.mark.parametrize("chunk_bytes", [*CHUNKS, 4 * N * 150])
def test_the_entropy_of_the_likeliest_tokens(likeliest: int, chunk_bytes: int | None) -> None:
    hidden_ND, output_VD, label_N, weight_N = inputs(torch.float32)
    result = token_loss(hidden_ND, output_VD, label_N, entropy=True, likeliest=likeliest, chunk_bytes=chunk_bytes)
    logit_NV = hidden_ND.detach().double() @ output_VD.detach().double().T
    expected_N = entropy_of_logits(logit_NV.sort(descending=True).values[:, :likeliest])
    expected_N = torch.where(label_N >= 0, expected_N, 0.0)
    torch.testing.assert_close(result.entropy_N.double(), expected_N, rtol=1e-5, atol=1e-5)
    assert torch.equal(result.loss_N, token_loss(hidden_ND, output_VD, label_N, chunk_bytes=chunk_bytes).loss_N)
    (result.loss_N * weight_N).sum().backward()
    assert hidden_ND.grad is not None
    assert error(hidden_ND.grad, dense(torch.float32)[2]) < 1e-6


def test_losses_are_float32_and_gradients_have_the_type_of_their_inputs() -> None:
    kinds = [tensor.dtype for tensor in chunked(torch.bfloat16, 4 * N * 7)]
    assert kinds == [torch.float32, torch.float32, torch.bfloat16, torch.bfloat16]


def test_the_full_logits_are_never_held() -> None:
    shapes = []
    product = loss._logits

    def recorded(hidden_ND: Tensor, output_KD: Tensor, logits: Logits) -> Tensor:
        shapes.append((len(hidden_ND), len(output_KD)))
        return product(hidden_ND, output_KD, logits)

    with mock.patch.object(loss, "_logits", recorded):
        chunked(torch.float32, 4 * 60 * 8)
    # Sixty of the ninety positions have a label.
    assert max(shapes) == (60, 8)
    # Once forward and once backward.
    assert sum(columns for _, columns in shapes) == 2 * V


def test_a_position_without_label_has_neither_loss_nor_gradient() -> None:
    loss_N, entropy_N, grad_hidden_ND, _ = chunked(torch.float32, None)
    for tensor in (loss_N, entropy_N, grad_hidden_ND):
        assert (tensor[::3] == 0).all()
    hidden_ND, output_VD, label_N, _ = inputs(torch.float32)
    token_loss(hidden_ND, output_VD, torch.full_like(label_N, -100)).loss_N.sum().backward()
    assert output_VD.grad is not None
    assert (output_VD.grad == 0).all()


def test_entropy_can_be_left_out() -> None:
    hidden_ND, output_VD, label_N, _ = inputs(torch.float32)
    with_entropy, without = (token_loss(hidden_ND, output_VD, label_N, entropy=entropy) for entropy in (True, False))
    assert torch.equal(with_entropy.loss_N, without.loss_N)
    assert (without.entropy_N == 0).all()
    assert not with_entropy.entropy_N.requires_grad


@pytest.mark.parametrize("chunk_bytes", CHUNKS)
def test_a_label_is_correct_where_it_is_the_likeliest_token(chunk_bytes: int | None) -> None:
    hidden_ND, output_VD, label_N, _ = inputs(torch.float32)
    best_N = (hidden_ND @ output_VD.T).argmax(-1)
    mixed_N = torch.where(torch.arange(N) % 2 == 0, best_N, label_N)
    correct_N = token_loss(hidden_ND, output_VD, mixed_N, chunk_bytes=chunk_bytes).correct_N
    assert correct_N.tolist() == ((mixed_N == best_N) & (mixed_N >= 0)).tolist()
    assert N > int(correct_N.sum()) >= N // 2


def test_a_frozen_output_matrix_changes_nothing_else() -> None:
    gradients = []
    for frozen in (False, True):
        hidden_ND, output_VD, label_N, _ = inputs(torch.float32)
        token_loss(hidden_ND, output_VD.detach() if frozen else output_VD, label_N).loss_N.sum().backward()
        gradients.append(hidden_ND.grad)
        assert (output_VD.grad is None) == frozen
    assert torch.equal(*gradients)


@pytest.mark.parametrize(("chunk_bytes", "columns"), list(itertools.product([4, None], [[0, 1, 2], [2, 0, 1]])))
def test_extreme_logits_stay_finite(chunk_bytes: int | None, columns: list[int]) -> None:
    hidden_ND = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    output_VD = torch.tensor([[1.0], [0.5], [-1.0]])[columns].requires_grad_()
    label_N = torch.full((2,), columns.index(0))
    result = token_loss(hidden_ND, output_VD, label_N, entropy=True, chunk_bytes=chunk_bytes)
    result.loss_N.sum().backward()
    assert result.loss_N.tolist() == [0.0, 2000.0]
    assert result.entropy_N.tolist() == [0.0, 0.0]
    assert hidden_ND.grad is not None
    assert hidden_ND.grad.tolist() == [[0.0], [-2.0]]
