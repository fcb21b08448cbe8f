"""Sources, splits and packing. One conformance suite for all sources: a new one joins the fixture `source`."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from trainables.documents import DataError, Document, Splits, SplitSizes
from trainables.packing import Packed, pack
from trainables.sources import JsonLines, ReasoningGym, Source

SIZES = SplitSizes(12, 6, 5)


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def questions(count: int) -> list[dict[str, str]]:
    return [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(count)]


def json_lines(path: Path, sizes: SplitSizes = SIZES, template: str = "{question}\n{answer}") -> JsonLines:
    return JsonLines(path, template, sizes)


def texts(splits: Splits) -> list[set[str]]:
    return [{d.text for d in part} for part in (splits.train, splits.validation, splits.test)]


@pytest.fixture(params=["reasoning_gym", "json_lines"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[SplitSizes], Source]:
    if request.param == "reasoning_gym":
        return lambda sizes: ReasoningGym("gsm_symbolic", sizes)
    path = write_lines(tmp_path / "data.jsonl", questions(40))
    return lambda sizes: json_lines(path, sizes)


class TestSource:
    def test_splits_have_their_sizes(self, source: Callable[[SplitSizes], Source]) -> None:
        splits = source(SIZES).splits(seed=0)
        assert (len(splits.train), len(splits.validation), len(splits.test)) == (12, 6, 5)
        assert all(d.text.strip() for part in (splits.train, splits.validation, splits.test) for d in part)

    def test_splits_share_no_problem_and_no_group(self, source: Callable[[SplitSizes], Source]) -> None:
        splits = source(SIZES).splits(seed=0)
        parts = (splits.train, splits.validation, splits.test)
        assert len({d.text for part in parts for d in part}) == 12 + 6 + 5
        groups = [{d.group for d in part} for part in parts]
        assert len(set.union(*groups)) == sum(map(len, groups))

    def test_a_seed_fixes_the_splits(self, source: Callable[[SplitSizes], Source]) -> None:
        first = source(SIZES).splits(seed=3)
        assert source(SIZES).splits(seed=3) == first
        assert texts(source(SIZES).splits(seed=4)) != texts(first)


def test_reasoning_gym_tells_the_problem_and_its_worked_solution() -> None:
    for document in ReasoningGym("gsm_symbolic", SIZES).splits(seed=1).train:
        question, solution = document.text.split("\n", 1)
        assert "final answer" not in question
        assert any(c.isdigit() for c in solution)


def test_reasoning_gym_draws_from_many_templates() -> None:
    splits = ReasoningGym("gsm_symbolic", SIZES).splits(seed=1)
    assert len({d.group for d in splits.train}) == 12


def test_templates_with_too_few_problems_are_an_error_that_names_the_split() -> None:
    class Repeating(list[dict[str, Any]]):
        """Three templates, each with two distinct problems."""

        task_indices = (0, 1, 2) * 20

    items = [{"question": f"{i % 6}?", "metadata": {"answer_cot": "1"}} for i in range(60)]
    with (
        mock.patch("reasoning_gym.create_dataset", return_value=Repeating(items)),
        pytest.raises(DataError, match="at most 2 distinct problems") as caught,
    ):
        ReasoningGym("gsm_symbolic", SplitSizes(3, 3, 3)).splits(seed=0)
    assert caught.value.field in ("data.train", "data.validation", "data.test")


def test_more_problems_than_can_be_generated_are_an_error() -> None:
    with pytest.raises(DataError, match=r"at most [0-9]+ together"):
        ReasoningGym("gsm_symbolic", SplitSizes(10**9, 5, 5)).splits(seed=0)


def test_json_lines_do_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    records = questions(30)
    ordered = json_lines(write_lines(tmp_path / "a.jsonl", records)).splits(seed=0)
    random.Random(0).shuffle(records)
    assert json_lines(write_lines(tmp_path / "b.jsonl", records)).splits(seed=0) == ordered


def test_json_lines_drop_duplicates_across_splits(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.jsonl", questions(23) * 3)
    splits = json_lines(path).splits(seed=0)
    assert sum(map(len, texts(splits))) == 23
    assert len(set.union(*texts(splits))) == 23
    with pytest.raises(DataError, match="at most 23 together"):
        json_lines(path, SplitSizes(12, 6, 6)).splits(seed=0)


def test_json_lines_read_what_json_allows(tmp_path: Path) -> None:
    # A line separator may stand in a JSON string as it is; empty lines and Windows line ends are common.
    records = [{"question": f"{n}\u2028\u0085{{}}", "answer": "é"} for n in range(3)]
    path = tmp_path / "data.jsonl"
    path.write_bytes("\r\n\r\n".join(json.dumps(r, ensure_ascii=False) for r in records).encode())
    splits = json_lines(path, SplitSizes(1, 1, 1)).splits(seed=0)
    assert set.union(*texts(splits)) == {f"{n}\u2028\u0085{{}}\né" for n in range(3)}


GOOD = '{"question": "a", "answer": "b"}\n'


@pytest.mark.parametrize(
    ("content", "field", "given", "allowed"),
    [
        (None, "data.path", "data.jsonl", "No such file"),
        ("", "data.path", "no documents in data.jsonl", "at least three"),
        ("\n  \n", "data.path", "no documents in data.jsonl", "at least three"),
        (GOOD + "\n" + "{oops\n", "data.path", "line 3 of ", "a JSON object on each line"),
        (GOOD + "[1, 2]\n", "data.path", "line 2 of ", "a JSON object on each line"),
        (GOOD + "7\n", "data.path", "line 2 of ", "a JSON object on each line"),
        (GOOD + '"text"\n', "data.path", "line 2 of ", "a JSON object on each line"),
        (GOOD + "null\n", "data.path", "line 2 of ", "a JSON object on each line"),
        ('{"problem": "a", "answer": "b"}\n', "data.template", "the column 'question'", "problem, answer"),
        (GOOD * 5, "data.train", "splits of 12 + 6 + 5 documents", "at most 1 together"),
        (b"\xff\xfe\x00", "data.path", "data.jsonl", "UTF-8"),
    ],
)
def test_json_lines_say_what_is_wrong(
    tmp_path: Path, content: str | bytes | None, field: str, given: str, allowed: str
) -> None:
    path = tmp_path / "data.jsonl"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        json_lines(path).splits(seed=0)
    assert caught.value.field == field
    assert given in caught.value.given
    assert allowed in caught.value.allowed
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="readable UTF-8 file"):
        json_lines(tmp_path).splits(seed=0)


class Characters:
    """One token for each character; 0 ends a document."""

    eos_token_id = 0

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        assert not add_special_tokens
        return {"input_ids": [[ord(c) for c in t] for t in text]}


def packed(lengths: list[int], sequence_length: int) -> tuple[list[list[int]], Packed]:
    """Documents with `lengths` characters and the end; (their tokens before the cut, packed)."""
    draw = random.Random(0)
    documents = [Document("".join(draw.choice("abcdef") for _ in range(n)), str(i)) for i, n in enumerate(lengths)]
    return [[*map(ord, d.text), 0] for d in documents], pack(documents, Characters(), sequence_length)


LENGTHS = [(7 * i * i + 3) % 17 for i in range(40)]


@pytest.mark.parametrize("sequence_length", [5, 17, 64])
def test_every_token_is_packed_once_and_in_order(sequence_length: int) -> None:
    tokens, rows = packed(LENGTHS, sequence_length)
    for index, expected in enumerate(tokens):
        where = torch.nonzero(rows.document_RT == index)
        assert where[:, 0].unique().numel() == 1, "a document lies in one row"
        start = int(where[0, 1])
        assert where[:, 1].tolist() == list(range(start, start + len(where)))
        assert rows.token_RT[where[:, 0], where[:, 1]].tolist() == expected[:sequence_length]
        assert rows.position_RT[where[:, 0], where[:, 1]].tolist() == list(range(len(where)))
    assert rows.tokens == sum(min(len(t), sequence_length) for t in tokens)
    assert (rows.token_RT[rows.document_RT < 0] == 0).all()


def test_only_the_end_of_a_document_is_special() -> None:
    tokens, rows = packed(LENGTHS, 17)
    assert int(rows.special_RT.sum()) == sum(len(t) <= 17 for t in tokens)
    assert (rows.token_RT[rows.special_RT] == 0).all()
    assert (rows.document_RT[rows.special_RT] >= 0).all()


def test_labels_never_cross_documents() -> None:
    _, rows = packed(LENGTHS, 17)
    height, width = rows.token_RT.shape
    for r in range(height):
        for t in range(width):
            same = t + 1 < width and 0 <= rows.document_RT[r, t] == rows.document_RT[r, t + 1]
            assert rows.label_RT[r, t] == (rows.token_RT[r, t + 1] if same else -100)


def test_droppable_tokens_are_neither_first_nor_special_nor_padding() -> None:
    tokens, rows = packed(LENGTHS, 17)
    assert not (rows.droppable_RT & ((rows.position_RT == 0) | rows.special_RT | (rows.document_RT < 0))).any()
    assert int(rows.droppable_RT.sum()) == sum(max(0, min(len(t), 18) - 2) for t in tokens)


def test_packing_is_best_fit_decreasing() -> None:
    # Lengths with the end: 5, 4, 3, 2, 2. The 3 goes to the fuller row of the 5, the 2s to the row of the 4.
    _, rows = packed([4, 3, 2, 1, 1], 8)
    assert rows.document_RT.tolist() == [[0] * 5 + [2] * 3, [1] * 4 + [3] * 2 + [4] * 2]


def test_an_error_survives_pickling() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(DataError("data.train", "9", "at most 8")))
    assert (error.field, error.given, error.allowed) == ("data.train", "9", "at most 8")
    assert str(error) == "data.train: given 9; allowed: at most 8"
