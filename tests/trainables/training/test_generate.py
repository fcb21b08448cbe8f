"""Exact-match accuracy of generated answers."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from tokenizers import processors

from tests import tiny
from trainables.data.documents import Document
from trainables.models.loading import load_tokenizer
from trainables.preparation.prepared import Question
from trainables.settings import ExactMatch, ModelSettings
from trainables.training.generate import answers_agree, exact_match, right_answers
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel

LAST_NUMBER = r"-?\d[\d,]*"
AFTER_HASHES = r"#### (-?[\d,.]+)"


@pytest.mark.parametrize(
    ("text", "answer", "pattern", "agree"),
    [
        ("42", "42", None, True),
        (" 42\n", "42", None, True),
        ("42 apples", "42", None, False),
        ("6 * 7 = 42", "42", LAST_NUMBER, True),
        ("42 = 6 * 7", "42", LAST_NUMBER, False),
        ("So 1,234 in all\n#### 1,234", "1234", AFTER_HASHES, True),
        ("So 1234 in all", "1234", AFTER_HASHES, False),
        ("#### 3\n#### 4", "#### 4", AFTER_HASHES, True),
        ("no number", "none", LAST_NUMBER, False),
        ("(1, 2)", "(1,2)", None, False),
        ("a  b\tc", "a b c", None, True),
    ],
)
def test_answers_agree_where_a_person_says_so(text: str, answer: str, pattern: str | None, agree: bool) -> None:
    assert answers_agree(text, answer, pattern) == agree


def questions(cache: Path) -> WarmModel:
    """The model "tiny", with one question that has two answers in the data and nine others."""
    splits = tiny.splits()
    asked = tuple(
        Document(" ".join(words[3:]), d.group, " ".join(words[:3]) + " ", " ".join(words[3:]))
        for d in splits.validation
        if (words := d.text.split())
    )
    return WarmModel(tiny.prepared(cache, splits=replace(splits, validation=asked)), tiny.CPU)


@pytest.mark.faults
def test_the_share_of_right_answers_equals_a_slow_count(cache: Path) -> None:
    warm = questions(cache)
    tokenizer = load_tokenizer(warm.prepared.folder)
    # Trained on the questions themselves, a model of 6,000 parameters knows some of them.
    run = Run(warm, tiny.settings(epochs=30, learning_rate=0.02))
    while not run.finished:
        run.advance()
    how = ExactMatch(questions=7, max_new_tokens=12, pattern=r"^\S+ \S+")
    right = 0
    for question in warm.prepared.questions[:7]:
        tokens = question.tokens
        said: list[int] = []
        for _ in range(12):
            with torch.no_grad():
                likeliest = int(warm.model(torch.tensor([tokens + said])).logits[0, -1].argmax())
            if likeliest == tokenizer.eos_token_id:
                break
            said.append(likeliest)
        right += tokenizer.decode(said).split()[:2] == question.answer.split()[:2]
    assert right > 0
    assert exact_match(warm.model, warm.prepared, how, torch.float32) == pytest.approx(right / 7)


def test_an_answer_ends_where_the_model_does(cache: Path) -> None:
    warm = questions(cache)
    longest = warm.model.config.max_position_embeddings
    how = ExactMatch(questions=1, max_new_tokens=10 * longest)
    with mock.patch.object(warm.model.generation_config, "eos_token_id", None):
        for words, room in ((3, longest - 3), (longest, 0)):
            asked = [Question([5] * words, "ben")]
            said = mock.Mock(wraps=warm.model.generate)
            with (
                mock.patch.object(type(warm.prepared), "questions", asked),
                mock.patch.object(warm.model, "generate", said),
            ):
                assert exact_match(warm.model, warm.prepared, how, torch.float32) == 0
            assert [call.kwargs["max_new_tokens"] for call in said.call_args_list] == ([room] if room else [])


def test_a_prompt_is_asked_as_it_was_learned_and_greedily(tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    own = tokenizer.backend_tokenizer
    own.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 0)])
    with mock.patch("trainables.preparation.prepare.load_tokenizer", return_value=tokenizer):
        warm = questions(tmp_path)
    assert warm.model.generation_config is not None
    warm.model.generation_config.update(repetition_penalty=1.5, eos_token_id=[0, 5])
    said = mock.Mock(wraps=warm.model.generate)
    with mock.patch.object(warm.model, "generate", said):
        exact_match(warm.model, warm.prepared, ExactMatch(questions=2, max_new_tokens=2), torch.float32)
    for call, document in zip(said.call_args_list, tiny.splits().validation, strict=False):
        assert tokenizer.convert_ids_to_tokens(call.args[0][0].tolist()) == document.text.split()[:3]
    assert warm.model.generation_config.repetition_penalty is None
    assert warm.model.generation_config.eos_token_id == [0, 5]


def test_chats_are_asked_with_the_generation_prompt(cache: Path) -> None:
    template = tiny.CHAT_TEMPLATE.replace("<end>", "<mask>")
    warm = WarmModel(tiny.prepared(cache, splits=tiny.chats(), chat_template=template), tiny.CPU)
    tokenizer = load_tokenizer(warm.prepared.folder)
    said = mock.Mock(wraps=warm.model.generate)
    with mock.patch.object(warm.model, "generate", said):
        exact_match(warm.model, warm.prepared, ExactMatch(questions=2, max_new_tokens=2), torch.float32)
        assert warm.model.generation_config is not None
    asked = [f"user : {document.prompt} <mask> assistant :" for document in tiny.chats().validation[:2]]
    assert [call.args[0][0].tolist() for call in said.call_args_list] == tokenizer(asked)["input_ids"]
    # What ends a turn ends an answer.
    assert warm.prepared.stops == {tokenizer.mask_token_id}
    config = warm.model.generation_config
    assert config is not None
    assert config.eos_token_id == [tokenizer.eos_token_id, tokenizer.mask_token_id]


def test_answers_are_generated_at_the_last_evaluation(cache: Path) -> None:
    warm = questions(cache)
    plain = Run(warm, tiny.settings(epochs=2))
    expected = [plain.advance(), plain.advance()]
    asked = WarmModel(warm.prepared, tiny.CPU, ModelSettings(exact_match=ExactMatch(questions=3, max_new_tokens=4)))
    run = Run(asked, tiny.settings(epochs=2))
    history = [run.advance(), run.advance()]
    assert ["exact_match" in metrics for metrics in history] == [False, True]
    assert 0 <= history[1]["exact_match"] <= 1
    # Asking changes nothing else.
    assert [m["loss"] for m in history] == [m["loss"] for m in expected]


def test_the_questions_of_the_test_split_are_answered_where_they_are_asked_for(cache: Path) -> None:
    warm = WarmModel(tiny.prepared(cache, splits=tiny.chats(), chat_template=tiny.CHAT_TEMPLATE), tiny.CPU)
    how = ExactMatch(questions=1, max_new_tokens=4)
    asked = WarmModel(warm.prepared, tiny.CPU, ModelSettings(exact_match=how, test_answers=True))
    run = Run(asked, tiny.settings(epochs=1), keep_best=True)
    run.advance()
    for read in run.test().values():
        answers = read["test"]["exact_match"]
        assert answers["counts"] == [1.0] * 10
        assert set(answers["sums"]) <= {0.0, 1.0}
    # What only the last evaluation answers is not.
    plain = Run(
        WarmModel(warm.prepared, tiny.CPU, ModelSettings(exact_match=how)), tiny.settings(epochs=1), keep_best=True
    )
    plain.advance()
    assert "exact_match" not in plain.test()["final"]["test"]


def test_a_question_without_an_answer_is_not_counted_as_wrong_by_its_neighbours(cache: Path) -> None:
    warm = WarmModel(tiny.prepared(cache, splits=tiny.chats(), chat_template=tiny.CHAT_TEMPLATE), tiny.CPU)
    known = warm.prepared.test_questions[:3]
    how = ExactMatch(questions=3, max_new_tokens=4)
    right = right_answers(warm.model, warm.prepared, known, how, torch.float32)
    gaps = right_answers(warm.model, warm.prepared, [None, *known, None], how, torch.float32)
    assert gaps == [0.0, *right, 0.0]
