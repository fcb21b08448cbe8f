"""Which tokens are dropped, against pure Python; one conformance suite for all presentations of a dropped token."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from trainables.masking import (
    candidates,
    dropped_tokens,
    ignore_labels,
    mask_tokens,
    random_tokens,
    uniforms,
    zero_inputs,
)

WORD = (1 << 64) - 1


def splitmix64(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def uniform_reference(seed: int, epoch: int, document: int, position: int) -> float:
    state = 0
    for part in (seed, epoch, document, position):
        state = splitmix64((state + part) & WORD)
    return (state >> 11) / 2**53


def grid(documents: int, positions: int) -> tuple[Tensor, Tensor]:
    document_BT, position_BT = torch.meshgrid(torch.arange(documents), torch.arange(positions), indexing="ij")
    return document_BT.contiguous(), position_BT.contiguous()


def test_the_published_sequence() -> None:
    # The first outputs of SplitMix64 seeded with 1234567.
    state, outputs = 1234567, []
    for _ in range(3):
        outputs.append(splitmix64(state))
        state = (state + 0x9E3779B97F4A7C15) & WORD
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize(("seed", "epoch"), list(product((0, 1, 2**31 - 1, 2**63 - 1), (0, 7))))
def test_uniforms_equal_unbounded_integers(seed: int, epoch: int) -> None:
    document_BT = torch.tensor([[0, 0, 0, 1], [5, 2**40, -1, -1]])
    position_BT = torch.tensor([[0, 1, 2, 0], [1023, 3, 0, 0]])
    expected = [
        [uniform_reference(seed, epoch, d, p) for d, p in zip(*row, strict=True)]
        for row in zip(document_BT.tolist(), position_BT.tolist(), strict=True)
    ]
    assert uniforms(seed, epoch, document_BT, position_BT).tolist() == expected


def test_uniforms_do_not_depend_on_packing() -> None:
    document_BT, position_BT = grid(12, 10)
    value_BT = uniforms(3, 1, document_BT, position_BT)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    shuffled = uniforms(3, 1, document_BT.flatten()[order].reshape(8, 15), position_BT.flatten()[order].reshape(8, 15))
    assert torch.equal(shuffled.flatten(), value_BT.flatten()[order])


def test_uniforms_are_uniform() -> None:
    value_N = uniforms(0, 0, *grid(500, 400)).flatten()
    assert ((value_N >= 0) & (value_N < 1)).all()
    assert float(value_N.mean()) == pytest.approx(0.5, abs=0.003)
    counts = torch.histc(value_N, bins=100, min=0.0, max=1.0)
    expected = len(value_N) / 100
    # The 99.9 % point of chi-square with 99 degrees of freedom.
    assert float(((counts - expected) ** 2 / expected).sum()) < 148.2


@pytest.mark.parametrize("change", ["seed", "epoch", "document", "position", "stream"])
def test_uniforms_of_neighbours_are_independent(change: str) -> None:
    document_BT, position_BT = grid(200, 200)
    value_N = uniforms(0, 0, document_BT, position_BT).flatten()
    other_N = uniforms(
        int(change == "seed"),
        int(change == "epoch"),
        document_BT + int(change == "document"),
        position_BT + int(change == "position"),
        int(change == "stream"),
    ).flatten()
    assert not torch.any(value_N == other_N)
    assert abs(float(torch.corrcoef(torch.stack([value_N, other_N]))[0, 1])) < 4 / 200


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("least", "greatest"), [(-math.inf, 0.5), (0.5, math.inf), (-math.inf, math.inf)])
def test_dropped_tokens_equal_a_loop(rate: float, least: float, greatest: float) -> None:
    generator = torch.Generator().manual_seed(1)
    entropy_BT = torch.rand(6, 50, generator=generator)
    entropy_BT[2, 3] = 0.5
    uniform_BT = torch.rand(6, 50, generator=generator, dtype=torch.float64)
    droppable_BT = torch.rand(6, 50, generator=generator) < 0.9
    dropped_BT = dropped_tokens(candidates(entropy_BT, droppable_BT, least, greatest), rate, uniform_BT)
    may_go = 0
    for b, t in product(range(6), range(50)):
        candidate = bool(droppable_BT[b, t]) and least <= float(entropy_BT[b, t]) <= greatest
        assert bool(dropped_BT[b, t]) == (candidate and float(uniform_BT[b, t]) < rate)
        may_go += candidate
    assert {0.0: 0, 1.0: may_go}.get(rate, int(dropped_BT.sum())) == int(dropped_BT.sum())


def test_a_token_that_must_stay_is_never_dropped() -> None:
    droppable_BT = torch.tensor([[False, True, True, False]])
    candidate_BT = candidates(torch.zeros(1, 4), droppable_BT, -math.inf, math.inf)
    assert torch.equal(dropped_tokens(candidate_BT, 1.0, torch.zeros(1, 4, dtype=torch.float64)), droppable_BT)


def test_random_tokens_are_ordinary_and_all_of_them() -> None:
    token_BT, ordinary_W = torch.zeros(40, 50, dtype=torch.int64), torch.tensor([3, 5, 6, 9])
    uniform_BT = uniforms(0, 0, *grid(40, 50), 1)
    shown_BT = random_tokens(token_BT, torch.ones(40, 50, dtype=torch.bool), uniform_BT, ordinary_W)
    counts = torch.bincount(shown_BT.flatten(), minlength=10)
    assert counts.sum() == counts[ordinary_W].sum()
    assert (counts[ordinary_W] > 2000 / 4 * 0.8).all()
    highest_BT = torch.full((40, 50), 1 - 2.0**-53, dtype=torch.float64)
    assert (random_tokens(token_BT, token_BT == 0, highest_BT, ordinary_W) == 9).all()


TABLE_VD = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
MASK = 19
REPLACED = ("input", "input_mask_token", "input_random_token")


def present(presentation: str, table_VD: Tensor, token_BT: Tensor, dropped_BT: Tensor) -> tuple[Tensor, Tensor]:
    """The embeddings that the model is shown, and its labels: label i is token i + 1, there is none after the last."""
    label_BT = torch.cat([token_BT[:, 1:], torch.full_like(token_BT[:, :1], -100)], dim=1)
    match presentation:
        case "input":
            return zero_inputs(table_VD[token_BT], dropped_BT), label_BT
        case "input_mask_token":
            return table_VD[mask_tokens(token_BT, dropped_BT, MASK)], label_BT
        case "input_random_token":
            uniform_BT = uniforms(0, 0, *grid(*token_BT.shape), 1)
            return table_VD[random_tokens(token_BT, dropped_BT, uniform_BT, torch.arange(13, 19))], label_BT
        case _:
            return table_VD[token_BT], ignore_labels(label_BT, dropped_BT)


@pytest.mark.parametrize("presentation", [*REPLACED, "loss"])
class TestPresentation:
    """The conformance suite: a new presentation joins `present` and the list."""

    token_BT = torch.arange(1, 13).reshape(3, 4)
    label_BT = torch.tensor([[2, 3, 4, -100], [6, 7, 8, -100], [10, 11, 12, -100]])
    dropped_BT = torch.tensor([[False, True, False, True], [False] * 4, [False, True, True, True]])

    def test_nothing_dropped_changes_nothing(self, presentation: str) -> None:
        shown_BTD, label_BT = present(presentation, TABLE_VD, self.token_BT, torch.zeros_like(self.dropped_BT))
        assert torch.equal(shown_BTD, TABLE_VD[self.token_BT])
        assert torch.equal(label_BT, self.label_BT)

    def test_kept_tokens_are_shown_and_learned_as_they_are(self, presentation: str) -> None:
        shown_BTD, label_BT = present(presentation, TABLE_VD, self.token_BT, self.dropped_BT)
        assert torch.equal(shown_BTD[~self.dropped_BT], TABLE_VD[self.token_BT][~self.dropped_BT])
        for b, t in product(range(3), range(3)):
            if not self.dropped_BT[b, t + 1]:
                assert label_BT[b, t] == self.token_BT[b, t + 1]

    def test_a_dropped_token_loses_its_input_or_its_label(self, presentation: str) -> None:
        shown_BTD, label_BT = present(presentation, TABLE_VD, self.token_BT, self.dropped_BT)
        shown_ND = shown_BTD[self.dropped_BT]
        if presentation == "loss":
            assert torch.equal(shown_BTD, TABLE_VD[self.token_BT])
            assert label_BT.tolist() == [[-100, 3, -100, -100], [6, 7, 8, -100], [-100] * 4]
            return
        assert torch.equal(label_BT, self.label_BT)
        instead_ND = {"input": torch.zeros(1, 5), "input_mask_token": TABLE_VD[MASK:]}.get(
            presentation, TABLE_VD[13:19]
        )
        assert all(any(torch.equal(shown, one) for one in instead_ND) for shown in shown_ND)

    def test_the_gradient_reaches_the_inputs_that_are_shown(self, presentation: str) -> None:
        table_VD = TABLE_VD.clone().requires_grad_()
        present(presentation, table_VD, self.token_BT, self.dropped_BT)[0].sum().backward()
        assert table_VD.grad is not None
        hidden = self.token_BT[self.dropped_BT] if presentation in REPLACED else self.token_BT[:0, 0]
        assert (table_VD.grad[hidden] == 0).all()
        shown = self.token_BT[~self.dropped_BT] if presentation in REPLACED else self.token_BT
        assert (table_VD.grad[shown] == 1).all()

    def test_the_arguments_are_left_alone(self, presentation: str) -> None:
        table_VD, token_BT = TABLE_VD.clone(), self.token_BT.clone()
        present(presentation, table_VD, token_BT, self.dropped_BT)
        assert torch.equal(table_VD, TABLE_VD)
        assert torch.equal(token_BT, self.token_BT)
