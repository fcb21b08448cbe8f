"""One conformance suite for all token weights: a new kind gets its tests by joining WEIGHTS."""

import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainables.entropy import entropy_of_logits
from trainables.loss import TokenLoss, token_loss
from trainables.token_weight import (
    KINDS,
    Dft,
    Eaft,
    Focal,
    Labels,
    Mile,
    Power,
    Selective,
    Stm,
    TokenWeight,
    token_weight_from,
    token_weight_spec,
)

B, T, D, V = 4, 9, 6, 50

# From one row's logits, labels and base losses, those without a label left out, to its weights; all float64.
Reference = Callable[[Tensor, Tensor, Tensor], Tensor]


def probability(logit_NV: Tensor, label_N: Tensor) -> Tensor:
    return logit_NV.softmax(-1)[torch.arange(len(label_N)), label_N]


def eaft(k: int, alpha: float) -> Reference:
    def weights(logit_NV: Tensor, label_N: Tensor, base_N: Tensor) -> Tensor:
        p_NK = logit_NV.softmax(-1).sort(descending=True).values[:, :k]
        p_NK = p_NK / p_NK.sum(-1, keepdim=True)
        return (-(p_NK * p_NK.log()).sum(-1) / math.log(k)) ** alpha

    return weights


def selective(share: float) -> Reference:
    def weights(logit_NV: Tensor, label_N: Tensor, base_N: Tensor) -> Tensor:
        excess = [round(x, 3) for x in (-probability(logit_NV, label_N).log() - base_N).tolist()]
        ranked = sorted(range(len(excess)), key=lambda n: (-excess[n], -float(base_N[n]), n))
        kept = ranked[: math.ceil(share * len(ranked) - 1e-9)]
        return torch.tensor([float(n in kept) for n in range(len(ranked))], dtype=torch.float64)

    return weights


WEIGHTS: list[tuple[TokenWeight, Reference]] = [
    (Eaft(), eaft(20, 1.0)),
    (Eaft(alpha=0.0), lambda z, y, b: torch.ones(len(y), dtype=torch.float64)),
    (Eaft(3, 0.333), eaft(3, 0.333)),
    (Dft(), lambda z, y, b: probability(z, y)),
    (Power(0.0), lambda z, y, b: torch.ones(len(y), dtype=torch.float64)),
    (Power(0.5), lambda z, y, b: probability(z, y) ** 0.5),
    (Power(10.0), lambda z, y, b: probability(z, y) ** 10),
    (Focal(), lambda z, y, b: (1 - probability(z, y)) ** 2),
    (Focal(0.5), lambda z, y, b: (1 - probability(z, y)) ** 0.5),
    (Mile(), lambda z, y, b: 1 + entropy_of_logits(z)),
    (Mile(2.0), lambda z, y, b: (1 + entropy_of_logits(z)) ** 2),
    (Stm(), lambda z, y, b: (b.exp() <= 2.5).double()),
    (Stm(20.0), lambda z, y, b: (b.exp() <= 20).double()),
    (Selective(), selective(0.6)),
    (Selective(0.01), selective(0.01)),
    (Selective(1.0), selective(1.0)),
]
each = pytest.mark.parametrize(("weight", "reference"), WEIGHTS, ids=[str(weight) for weight, _ in WEIGHTS])


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden_BTD, output_VD, label_BT with some ignored and a row without any, base_BT."""
    generator = torch.Generator().manual_seed(0)
    hidden_BTD = torch.randn(B, T, D, generator=generator)
    output_VD = torch.randn(V, D, generator=generator)
    label_BT = torch.randint(V, (B, T), generator=generator)
    label_BT[:, ::4] = -100
    label_BT[2] = -100
    base_BT = 3 * torch.rand(B, T, generator=generator)
    # As before the first step.
    base_BT[3] = token_loss(hidden_BTD[3], output_VD, label_BT[3]).loss_N + 1e-7 * torch.randn(T, generator=generator)
    return hidden_BTD, output_VD, label_BT, base_BT


def weights_of(weight: TokenWeight, result: TokenLoss, label_BT: Tensor, base_BT: Tensor) -> Tensor:
    loss_BT, entropy_BT = (x_N.view(label_BT.shape) for x_N in (result.loss_N, result.entropy_N))
    return weight(Labels(label_BT >= 0, loss_BT.detach(), entropy_BT, base_BT))


def test_every_kind_is_tested() -> None:
    assert {type(weight) for weight, _ in WEIGHTS} == set(KINDS.values())


@each
def test_weights_equal_the_float64_reference(weight: TokenWeight, reference: Reference) -> None:
    hidden_BTD, output_VD, label_BT, base_BT = batch()
    result = token_loss(
        hidden_BTD.flatten(0, 1),
        output_VD.requires_grad_(),
        label_BT.flatten(),
        entropy=weight.entropy,
        likeliest=weight.likeliest,
        chunk_bytes=4 * B * T * 40,
    )
    weight_BT = weights_of(weight, result, label_BT, base_BT)
    assert not weight_BT.requires_grad
    for row, label_T in enumerate(label_BT):
        there_T = label_T >= 0
        logit_NV = hidden_BTD[row, there_T].double() @ output_VD.detach().double().T
        expected_N = reference(logit_NV, label_T[there_T], base_BT[row, there_T].double())
        torch.testing.assert_close(weight_BT[row, there_T].double(), expected_N, rtol=1e-5, atol=1e-6)
        assert (weight_BT[row, ~there_T] == 0).all()
    if weight.weighted_mean:
        assert float(weight_BT.sum()) >= 1


@pytest.mark.parametrize("exponent", [0.5, 1.0, 10.0])
def test_the_weighted_loss_has_the_gradient_of_the_papers(exponent: float) -> None:
    hidden_BTD, output_VD, label_BT, _ = batch()
    hidden_ND, label_N = hidden_BTD.flatten(0, 1).requires_grad_(), label_BT.flatten()
    for weight in (Power(exponent), *([Dft()] if exponent == 1 else [])):
        result = token_loss(hidden_ND, output_VD, label_N)
        weight_BT = weights_of(weight, result, label_BT, torch.zeros(B, T))
        (grad_ND,) = torch.autograd.grad((result.loss_N * weight_BT.flatten()).sum(), hidden_ND)
        exact_ND = hidden_ND.detach().double().requires_grad_()
        p_N = probability(exact_ND @ output_VD.double().T, label_N.clamp(min=0))
        loss = ((1 - p_N**exponent) / exponent)[label_N >= 0].sum()
        (expected_ND,) = torch.autograd.grad(loss, exact_ND)
        torch.testing.assert_close(grad_ND.double(), expected_ND, rtol=1e-4, atol=1e-6)


@each
def test_extreme_losses_have_finite_weights(weight: TokenWeight, reference: Reference) -> None:
    loss_BT = torch.tensor([[0.0, 1e-9, 1e4, 50.0]])
    entropy_BT = torch.tensor([[-1e-9, 0.0, 13.0, 3.1]])
    weight_BT = weight(Labels(torch.ones(1, 4, dtype=torch.bool), loss_BT, entropy_BT, loss_BT.flip(1)))
    assert torch.isfinite(weight_BT).all()
    assert (weight_BT >= 0).all()


@pytest.mark.parametrize("rounding", [-1e-6, 1e-6])
def test_rounding_decides_nothing(rounding: float) -> None:
    base_BT = torch.tensor([[1.0, 5.0, 3.0, 2.0, 4.0]])
    loss_BT = base_BT + rounding * torch.tensor([[1.0, -1.0, 2.0, -2.0, 0.0]])
    there_BT = torch.tensor([[True, True, True, True, False]])
    weight_BT = Selective(0.5)(Labels(there_BT, loss_BT, torch.zeros(1, 5), base_BT))
    assert weight_BT.tolist() == [[0.0, 1.0, 1.0, 0.0, 0.0]]


@each
def test_a_token_weight_survives_json(weight: TokenWeight, reference: Reference) -> None:
    assert token_weight_from(json.loads(json.dumps(token_weight_spec(weight)))) == weight


@pytest.mark.parametrize(
    ("spec", "error"),
    [({"kind": "hinge"}, KeyError), ({"kind": "power"}, TypeError), ({"kind": "dft", "a": 1}, TypeError)],
)
def test_a_wrong_description_is_refused(spec: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        token_weight_from(spec)
