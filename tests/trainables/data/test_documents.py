"""Splits: by content alone, with counts, shares and sources of their own."""

import hashlib
import random
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.trainables.data.records import (
    files,
    hub,
    questions,
    texts,
    write_csv,
    write_lines,
    write_parquet,
)
from trainables.data.documents import (
    Document,
    Splits,
    SplitSizes,
    alike,
    content_hash,
    general_documents,
    read_splits,
    split,
)
from trainables.errors import DataError


def test_splits_do_not_depend_on_the_order_of_files_or_records(tmp_path: Path) -> None:
    records = questions(30)
    ordered = files(write_lines(tmp_path / "a.jsonl", records)).splits(seed=0)
    random.Random(0).shuffle(records)
    write_csv(tmp_path / "x1.csv", records[:20])
    write_parquet(tmp_path / "x2.parquet", records[15:])
    for others in (files(tmp_path / "x*"), files(tmp_path / "x2.parquet", tmp_path / "x1.csv")):
        splits = others.splits(seed=0)
        assert replace(splits, notes=()) == ordered
        assert splits.notes == ("5 of 35 documents in 2 files are left out, as they repeat others",)


def test_what_stands_twice_is_used_once(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.jsonl", questions(23) * 3)
    splits = files(path).splits(seed=0)
    assert sum(map(len, texts(splits))) == 23
    assert len(set.union(*texts(splits))) == 23
    with pytest.raises(DataError, match=r"at most 23 together, the distinct documents in data.jsonl"):
        files(path, sizes=SplitSizes(12, 6, 6)).splits(seed=0)


CHANGES: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "line ends": lambda text: text.replace("\n", "\r\n"),
    "Unicode form": lambda text: unicodedata.normalize("NFD", text),
    "a space at the end of each line": lambda text: text.replace("\n", " \n") + " ",
    "other spaces": lambda text: text.replace(" ", "\u00a0 "),
    "an empty line at the end": lambda text: text + "\n\n",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("prompted", [False, True])
def test_what_differs_in_its_form_alone_is_one_document(tmp_path: Path, change: str, prompted: bool) -> None:
    records = [{"q": f"Où est le numéro {n} ?\nDis-le.", "a": f"Il est là :\n{n}"} for n in range(30)]
    twins = [{key: CHANGES[change](text) for key, text in record.items()} for record in records]
    # Another answer to a question that is written in another way.
    others = [{"q": CHANGES[change](record["q"]), "a": "Nulle part."} for record in records] if prompted else []
    path = write_lines(tmp_path / "a.jsonl", [*records, *twins, *others])
    how = {"template": "{a}", "prompt": "{q}\n"} if prompted else {"template": "{q}\n{a}"}
    sizes = SplitSizes(12, 9, 9)
    splits = files(path, sizes=sizes, **how).splits(seed=0)

    def parts(splits: Splits, of: Callable[[Document], str]) -> list[set[str]]:
        return [{alike(of(d)) for d in part} for part in (splits.train, splits.validation, splits.test)]

    for own in (parts(splits, lambda d: d.prompt + d.text), parts(splits, lambda d: d.prompt or d.text)):
        assert len(set.union(*own)) == sum(map(len, own))
    assert len({d.group for d in splits.train}) == len(parts(splits, lambda d: d.prompt or d.text)[0])
    written = {d.prompt + d.text for d in splits.train}
    assert written <= {f"{r['q']}\n{r['a']}" for r in (*records, *twins, *others)}, "the text stays as it is"
    write_lines(tmp_path / "a.jsonl", [*others, *twins, *records])
    assert files(path, sizes=sizes, **how).splits(seed=0) == splits
    general = files(write_lines(tmp_path / "b.jsonl", twins), sizes=SplitSizes(1, 0, 0), **how)
    with pytest.raises(DataError):
        general_documents(general, 0, files(path, sizes=SplitSizes(len(records + others), 0, 0), **how).splits(seed=0))


def test_groups_of_documents_in_one_form_are_as_they_were() -> None:
    documents = [Document(f"text {n}\n", content_hash(f"prompt {n // 2}\n"), f"prompt {n // 2}\n") for n in range(40)]
    drawn = {d.group: hashlib.sha256(f"7\0{d.group}".encode()).digest() for d in documents}
    ordered = sorted(documents, key=lambda d: (drawn[d.group], content_hash(d.prompt + d.text)))
    assert split(documents, SplitSizes(20, 10, 10), 7, "here").train == tuple(ordered[:20])


def test_documents_with_the_same_prompt_stand_in_one_split() -> None:
    documents = [Document(str(n), "same", "?") for n in range(5)] + [Document(str(n), str(n)) for n in range(5)]
    splits = split(documents, SplitSizes(4, 2, 1), 0, "here")
    assert sum("same" in {d.group for d in part} for part in (splits.train, splits.validation, splits.test)) <= 1
    with pytest.raises(DataError, match=r"data.test: given 2; allowed: at most 0, as documents with the same prompt"):
        split([Document(str(n), "same", "?") for n in range(6)], SplitSizes(2, 0, 2), 0, "here")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((0.8, 0.1, 0.1), (80, 10, 10)),
        (("all", 0.15, 0.15), (70, 15, 15)),
        (("all", 7, 0.29), (64, 7, 29)),
        ((0.5, 20, 20), (50, 20, 20)),
        ((60, 0.2, 20), (60, 20, 20)),
        (("all", 20, 20), (60, 20, 20)),
    ],
)
def test_splits_may_be_counts_shares_and_what_is_left(sizes: tuple[Any, Any, Any], expected: tuple[int, ...]) -> None:
    documents = [Document(f"text {n}", f"text {n}") for n in range(100)]
    splits = split(documents, SplitSizes(*sizes), 0, "here")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == expected
    assert len(set.union(*texts(splits))) == sum(expected)


@pytest.mark.parametrize("size", [3, 7, 20])
def test_shares_cut_no_group(size: int) -> None:
    documents = [Document(f"text {n}", f"prompt {n // size}", f"prompt {n // size}\n") for n in range(200)]
    splits = split(documents, SplitSizes("all", 0.1, 0.2), 0, "here")
    parts = (splits.train, splits.validation, splits.test)
    assert sum(map(len, parts)) == 200
    groups = [{d.group for d in part} for part in parts]
    assert len(set.union(*groups)) == sum(map(len, groups))
    assert 20 <= len(splits.validation) < 20 + size
    assert 40 <= len(splits.test) < 40 + size


def test_held_out_shares_stay_as_they_are_when_there_is_more_to_train_on() -> None:
    documents = [Document(f"text {n}", f"text {n}") for n in range(100)]
    half, most = (split(documents, SplitSizes(share, 0.1, 0.2), 0, "here") for share in (0.4, 0.7))
    assert (half.validation, half.test) == (most.validation, most.test)
    assert set(half.train) < set(most.train)


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        (
            (5, 0.05, 5),
            "data.validation: given 0.05, which is less than one of 10 documents here; allowed: at least ",
        ),
        (("all", 5, 5), "data.train: data.validation and data.test take 10 of 10 documents here; lower one of them"),
        (("all", 50, 0.5), "data.train: data.validation and data.test take 55 of 10 documents here; lower one of them"),
        ((0.8, 2, 1), "data.train: given splits of 8 + 2 + 1 documents; allowed: at most 10 together, the distinct"),
    ],
)
def test_splits_that_the_documents_are_too_few_for_are_told(sizes: tuple[Any, Any, Any], told: str) -> None:
    with pytest.raises(DataError) as caught:
        split([Document(f"text {n}", f"text {n}") for n in range(10)], SplitSizes(*sizes), 0, "here")
    assert str(caught.value).startswith(told)


def test_a_share_of_one_group_leaves_nothing_for_the_next_split() -> None:
    with pytest.raises(DataError, match=r"data.test: given 0.1; allowed: at most 0, as documents with the same prompt"):
        split([Document(str(n), "same", "?") for n in range(10)], SplitSizes("all", 0.1, 0.1), 0, "here")


OWN_CHANGES: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "line ends": lambda text: text.replace("\n", "\r\n"),
    "Unicode form": lambda text: unicodedata.normalize("NFD", text),
}


def own_records(*numbers: int) -> list[dict[str, str]]:
    return [{"q": f"Où est le numéro {n} ?\n", "a": f"Là :\n{n}"} for n in numbers]


@pytest.mark.parametrize("change", OWN_CHANGES)
def test_what_stands_in_two_sources_stays_in_the_held_out_one(tmp_path: Path, change: str) -> None:
    twins = [{key: OWN_CHANGES[change](text) for key, text in record.items()} for record in own_records(*range(20, 30))]
    # Another answer to a prompt of the test split.
    other = [{"q": twins[0]["q"], "a": "Nulle part."}]
    train = write_lines(tmp_path / "train.jsonl", own_records(*range(25)) + other)
    validation = write_lines(tmp_path / "validation.jsonl", own_records(*range(18, 21)))
    test = write_lines(tmp_path / "test.jsonl", twins)
    how = {"template": "{a}", "prompt": "{q}"}
    splits = read_splits(
        files(train, sizes=SplitSizes("all", 0, 0), **how),
        {
            "validation": (files(validation, sizes=SplitSizes("all", 0, 0), **how), "path"),
            "test": (files(test, sizes=SplitSizes("all", 0, 0), **how), "path"),
        },
        seed=0,
    )
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (18, 2, 10)
    for of in (lambda d: d.prompt, lambda d: d.prompt + d.text):
        parts = [{alike(of(d)) for d in part} for part in (splits.train, splits.validation, splits.test)]
        assert len(set.union(*parts)) == sum(map(len, parts))
    assert {d.text for d in splits.test} == {twin["a"] for twin in twins}
    assert [note.partition("; ")[0] for note in splits.notes] == [
        "1 document in validation.jsonl is left out, as its text or prompt is in data.test",
        "6 documents in train.jsonl are left out, as their text or prompt is in data.test",
        "2 documents in train.jsonl are left out, as their text or prompt is in data.validation",
    ]
    assert splits.notes[0].endswith("the first: 'Où est le numéro 20 ?\\nLà :\\n20'")
    assert all(note.isprintable() for note in splits.notes)


def test_a_split_of_its_own_may_be_limited(tmp_path: Path) -> None:
    train = files(write_lines(tmp_path / "train.jsonl", questions(40)), sizes=SplitSizes("all", 0.25, 0))
    others = write_lines(tmp_path / "test.jsonl", [{"question": f"{n}?", "answer": str(n)} for n in range(50)])
    test = files(others, sizes=SplitSizes(20, 0, 0))
    splits = read_splits(train, {"test": (test, "path")}, seed=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (30, 10, 20)
    assert splits.notes == ()
    assert read_splits(train, {"test": (test, "path")}, seed=0) == splits
    assert read_splits(train, {"test": (test, "path")}, seed=1).test != splits.test


@pytest.mark.parametrize(
    ("own", "sizes", "told"),
    [
        (40, ("all", 0, 0), "data.path: all documents in train.jsonl are in data.test too; name others"),
        (30, (20, 5, 0), "data.train: given splits of 20 + 5 documents; allowed: at most 10 together, the distinct "
         "documents in train.jsonl that are in no other split"),
        (0, ("all", 5, 0), "data.test.path: there are no documents in test.jsonl; give at least one"),
        (-1, ("all", 5, 0), "data.test.path: given test.jsonl; allowed: a readable UTF-8 file (No such file "),
    ],
)  # fmt: skip
def test_sources_that_leave_too_little_are_told(
    tmp_path: Path, own: int, sizes: tuple[Any, Any, Any], told: str
) -> None:
    train = files(write_lines(tmp_path / "train.jsonl", questions(40)), sizes=SplitSizes(*sizes))
    if own >= 0:
        write_lines(tmp_path / "test.jsonl", questions(own))
    test = files(tmp_path / "test.jsonl", sizes=SplitSizes("all", 0, 0))
    with pytest.raises(DataError) as caught:
        read_splits(train, {"test": (test, "path")}, seed=0)
    assert str(caught.value).startswith(told)


def test_too_few_documents_of_a_split_of_its_own_are_told(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "train.jsonl", questions(40))
    test = files(write_lines(tmp_path / "test.jsonl", questions(9)), sizes=SplitSizes(10, 0, 0))
    with pytest.raises(DataError, match=r"data.test.documents: given 10; allowed: at most 9, the distinct documents"):
        read_splits(files(path), {"test": (test, "path")}, seed=0)


def test_a_split_of_the_same_data_set_may_be_held_out(tmp_path: Path) -> None:
    write_lines(tmp_path / "set" / "train.jsonl", questions(40))
    write_lines(tmp_path / "set" / "test.jsonl", questions(50)[35:])
    source = hub(tmp_path / "set", SplitSizes("all", 5, 0))
    splits = read_splits(source, {"test": (hub(tmp_path / "set", SplitSizes("all", 0, 0), split="test"), "split")}, 0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (30, 5, 15)
    assert splits.notes[0].startswith("5 documents in the split 'train' of ")
    wrong = hub(tmp_path / "set", SplitSizes("all", 0, 0), split="tests")
    with pytest.raises(DataError, match=r"data.test.split: given tests; allowed: train, test; did you mean 'test'"):
        read_splits(source, {"test": (wrong, "split")}, 0)
