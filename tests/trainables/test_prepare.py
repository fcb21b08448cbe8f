"""What all trials share: computed once, by content, with the evaluation set of the reference model."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch

from tests import tiny
from trainables import prepare as module
from trainables.documents import DataError, Document
from trainables.entropy import evaluation_groups, score, score_folder
from trainables.evaluate import evaluate
from trainables.forward import Forward
from trainables.models import load_model, load_tokenizer
from trainables.packing import pack
from trainables.prepare import SPLITS, Prepared
from trainables.warm import WarmModel


@pytest.fixture(scope="module")
def referred(cache: Path) -> Prepared:
    """The model "tiny", with the evaluation set of "other"."""
    return tiny.prepared(cache, "tiny", ["other", "tiny"])


def test_the_second_time_nothing_is_computed(tmp_path: Path) -> None:
    scorer = mock.Mock(wraps=score_folder)
    first = tiny.prepared(tmp_path, "tiny", ["other", "tiny"], scorer)
    assert scorer.call_count == 2
    assert tiny.prepared(tmp_path, "tiny", ["other", "tiny"], scorer) == first
    # The other model shares tokens and evaluation set, and its entropies are known already.
    other = tiny.prepared(tmp_path, "other", ["other", "tiny"], scorer)
    assert scorer.call_count == 2
    assert (other.data_hash, other.evaluation_hash) == (first.data_hash, first.evaluation_hash)
    assert other.base_losses != first.base_losses


def test_the_hashes_do_not_depend_on_where_the_cache_lies(tmp_path: Path, prepared: Prepared) -> None:
    elsewhere = tiny.prepared(tmp_path)
    assert (elsewhere.data_hash, elsewhere.evaluation_hash) == (prepared.data_hash, prepared.evaluation_hash)
    assert elsewhere.base_losses == prepared.base_losses


@pytest.mark.parametrize("split", SPLITS)
def test_the_hash_changes_with_a_document(cache: Path, prepared: Prepared, split: str) -> None:
    splits = tiny.splits()
    first, *rest = getattr(splits, split)
    changed = replace(splits, **{split: (Document(first.text + " now", first.group), *rest)})
    other = tiny.prepared(cache, splits=changed)
    assert other.data_hash != prepared.data_hash
    # The training documents are no part of the evaluation set.
    assert (other.evaluation_hash == prepared.evaluation_hash) == (split == "train")


def test_the_hash_changes_with_the_sequence_length(cache: Path, prepared: Prepared) -> None:
    other = tiny.prepared(cache, sequence_length=40)
    assert other.data_hash != prepared.data_hash
    assert other.packed("train").token_RT.shape[1] == 40


def test_the_evaluation_hash_changes_with_the_shares(cache: Path, prepared: Prepared) -> None:
    other = tiny.prepared(cache, high_entropy=0.3)
    assert other.data_hash == prepared.data_hash
    assert other.evaluation_hash != prepared.evaluation_hash


def test_tokens_are_those_of_the_documents(prepared: Prepared) -> None:
    tokenizer = load_tokenizer(prepared.folder)
    for split in SPLITS:
        expected, _ = pack(getattr(tiny.splits(), split), tokenizer, 48)
        for name, tensor in prepared.packed(split).tensors().items():
            assert torch.equal(tensor, expected.tensors()[name])
    assert prepared.train_tokens == sum(len(d.text.split()) + 1 for d in tiny.splits().train)


def test_entropies_are_those_of_the_model_itself(cache: Path, referred: Prepared) -> None:
    forward = Forward(load_model(tiny.folder("tiny", cache), tiny.CPU))
    for split in SPLITS:
        expected_RT = score(forward, referred.packed(split))[0]
        # Stored in half precision.
        assert torch.allclose(referred.entropy(split), expected_RT, rtol=1e-3)


def test_evaluation_groups_are_those_of_the_reference(cache: Path, prepared: Prepared, referred: Prepared) -> None:
    forward = Forward(load_model(tiny.folder("other", cache), tiny.CPU))
    for split in SPLITS[1:]:
        expected = evaluation_groups(score(forward, referred.packed(split))[0].half().float(), 0.2, 0.5)
        assert all(map(torch.equal, referred.groups(split), expected))
        assert not any(map(torch.equal, prepared.groups(split), expected))
    assert prepared.evaluation_hash != referred.evaluation_hash


@pytest.mark.parametrize("name", ["prepared", "referred"])
def test_base_losses_are_those_of_the_untrained_model(name: str, request: pytest.FixtureRequest) -> None:
    prepared: Prepared = request.getfixturevalue(name)
    warm = WarmModel(prepared, tiny.CPU)
    losses = evaluate(warm.forward, warm.validation, torch.float32)
    assert {name: losses[name] for name in prepared.base_losses} == pytest.approx(prepared.base_losses, rel=1e-6)


@pytest.mark.parametrize("split", SPLITS)
def test_documents_without_a_token_to_learn_are_an_error(cache: Path, split: str) -> None:
    empty = replace(tiny.splits(), **{split: (Document("", "a"), Document(" ", "b"))})
    with pytest.raises(DataError) as caught:
        tiny.prepared(cache, splits=empty)
    assert caught.value.field == f"data.{split}"


def test_progress_is_told_in_lines(cache: Path) -> None:
    lines: list[str] = []
    with mock.patch.object(module, "model_folder", tiny.folder):
        module.prepare("tiny", ["tiny"], tiny.preparation(cache), lines.append)
    assert any("tiny" in line for line in lines)
