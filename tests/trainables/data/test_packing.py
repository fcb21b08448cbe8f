"""From documents to rows."""

import random
from typing import Any, cast

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from trainables.data.documents import Document
from trainables.data.packing import Packed, pack


class Characters:
    """One token for each character; 0 ends a document, written by the tokenizer if `closes`; 1 opens it if `opens`."""

    eos_token_id = 0
    all_special_ids = (0, 1)
    added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012

    def __init__(self, opens: bool = False, closes: bool = False) -> None:
        self.opening, self.closing = [1] if opens else [], [0] if closes else []

    def __call__(self, text: list[str], *, return_offsets_mapping: bool) -> dict[str, Any]:
        assert return_offsets_mapping
        return {
            "input_ids": [[*self.opening, *map(ord, t), *self.closing] for t in text],
            "offset_mapping": [
                [
                    *((0, 0) for _ in self.opening),
                    *((i, i + 1) for i in range(len(t))),
                    *((0, 0) for _ in self.closing),
                ]
                for t in text
            ],
        }


def tokenizer(opens: bool = False, closes: bool = False) -> PreTrainedTokenizerBase:
    return cast(PreTrainedTokenizerBase, Characters(opens, closes))


def packed(lengths: list[int], sequence_length: int, layout: str = "packed") -> tuple[list[list[int]], Packed]:
    """Documents with `lengths` characters and the end; (their tokens before the cut, packed)."""
    draw = random.Random(0)
    documents = [Document("".join(draw.choice("abcdef") for _ in range(n)), str(i)) for i, n in enumerate(lengths)]
    rows, cut = pack(documents, tokenizer(), sequence_length, layout=layout)
    assert cut == sum(n + 1 > sequence_length for n in lengths)
    return [[*map(ord, d.text), 0] for d in documents], rows


LENGTHS = [(7 * i * i + 3) % 17 for i in range(40)]


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("sequence_length", [5, 17, 64])
def test_every_token_is_packed_once_and_in_order(sequence_length: int, layout: str) -> None:
    tokens, rows = packed(LENGTHS, sequence_length, layout)
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


def test_packing_fills_the_fullest_row_with_room() -> None:
    draw = random.Random(0)
    for capacity in (1, 7, 40):
        lengths = [draw.randint(1, capacity) for _ in range(300)]
        rows: list[list[int]] = []
        for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            fits = [row for row in rows if sum(lengths[i] for i in row) + lengths[index] <= capacity]
            if not fits:
                fits = [[]]
                rows += fits
            max(fits, key=lambda row: sum(lengths[i] for i in row)).append(index)
        # A document has one token more than it has characters.
        _, packed_rows = packed([length - 1 for length in lengths], capacity)
        assert [list(dict.fromkeys(i for i in row if i >= 0)) for row in packed_rows.document_RT.tolist()] == rows


def test_padded_rows_hold_one_document_each() -> None:
    _, rows = packed(LENGTHS, 17, "padded")
    assert len(rows.token_RT) == len(LENGTHS)
    assert all(len(set(row.tolist()) - {-1}) == 1 for row in rows.document_RT)


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("opens", [False, True])
def test_prompts_may_be_left_out_of_the_loss(opens: bool, closes: bool) -> None:
    documents = [Document("answer", "0", prompt="question "), Document("text", "1")]
    start = int(opens)
    learned, _ = pack(documents, tokenizer(opens, closes), 40)
    rows, _ = pack(documents, tokenizer(opens, closes), 40, train_on_prompt=False)
    assert torch.equal(rows.token_RT, learned.token_RT)
    assert learned.trained_RT.sum() == learned.tokens == 16 + 5 + 2 * start
    for index, (prompt, text) in enumerate([("question ", "answer"), ("", "text")]):
        own_RT = rows.document_RT == index
        expected = [False] * (len(prompt) + start) + [True] * (len(text) + 1)
        if not prompt:
            # What opens a document that has no prompt is nobody's prompt.
            expected[:start] = [True] * start
        assert rows.trained_RT[own_RT].tolist() == expected
    # The first token of an answer is predicted from the last one of its prompt.
    assert sorted(chr(i) for i in rows.label_RT[rows.label_RT > 1].tolist()) == sorted("answer" + "text"[1 - start :])
    assert not (rows.droppable_RT & ~rows.trained_RT).any()


def test_what_opens_a_document_is_special() -> None:
    rows, _ = pack([Document("ab", "0")], tokenizer(opens=True), 6)
    assert rows.token_RT.tolist() == [[1, ord("a"), ord("b"), 0, 0, 0]]
    assert rows.special_RT.tolist() == [[True, False, False, True, False, False]]
    assert rows.droppable_RT.tolist() == [[False, True, True, False, False, False]]


def test_rows_are_the_same_after_storing() -> None:
    _, rows = packed(LENGTHS, 17)
    stored = rows.to_stored()
    assert all(tensor.dtype in (torch.int32, torch.bool) for tensor in stored.values())
    restored = Packed.from_stored(stored).tensors()
    assert all(torch.equal(tensor, restored[name]) for name, tensor in rows.tensors().items())
