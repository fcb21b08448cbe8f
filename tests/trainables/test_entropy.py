"""Entropies against full logits, one document at a time; thresholds and evaluation groups against pure Python."""

import math
from unittest import mock

import pytest
import torch

from tests import tiny
from trainables.data.packing import pack
from trainables.entropy import evaluation_groups, threshold
from trainables.forward import Forward
from trainables.models.loading import load_model, load_tokenizer
from trainables.preparation.prepared import Prepared
from trainables.preparation.scoring import score, score_folder


@pytest.fixture(scope="module")
def forward(prepared: Prepared) -> Forward:
    return Forward(load_model(prepared.folder, tiny.CPU))


def test_score_equals_the_logits_one_position_earlier(forward: Forward, prepared: Prepared) -> None:
    packed = prepared.packed("train")
    for value_RT, expected_RT in zip(score(forward, packed, rows=3), tiny.dense(forward.model, packed), strict=True):
        assert torch.equal(torch.isfinite(value_RT), torch.isfinite(expected_RT))
        finite_RT = torch.isfinite(expected_RT)
        assert torch.allclose(value_RT[finite_RT].double(), expected_RT[finite_RT], atol=1e-5, rtol=1e-5)


def test_entropies_of_the_tiny_model_differ(prepared: Prepared) -> None:
    # What the other tests rest on: a threshold that parts the tokens.
    entropy_N = prepared.entropy("train")[prepared.packed("train").droppable_RT]
    assert entropy_N.min() > 0
    assert entropy_N.max() < math.log(60)
    assert entropy_N.std() > 0.1


def test_first_tokens_and_padding_have_no_entropy(forward: Forward, prepared: Prepared) -> None:
    packed = prepared.packed("train")
    entropy_RT, loss_RT = score(forward, packed)
    without_RT = (packed.position_RT == 0) | (packed.document_RT < 0)
    assert without_RT.any(dim=1).all()
    assert torch.equal(torch.isinf(entropy_RT), without_RT)
    assert (loss_RT[without_RT] == 0).all()
    assert (loss_RT[~without_RT] > 0).all()


def test_a_document_scores_the_same_packed_and_alone(forward: Forward, prepared: Prepared) -> None:
    packed = prepared.packed("train")
    tokenizer = load_tokenizer(prepared.folder)
    entropy_RT, loss_RT = score(forward, packed)
    for index, document in enumerate(tiny.splits().train):
        alone, _ = pack([document], tokenizer, packed.token_RT.shape[1])
        alone_entropy_1T, alone_loss_1T = score(forward, alone)
        here_RT, there_1T = packed.document_RT == index, alone.document_RT == 0
        # inf - inf is NaN: the first token apart.
        assert torch.allclose(entropy_RT[here_RT][1:], alone_entropy_1T[there_1T][1:], atol=1e-5, rtol=1e-5)
        assert torch.allclose(loss_RT[here_RT], alone_loss_1T[there_1T], atol=1e-5, rtol=1e-5)


def test_a_gpu_that_was_not_asked_for_is_left_alone(forward: Forward, prepared: Prepared) -> None:
    packed = prepared.packed("validation")
    with mock.patch.object(torch.cuda, "is_available", return_value=True):
        entropy_RT, _ = score_folder(prepared.folder, packed, one_document_a_row=False)
    assert torch.equal(entropy_RT, score(forward, packed)[0])


@pytest.mark.parametrize("quantile", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_threshold_is_the_quantile_of_the_tokens_that_may_be_dropped(quantile: float) -> None:
    generator = torch.Generator().manual_seed(0)
    entropy_RT = torch.rand(7, 11, generator=generator)
    droppable_RT = torch.rand(7, 11, generator=generator) < 0.6
    entropy_RT[~droppable_RT] = torch.inf
    ordered = sorted(entropy_RT[droppable_RT].tolist())
    place = quantile * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    assert threshold(entropy_RT, droppable_RT, quantile) == pytest.approx(low + (place - int(place)) * (high - low))


def test_threshold_of_more_tokens_than_torch_quantile_takes() -> None:
    entropy_RT = torch.linspace(0, 1, 2**24 + 8).reshape(8, -1)
    assert threshold(entropy_RT, torch.ones_like(entropy_RT, dtype=torch.bool), 0.25) == pytest.approx(0.25, abs=1e-6)


def test_evaluation_groups_have_exact_sizes() -> None:
    entropy_RT = torch.rand(8, 30, generator=torch.Generator().manual_seed(0))
    entropy_RT[:, ::10] = torch.inf
    high_RT, low_RT = evaluation_groups(entropy_RT, 0.2, 0.5)
    predicted = int(torch.isfinite(entropy_RT).sum())
    assert (int(high_RT.sum()), int(low_RT.sum())) == (round(0.2 * predicted), round(0.5 * predicted))
    assert not (high_RT & low_RT).any()
    assert not ((high_RT | low_RT) & torch.isinf(entropy_RT)).any()
    middle_RT = torch.isfinite(entropy_RT) & ~high_RT & ~low_RT
    assert entropy_RT[low_RT].max() <= entropy_RT[middle_RT].min()
    assert entropy_RT[middle_RT].max() <= entropy_RT[high_RT].min()


def test_ties_are_broken_by_position() -> None:
    entropy_RT = torch.tensor([[torch.inf, 1.0, 1.0, 1.0], [torch.inf, 1.0, 1.0, 2.0]])
    high_RT, low_RT = evaluation_groups(entropy_RT, 0.5, 0.5)
    assert high_RT.tolist() == [[False, False, False, False], [False, True, True, True]]
    assert low_RT.tolist() == [[False, True, True, True], [False, False, False, False]]


def test_a_group_is_never_empty() -> None:
    high_RT, low_RT = evaluation_groups(torch.tensor([[torch.inf, 1.0, 2.0]]), 0.01, 0.01)
    assert high_RT.tolist() == [[False, False, True]]
    assert low_RT.tolist() == [[False, True, False]]
