"""Regularizers by noise: of the right size, and the same for the same row."""

import math
from unittest import mock

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from tests import tiny
from trainables.errors import DataError
from trainables.noise import Noise
from trainables.training.warm_model import WarmModel


def begun(warm: WarmModel, rows: list[int], epoch: int = 0, **changes: float) -> Noise:
    noise = Noise(warm.model, tiny.settings(**changes))
    noise.begin(epoch, rows, 0, 0)
    return noise


def test_neftune_is_uniform_and_scaled_by_the_documents_length(warm: WarmModel) -> None:
    noise = begun(warm, [0, 1], neftune_alpha=8.0)
    document_BT = torch.tensor([[0] * 100 + [1] * 25, [2] * 125])
    added_BTD = noise.neftune(torch.zeros(2, 125, 400), document_BT)
    for document, length in ((0, 100), (1, 25), (2, 125)):
        bound = 8.0 / math.sqrt(length * 400)
        part = added_BTD[document_BT == document]
        assert part.abs().max() <= bound
        # The deviation of a uniform distribution over +-bound.
        assert float(part.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert float(part.mean()) == pytest.approx(0.0, abs=4 * bound / math.sqrt(3 * part.numel()))


def test_without_alpha_nothing_is_added(warm: WarmModel) -> None:
    embedding_BTD = torch.ones(1, 3, 4)
    assert begun(warm, [0]).neftune(embedding_BTD, torch.zeros(1, 3)) is embedding_BTD


def test_a_rows_noise_depends_on_its_row_and_epoch_alone(warm: WarmModel) -> None:
    document_BT, zeros_BTD = torch.zeros(3, 5, dtype=torch.int64), torch.zeros(3, 5, 4)

    def noise(rows: list[int], epoch: int = 0) -> torch.Tensor:
        count = len(rows)
        return begun(warm, rows, epoch, neftune_alpha=1.0).neftune(zeros_BTD[:count], document_BT[:count])

    together = noise([4, 7, 9])
    assert torch.equal(noise([7])[0], together[1])
    assert torch.equal(noise([9, 4]), together[[2, 0]])
    assert not torch.equal(noise([7], epoch=1)[0], together[1])
    assert not torch.equal(together[0], together[1])


def test_hidden_dropout_drops_its_share_of_what_each_block_adds(warm: WarmModel) -> None:
    block = warm.model.base_model.layers[0].mlp
    ones = mock.patch.object(block, "forward", side_effect=lambda hidden: torch.ones_like(hidden))
    warm.model.train()
    with begun(warm, [0, 1], hidden_dropout=0.25), ones:
        shown = block(torch.zeros(2, 200, 200))
        again = block(torch.zeros(2, 200, 200))
        warm.model.eval()
        evaluated = block(torch.zeros(2, 200, 200))
    assert shown.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert float((shown == 0).double().mean()) == pytest.approx(0.25, abs=0.01)
    assert torch.equal(again, shown)
    assert (evaluated == 1).all()
    with ones:
        warm.model.train()
        assert (block(torch.zeros(1, 3, 3)) == 1).all(), "a run that has ended leaves nothing behind"


def test_attention_dropout_is_on_in_the_run_alone(warm: WarmModel) -> None:
    attention = warm.model.base_model.layers[0].self_attn
    with begun(warm, [0], attention_dropout=0.2):
        assert attention.attention_dropout == 0.2
    assert attention.attention_dropout == 0.0


def test_an_architecture_without_such_blocks_is_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=20))
    model.transformer.h = nn.ModuleList()
    with pytest.raises(DataError, match=r"training.hidden_dropout: the architecture gpt2"):
        Noise(model, tiny.settings(hidden_dropout=0.1))
    with pytest.raises(DataError, match=r"training.attention_dropout: the architecture gpt2"):
        Noise(model, tiny.settings(attention_dropout=0.1))
    Noise(model, tiny.settings())
