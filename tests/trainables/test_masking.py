"""Which tokens are dropped, against pure Python; one conformance suite for both presentations of a dropped token."""

from itertools import product

import pytest
import torch
from torch import Tensor

from trainables.masking import dropped_tokens, ignore_labels, uniforms, zero_inputs

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


@pytest.mark.parametrize("change", ["seed", "epoch", "document", "position"])
def test_uniforms_of_neighbours_are_independent(change: str) -> None:
    document_BT, position_BT = grid(200, 200)
    value_N = uniforms(0, 0, document_BT, position_BT).flatten()
    other_N = uniforms(
        int(change == "seed"),
        int(change == "epoch"),
        document_BT + int(change == "document"),
        position_BT + int(change == "position"),
    ).flatten()
    assert not torch.any(value_N == other_N)
    assert abs(float(torch.corrcoef(torch.stack([value_N, other_N]))[0, 1])) < 4 / 200


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_dropped_tokens_equal_a_loop(rate: float) -> None:
    generator = torch.Generator().manual_seed(1)
    entropy_BT = torch.rand(6, 50, generator=generator)
    entropy_BT[:, 0] = torch.inf
    entropy_BT[2, 3] = 0.5
    uniform_BT = torch.rand(6, 50, generator=generator, dtype=torch.float64)
    droppable_BT = torch.rand(6, 50, generator=generator) < 0.9
    dropped_BT = dropped_tokens(entropy_BT, 0.5, rate, uniform_BT, droppable_BT)
    low = 0
    for b, t in product(range(6), range(50)):
        may_go = bool(droppable_BT[b, t]) and float(entropy_BT[b, t]) <= 0.5
        assert bool(dropped_BT[b, t]) == (may_go and float(uniform_BT[b, t]) < rate)
        low += may_go
    assert {0.0: 0, 1.0: low}.get(rate, int(dropped_BT.sum())) == int(dropped_BT.sum())


def test_a_token_that_must_stay_is_never_dropped() -> None:
    droppable_BT = torch.tensor([[False, True, True, False]])
    everything_BT = torch.zeros(1, 4)
    dropped_BT = dropped_tokens(everything_BT, torch.inf, 1.0, everything_BT.double(), droppable_BT)
    assert torch.equal(dropped_BT, droppable_BT)


def present(presentation: str, embedding_BTD: Tensor, token_BT: Tensor, dropped_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings and labels, aligned to the tokens, that the model is shown."""
    if presentation == "input":
        return zero_inputs(embedding_BTD, dropped_BT), token_BT
    return embedding_BTD, ignore_labels(token_BT, dropped_BT)


@pytest.mark.parametrize("presentation", ["input", "loss"])
class TestPresentation:
    """The conformance suite: a new presentation joins `present` and the list."""

    token_BT = torch.arange(1, 13).reshape(3, 4)
    dropped_BT = torch.tensor([[False, True, False, True], [False] * 4, [False, True, True, True]])

    def embedding_BTD(self) -> Tensor:
        return torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def test_nothing_dropped_changes_nothing(self, presentation: str) -> None:
        embedding_BTD = self.embedding_BTD()
        shown_BTD, label_BT = present(presentation, embedding_BTD, self.token_BT, torch.zeros_like(self.dropped_BT))
        assert torch.equal(shown_BTD, embedding_BTD)
        assert torch.equal(label_BT, self.token_BT)

    def test_kept_tokens_are_shown_as_they_are(self, presentation: str) -> None:
        embedding_BTD = self.embedding_BTD()
        shown_BTD, label_BT = present(presentation, embedding_BTD, self.token_BT, self.dropped_BT)
        assert torch.equal(shown_BTD[~self.dropped_BT], embedding_BTD[~self.dropped_BT])
        assert torch.equal(label_BT[~self.dropped_BT], self.token_BT[~self.dropped_BT])

    def test_a_dropped_token_loses_its_input_or_its_label(self, presentation: str) -> None:
        embedding_BTD = self.embedding_BTD()
        shown_BTD, label_BT = present(presentation, embedding_BTD, self.token_BT, self.dropped_BT)
        assert bool((shown_BTD[self.dropped_BT] == 0).all()) == (presentation == "input")
        assert bool((label_BT[self.dropped_BT] == -100).all()) == (presentation == "loss")
        assert torch.equal(shown_BTD, embedding_BTD) == (presentation == "loss")
        assert torch.equal(label_BT, self.token_BT) == (presentation == "input")

    def test_the_gradient_reaches_the_inputs_that_are_shown(self, presentation: str) -> None:
        embedding_BTD = self.embedding_BTD()
        shown_BTD, _ = present(presentation, embedding_BTD, self.token_BT, self.dropped_BT)
        shown_BTD.sum().backward()
        gradient_BTD = embedding_BTD.grad
        assert gradient_BTD is not None
        hidden_BT = self.dropped_BT if presentation == "input" else torch.zeros_like(self.dropped_BT)
        assert torch.equal(gradient_BTD, (~hidden_BT).float().unsqueeze(-1).expand_as(gradient_BTD))

    def test_the_arguments_are_left_alone(self, presentation: str) -> None:
        embedding_BTD, token_BT = self.embedding_BTD(), self.token_BT.clone()
        before_BTD = embedding_BTD.detach().clone()
        present(presentation, embedding_BTD, token_BT, self.dropped_BT)
        assert torch.equal(embedding_BTD, before_BTD)
        assert torch.equal(token_BT, self.token_BT)
