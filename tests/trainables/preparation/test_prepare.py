"""What all trials share: computed once, by content, with the evaluation set of the reference model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch

import trainables
from tests import tiny
from trainables.data.documents import Document
from trainables.data.packing import pack
from trainables.entropy import evaluation_groups
from trainables.errors import DataError, ModelError
from trainables.forward import Forward
from trainables.models.loading import embeddings_of, load_model, load_tokenizer
from trainables.preparation import prepare as module
from trainables.preparation.prepare import SPLITS
from trainables.preparation.prepared import Prepared
from trainables.preparation.scoring import score, score_folder
from trainables.storage.cache import code_digest
from trainables.training.evaluate import evaluate
from trainables.training.warm_model import WarmModel


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


def test_what_other_code_has_computed_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = mock.Mock(wraps=score_folder)
    first = tiny.prepared(tmp_path, scorer=scorer)
    monkeypatch.setattr(module, "code_digest", lambda _: "other")
    second = tiny.prepared(tmp_path, scorer=scorer)
    assert scorer.call_count == 2
    for entry in ("tokens", "entropies", "evaluation"):
        assert getattr(second, entry) != getattr(first, entry)
    # What a run depends on is what came out.
    assert (second.base_hash, second.data_hash) == (first.base_hash, first.data_hash)
    assert second.evaluation_hash == first.evaluation_hash


@pytest.mark.parametrize(
    ("source", "old", "new"),
    [
        ("entropy.py", "stable=True", "stable=False"),
        ("loss.py", "import", "import math\nimport"),
        ("data/packing.py", "heappop(by_room[room])", "by_room[room].pop()"),
        ("forward.py", "rows.position_RT", "rows.document_RT"),
        ("forward.py", "ROWS = 8", "ROWS = 16"),
        ("preparation/prepare.py", ".half()", ".bfloat16()"),
    ],
)
@pytest.mark.faults
def test_the_code_that_counts(tmp_path: Path, source: str, old: str, new: str) -> None:
    shutil.copytree(Path(trainables.__file__).parent, tmp_path / "trainables")
    before = code_digest(module.__name__, tmp_path)
    path = tmp_path / "trainables" / source
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    code_digest.cache_clear()
    assert code_digest(module.__name__, tmp_path) != before == code_digest(module.__name__)


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


def test_what_was_left_out_of_the_splits_does_not_count(cache: Path, prepared: Prepared) -> None:
    assert tiny.prepared(cache, splits=replace(tiny.splits(), notes=("2 documents are left out",))) == prepared


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


def test_a_reference_model_says_which_tokens_are_low_and_which_are_measured(cache: Path, referred: Prepared) -> None:
    prepared = tiny.prepared(cache, "tiny", ["tiny"], reference="other")
    other = tiny.prepared(cache, "other", ["other"])
    for split in SPLITS:
        assert torch.equal(prepared.entropy(split), other.entropy(split))
    assert prepared.evaluation_hash == other.evaluation_hash == referred.evaluation_hash
    # What is trained, and what the losses are measured against, stays the model itself.
    assert prepared.folder == referred.folder
    assert prepared.base_losses == referred.base_losses
    assert prepared.base_hash != referred.base_hash


def test_a_reference_with_another_tokenizer_is_refused(cache: Path, tmp_path: Path) -> None:
    def folder(name: str, cache_: Path, progress: object = None) -> Path:
        if name == "tiny":
            return tiny.folder(name, cache)
        target = tmp_path / "reference"
        shutil.copytree(tiny.folder("other", cache), target, dirs_exist_ok=True)
        tokenizer = json.loads((target / "tokenizer.json").read_text())
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["anna"], vocabulary["ben"] = vocabulary["ben"], vocabulary["anna"]
        (target / "tokenizer.json").write_text(json.dumps(tokenizer))
        return target

    with mock.patch.object(module, "model_folder", folder), pytest.raises(DataError) as caught:
        module.prepare("tiny", ["tiny"], tiny.preparation(cache, reference="swapped"))
    told = "schedule.reference: swapped has another tokenizer than tiny; name a model with the same one"
    assert str(caught.value) == told


# An empty one is none: transformers gives it the number of the unknown token.
@pytest.mark.parametrize("own", [None, ""])
@pytest.mark.parametrize(
    ("mask_token", "told"),
    [
        (None, "schedule.presentation: the tokenizer has no mask token for input_mask_token; set schedule.mask_token"),
        ("<none>", "schedule.mask_token: given <none>; allowed: one token of the model's vocabulary"),
    ],
)
def test_a_mask_token_that_is_needed_and_missing_is_told(
    cache: Path, tmp_path: Path, mask_token: str | None, told: str, own: str | None
) -> None:
    without = tmp_path / "model"
    shutil.copytree(tiny.folder("tiny", cache), without)
    about = json.loads((without / "tokenizer_config.json").read_text())
    (without / "tokenizer_config.json").write_text(json.dumps(about | {"mask_token": own}))

    def prepare(**changes: object) -> Prepared:
        with mock.patch.object(module, "model_folder", return_value=without):
            return module.prepare("tiny", ["tiny"], tiny.preparation(cache, **changes))

    assert prepare().vocabulary.mask_token is None
    with pytest.raises(DataError) as caught:
        prepare(needs_mask_token=True, mask_token=mask_token)
    assert str(caught.value).startswith(told)
    named = prepare(needs_mask_token=True, mask_token="coins").vocabulary
    assert named.mask_token == load_tokenizer(without).convert_tokens_to_ids("coins")


def test_tokens_without_embeddings_are_never_shown(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.folder("tiny", cache), folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.add_special_tokens({"mask_token": "<hidden>"})
    tokenizer.save_pretrained(folder)

    def prepare(**changes: object) -> Prepared:
        with mock.patch.object(module, "model_folder", return_value=folder):
            return module.prepare("tiny", ["tiny"], tiny.preparation(tmp_path, **changes))

    words = embeddings_of(load_model(folder, tiny.CPU))
    ordinary = prepare().vocabulary.ordinary
    # The last one is <mask>: special, though another token is the mask token now.
    assert max(ordinary) == words - 2
    assert set(range(2, words - 1)) <= set(ordinary)
    with pytest.raises(DataError, match=r"presentation: the tokenizer has no mask token that the model has an"):
        prepare(needs_mask_token=True)
    with pytest.raises(DataError, match=r"schedule.mask_token: given <one>; .* embedding of, which are the first 58"):
        prepare(needs_mask_token=True, mask_token="<one>")
    prepare(needs_mask_token=True, mask_token="coins")


def test_weights_that_are_not_finite_are_told_before_the_first_trial(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.folder("tiny", cache), folder)
    model = load_model(folder, tiny.CPU)
    model.get_input_embeddings().weight.data[3] = torch.nan
    model.save_pretrained(folder)
    with (
        mock.patch.object(module, "model_folder", return_value=folder),
        pytest.raises(ModelError, match=r"a model with finite weights: the loss of this one is not finite before"),
    ):
        module.prepare("tiny", ["tiny"], tiny.preparation(tmp_path))


def test_a_sequence_length_above_the_models_is_told(cache: Path) -> None:
    tiny.prepared(cache, sequence_length=64)
    with pytest.raises(DataError, match=r"training.sequence_length: given 65; allowed: at most 64"):
        tiny.prepared(cache, sequence_length=65)


@pytest.mark.parametrize("kind", ["tokens", "entropies", "evaluation"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, kind: str) -> None:
    first = tiny.prepared(tmp_path)
    damaged = max((tmp_path / kind).rglob("*.safetensors"))
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    assert tiny.prepared(tmp_path) == first
    content[-1] ^= 1
    assert damaged.read_bytes() == content


@pytest.mark.parametrize(
    ("split", "prompt", "told"),
    [
        ("train", "", "data.train: given documents of at most one token; allowed: documents of two"),
        ("validation", "", "data.validation: given documents of at most one token; allowed: documents of two"),
        ("general", "", "general.documents: given documents of at most one token; allowed: documents of two"),
        ("test", "ben has 3 " * 20, "data.test: given documents whose prompts fill the 48 tokens of a row; allowed: a"),
    ],
)
def test_documents_without_a_token_to_predict_are_told(cache: Path, split: str, prompt: str, told: str) -> None:
    documents = tuple(Document(word, word, prompt) for word in ("anna", "ben", "carla"))
    with pytest.raises(DataError, match=f"^{told}"):
        tiny.prepared(cache, splits=replace(tiny.splits(), **{split: documents}), train_on_prompt=not prompt)


def test_a_tokenizer_of_a_larger_model_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.folder("tiny", tmp_path), folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["anna"] = 1300
    path.write_text(json.dumps(content))
    with (
        mock.patch.object(module, "model_folder", return_value=folder),
        pytest.raises(ModelError, match=r"and its embedding \(vocab_size in config.json\) has 58 from 0 on"),
    ):
        module.prepare("tiny", ["tiny"], tiny.preparation(tmp_path))


def test_what_is_wrong_with_a_reference_is_told_of_the_reference(tmp_path: Path) -> None:
    def folder(name: str, *how: object) -> Path:
        if name == "tiny":
            return tiny.folder("tiny", tmp_path)
        raise ModelError("models", name, "one that exists")

    with (
        mock.patch.object(module, "model_folder", folder),
        pytest.raises(DataError, match=r"^schedule.reference: given none; allowed: one that exists"),
    ):
        module.prepare("tiny", ["tiny"], tiny.preparation(tmp_path, reference="none"))


def test_padded_documents_lose_the_same(cache: Path, prepared: Prepared) -> None:
    padded = tiny.prepared(cache, layout="padded")
    assert padded.train_rows == 24 > prepared.train_rows
    assert padded.train_tokens == prepared.train_tokens
    assert padded.base_losses == pytest.approx(prepared.base_losses, rel=1e-4)


def test_prompts_out_of_the_loss_have_no_entropy(cache: Path) -> None:
    splits = tiny.splits()
    cut = {
        split: tuple(
            Document(" ".join(d.text.split()[4:]), d.group, " ".join(d.text.split()[:4]) + " ", "5")
            for d in getattr(splits, split)
        )
        for split in SPLITS
    }
    whole, own = (
        tiny.prepared(cache, splits=replace(splits, **cut), train_on_prompt=learned) for learned in (True, False)
    )
    trained_RT = own.packed("train").trained_RT
    assert torch.equal(own.packed("train").token_RT, whole.packed("train").token_RT)
    assert (whole.entropy("train") < torch.inf).sum() == (own.entropy("train") < torch.inf).sum() + 24 * 3
    assert (own.entropy("train")[~trained_RT] == torch.inf).all()
    assert [question.answer for question in own.questions] == ["5"] * 10


def test_documents_that_are_cut_are_counted(cache: Path, prepared: Prepared) -> None:
    assert prepared.cut == {}
    lengths = [len(d.text.split()) + 1 for d in tiny.splits().train]
    assert tiny.prepared(cache, sequence_length=14).cut["train"] == sum(length > 14 for length in lengths) > 0


def test_of_chats_the_answers_are_learned(cache: Path) -> None:
    splits = tiny.chats()
    prepared = tiny.prepared(cache, splits=splits, chat_template=tiny.CHAT_TEMPLATE)
    tokenizer = load_tokenizer(prepared.folder)
    train = prepared.packed("train")
    for index, document in enumerate(splits.train):
        where = train.document_RT == index
        learned = train.token_RT[where & train.trained_RT].tolist()
        assert learned == tokenizer(f"{document.text} <end>")["input_ids"]
        assert (
            train.token_RT[where].tolist()
            == tokenizer(f"user : {document.prompt} <end> assistant : {document.text} <end>")["input_ids"]
        )
    assert (prepared.entropy("train")[~train.trained_RT] == torch.inf).all()
    asked = [f"user : {document.prompt} <end> assistant :" for document in splits.validation]
    assert [question.tokens for question in prepared.questions] == tokenizer(asked)["input_ids"]
    assert [question.answer for question in prepared.questions] == [d.text for d in splits.validation]
    assert (prepared.stops, prepared.notices, prepared.cut) == ({tokenizer.eos_token_id}, [], {})
    assert prepared.chat_template == tiny.CHAT_TEMPLATE


def test_chats_do_not_depend_on_the_order_of_a_file_but_on_the_template(cache: Path) -> None:
    splits = tiny.chats()
    moved = replace(
        splits,
        train=tuple(replace(d, chat=replace(d.chat, place="line 9 of b.jsonl")) for d in splits.train if d.chat),
    )
    one, same = (tiny.prepared(cache, splits=s, chat_template=tiny.CHAT_TEMPLATE) for s in (splits, moved))
    assert one.tokens == same.tokens
    other = tiny.prepared(cache, splits=splits, chat_template=tiny.CHAT_TEMPLATE.replace(" :", " then"))
    assert one.data_hash != other.data_hash


@pytest.mark.parametrize(
    ("split", "template", "told"),
    [
        (
            "train",
            "{{ raise_exception('no') }}",
            r"data\.messages: given line 1 of chats.jsonl; allowed: chats that the",
        ),
        ("general", "{{ raise_exception('no') }}", r"general\.messages: given line 1 of chats.jsonl; allowed: chats t"),
        ("train", None, r"data\.chat_template: the tokenizer of tiny has no chat template; give one here, as text"),
    ],
)
def test_what_a_template_does_not_take_is_told_before_anything_is_trained(
    cache: Path, split: str, template: str | None, told: str
) -> None:
    splits = replace(tiny.splits(), **{split: tiny.chats().train})
    with pytest.raises(DataError, match=f"^{told}"):
        tiny.prepared(cache, splits=splits, chat_template=template)


def test_what_is_noticed_of_chats_is_kept(cache: Path) -> None:
    last = "{% if loop.last and m.role == 'assistant' %} .{% endif %}"
    template = tiny.CHAT_TEMPLATE.replace("{{ m.content }}", "{{ m.content }}" + last)
    splits = tiny.chats()
    twice = tuple(
        replace(d, chat=replace(d.chat, messages=d.chat.messages * 2, learned=d.chat.learned * 2))
        for d in splits.train
        if d.chat
    )
    prepared = tiny.prepared(cache, splits=replace(splits, train=twice), chat_template=template)
    (notice,) = prepared.notices
    # Of the longer ones the second answer is cut off, and the first is the last one.
    rewritten = len(twice) - prepared.cut["train"]
    assert notice.startswith(
        f"tiny: the chat template writes {rewritten} of 68 answers otherwise as the chat goes on (first in"
    )
