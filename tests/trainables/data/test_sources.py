"""Sources and splits. One conformance suite for all sources: a new one joins the fixture `source`."""

import bz2
import csv
import gzip
import hashlib
import json
import os
import pickle
import random
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow
import pyarrow.parquet
import pytest

from trainables.data.builtin import Builtin
from trainables.data.documents import (
    Document,
    Source,
    Splits,
    SplitSizes,
    alike,
    content_hash,
    general_documents,
    read_splits,
    split,
)
from trainables.data.files import Files
from trainables.data.hub import Hub
from trainables.data.reasoning_gym import ReasoningGym
from trainables.data.templates import Templates
from trainables.errors import DataError

SIZES = SplitSizes(12, 6, 5)
needs_reasoning_gym = pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="needs reasoning-gym")


def write_lines(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def write_json(path: Path, records: list[Any]) -> Path:
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def write_csv(path: Path, records: list[Any]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return path


def write_parquet(path: Path, records: list[Any]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return path


WRITERS = {"jsonl": write_lines, "json": write_json, "csv": write_csv, "parquet": write_parquet}


def questions(count: int) -> list[dict[str, str]]:
    return [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(count)]


def files(
    *paths: Path | str,
    sizes: SplitSizes = SIZES,
    template: str = "{question}\n{answer}",
    prompt: str | None = None,
    answer: str | None = None,
    sample_by: str = "line",
) -> Files:
    return Files(tuple(map(str, paths)), Templates(template, prompt, answer), sizes, sample_by)


def hub(folder: Path, sizes: SplitSizes = SIZES, template: str = "{answer}", **changes: Any) -> Hub:
    templates = Templates(template, "{question}\n", "{answer}")
    return replace(Hub(str(folder), None, "train", None, None, templates, sizes), **changes)


def texts(splits: Splits) -> list[set[str]]:
    return [{d.prompt + d.text for d in part} for part in (splits.train, splits.validation, splits.test)]


@pytest.fixture(
    params=["word_problems", "letter_counting", "gsm_symbolic", "chain_sum", *WRITERS, "txt", "prompts", "hub"]
)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[SplitSizes], Source]:
    kind = request.param
    if kind in ("word_problems", "letter_counting"):
        return lambda sizes: Builtin(kind, sizes)
    if kind in ("gsm_symbolic", "chain_sum"):
        pytest.importorskip("reasoning_gym")
        return lambda sizes: ReasoningGym(kind, sizes)
    if kind == "hub":
        write_lines(tmp_path / "set" / "train.jsonl", questions(40))
        return lambda sizes: hub(tmp_path / "set", sizes)
    if kind == "txt":
        path = tmp_path / "data.txt"
        path.write_text("\n".join(f"This is line {n}." for n in range(40)))
        return lambda sizes: files(path, sizes=sizes, template="{text}")
    if kind == "prompts":
        # Each prompt three times, with other answers.
        path = write_lines(tmp_path / "data.jsonl", [{"q": f"{n // 3}?", "a": str(n)} for n in range(60)])
        return lambda sizes: files(path, sizes=sizes, template="{a}", prompt="{q}\n")
    path = WRITERS[kind](tmp_path / f"data.{kind}", questions(40))
    return lambda sizes: files(path, sizes=sizes)


class TestSource:
    def test_splits_have_their_sizes(self, source: Callable[[SplitSizes], Source]) -> None:
        splits = source(SIZES).splits(seed=0)
        assert (len(splits.train), len(splits.validation), len(splits.test)) == (12, 6, 5)
        assert all(d.text.strip() for part in (splits.train, splits.validation, splits.test) for d in part)

    def test_splits_share_no_text_and_no_group(self, source: Callable[[SplitSizes], Source]) -> None:
        splits = source(SIZES).splits(seed=0)
        parts = (splits.train, splits.validation, splits.test)
        assert len(set.union(*texts(splits))) == 12 + 6 + 5
        groups = [{d.group for d in part} for part in parts]
        assert len(set.union(*groups)) == sum(map(len, groups))

    def test_a_seed_fixes_the_splits(self, source: Callable[[SplitSizes], Source]) -> None:
        first = source(SIZES).splits(seed=3)
        assert source(SIZES).splits(seed=3) == first
        assert texts(source(SIZES).splits(seed=4)) != texts(first)

    def test_general_documents_stand_apart(self, source: Callable[[SplitSizes], Source]) -> None:
        splits = source(SplitSizes(6, 3, 3)).splits(seed=0)
        general = general_documents(source(SplitSizes(8, 0, 0)), 0, splits)
        assert len(general) == 8
        used = set.union(*texts(splits))
        assert not used & {d.prompt + d.text for d in general}
        groups = {d.group for part in (splits.train, splits.validation, splits.test) for d in part}
        assert not groups & {d.group for d in general}

    def test_too_many_documents_are_an_error_that_names_the_split(self, source: Callable[[SplitSizes], Source]) -> None:
        with pytest.raises(DataError, match="at most") as caught:
            source(SplitSizes(10**9, 5, 5)).splits(seed=0)
        assert caught.value.field == "data.train"
        splits = source(SIZES).splits(seed=0)
        with pytest.raises(DataError, match="at most") as caught:
            general_documents(source(SplitSizes(10**9, 0, 0)), 0, splits)
        assert caught.value.field == "general.documents"


@needs_reasoning_gym
def test_gsm_symbolic_tells_the_problem_and_its_worked_solution() -> None:
    for document in ReasoningGym("gsm_symbolic", SIZES).splits(seed=1).train:
        assert "final answer" not in document.prompt
        assert document.prompt.endswith("\n")
        assert document.answer is not None
        assert document.text.endswith(f"#### {document.answer}")


@needs_reasoning_gym
def test_gsm_symbolic_draws_from_many_templates() -> None:
    splits = ReasoningGym("gsm_symbolic", SIZES).splits(seed=1)
    assert len({d.group for d in splits.train}) == 12


@needs_reasoning_gym
def test_a_task_that_prints_while_it_makes_its_problems_is_not_heard(capsys: pytest.CaptureFixture[str]) -> None:
    ReasoningGym("bf", SIZES).splits(seed=1)
    assert capsys.readouterr() == ("", "")


@needs_reasoning_gym
def test_other_tasks_ask_and_answer() -> None:
    document = ReasoningGym("chain_sum", SIZES).splits(seed=1).train[0]
    assert document.prompt.strip()
    assert document.text == document.answer
    assert document.text.lstrip("-").isdecimal()


@needs_reasoning_gym
@pytest.mark.parametrize(
    ("task", "allowed", "nearest"),
    [
        ("chain_sums", "a task of reasoning-gym", "chain_sum"),
        ("composite", "a task that needs no configuration (Must specify", None),
        ("rubiks_cube", "a task whose problems have one answer", None),
    ],
)
def test_wrong_tasks_are_told(task: str, allowed: str, nearest: str | None) -> None:
    with pytest.raises(DataError) as caught:
        ReasoningGym(task, SIZES).splits(seed=0)
    assert (caught.value.field, caught.value.given, caught.value.nearest) == ("data.task", task, nearest)
    assert caught.value.allowed.startswith(allowed)


def test_a_package_that_is_not_installed_is_told() -> None:
    with mock.patch.dict("sys.modules", {"reasoning_gym.factory": None}), pytest.raises(DataError) as caught:
        ReasoningGym("chain_sum", SIZES).splits(seed=0)
    assert str(caught.value).startswith("data.source: the package reasoning-gym is not installed; install it")


@needs_reasoning_gym
def test_templates_with_too_few_problems_are_an_error_that_names_the_split() -> None:
    class Repeating(list[dict[str, Any]]):
        """Three templates, each with two distinct problems."""

        task_indices = (0, 1, 2) * 20

    items = [{"question": f"{i % 6}?", "answer": "1", "metadata": {"answer_cot": "1"}} for i in range(60)]
    with (
        mock.patch("reasoning_gym.create_dataset", return_value=Repeating(items)),
        pytest.raises(DataError, match="at most 2 distinct problems") as caught,
    ):
        ReasoningGym("gsm_symbolic", SplitSizes(3, 3, 3)).splits(seed=0)
    assert caught.value.field in ("data.train", "data.validation", "data.test")


def test_splits_do_not_depend_on_the_order_of_files_or_records(tmp_path: Path) -> None:
    records = questions(30)
    ordered = files(write_lines(tmp_path / "a.jsonl", records)).splits(seed=0)
    random.Random(0).shuffle(records)
    write_csv(tmp_path / "x1.csv", records[:20])
    write_parquet(tmp_path / "x2.parquet", records[15:])
    assert files(tmp_path / "x*").splits(seed=0) == ordered
    assert files(tmp_path / "x2.parquet", tmp_path / "x1.csv").splits(seed=0) == ordered


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


def test_json_lines_read_what_json_allows(tmp_path: Path) -> None:
    # A line separator may stand in a JSON string as it is; empty lines and Windows line ends are common.
    records = [{"question": f"{n}\u2028\u0085{{}}", "answer": "é"} for n in range(3)]
    path = tmp_path / "data.jsonl"
    lines = "\r\n\r\n".join(json.dumps(r, ensure_ascii=False) for r in records)
    path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    splits = files(path, sizes=SplitSizes(1, 1, 1)).splits(seed=0)
    assert set.union(*texts(splits)) == {f"{n}\u2028\u0085{{}}\né" for n in range(3)}


def test_a_csv_value_may_be_long(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [{"text": "long " * 50_000}])
    document = files(path, sizes=SplitSizes(1, 0, 0), template="{text}").splits(seed=0).train[0]
    assert document.text == "long " * 50_000


def test_columns_may_lie_within_columns(tmp_path: Path) -> None:
    records = [{"messages": [{"content": f"{n}?"}, {"content": f"{n}!"}], "n": n} for n in range(3)]
    source = files(
        write_lines(tmp_path / "data.jsonl", records),
        sizes=SplitSizes(1, 1, 1),
        prompt="{messages[0][content]} ",
        template="{messages[1][content]}",
        answer="{n}",
    )
    documents = {(d.prompt, d.text, d.answer) for d in source.splits(seed=0).train}
    assert documents <= {(f"{n}? ", f"{n}!", str(n)) for n in range(3)}


@pytest.mark.parametrize(("sample_by", "count"), [("line", 6), ("paragraph", 3), ("document", 1)])
def test_a_text_file_is_read_by_line_paragraph_or_whole(tmp_path: Path, sample_by: str, count: int) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a\nb\n\nc\nd\n\ne\nf\n")
    source = files(path, sizes=SplitSizes(count, 0, 0), template="{text}", sample_by=sample_by)
    assert len(source.splits(seed=0).train) == count
    with pytest.raises(DataError, match=f"given {count + 1}; allowed: at most {count}, the distinct"):
        replace(source, sizes=SplitSizes(count + 1, 0, 0)).splits(seed=0)


def document(path: Path, template: str, **how: Any) -> Document:
    return files(path, sizes=SplitSizes(1, 0, 0), template=template, **how).splits(seed=0).train[0]


# Values of a JSON line, and how they stand in a document; None: there is none.
VALUES = {
    "null": None,
    "NaN": None,
    "-Infinity": None,
    "5": "5",
    "5.0": "5.0",
    "1.50": "1.50",
    "1e3": "1e3",
    "true": "true",
    "false": "false",
    '"None"': "None",
    '"2024-05-01"': "2024-05-01",
    '[1, 2.50, "é", null, NaN, {"a": true}]': '[1, 2.50, "é", null, null, {"a": true}]',
    '{"a": {"b": []}}': '{"a": {"b": []}}',
}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("template", ["{a}", "{b[0][c]}", "{b[-1][c]}"])
def test_a_value_is_written_as_it_stands_in_the_file(tmp_path: Path, value: str, template: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"a": {value}, "b": [{{"c": {value}}}]}}\n')
    if (expected := VALUES[value]) is not None:
        assert document(path, f"<{template}>").text == f"<{expected}>"
        return
    column = template[1:-1]
    told = (
        f"data.template: given {template} with line 1 of a.jsonl; allowed: columns with a value (the column '{column}'"
    )
    with pytest.raises(DataError, match=re.escape(told)):
        document(path, template)
    assert document(path, f"<{{{column}?}}>").text == "<>"


ARROW = [
    (pyarrow.array([5.0]), "5"),
    (pyarrow.array([0.1], pyarrow.float32()), "0.1"),
    (pyarrow.array([1e300]), "1e+300"),
    (pyarrow.array([float("nan")]), None),
    (pyarrow.array([None], pyarrow.int64()), None),
    (pyarrow.array([True]), "true"),
    (pyarrow.array([19844], pyarrow.date32()), "2024-05-01"),
    (pyarrow.array([datetime(2024, 5, 1)]), "2024-05-01"),
    (pyarrow.array([datetime(2024, 5, 1, 12, 30)]), "2024-05-01 12:30:00"),
    (pyarrow.array([Decimal("5.00")]), "5.00"),
    (pyarrow.array(["é".encode()], pyarrow.binary()), "é"),
    (pyarrow.array([b"\xff\xd8"], pyarrow.binary()), None),
    (pyarrow.array([["a", None]]), '["a", null]'),
    (pyarrow.array([{"a": 1.0, "b": b"x", "c": date(2024, 5, 1)}]), '{"a": 1, "b": "x", "c": "2024-05-01"}'),
    (pyarrow.array([[("k", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int64())), '{"k": 1}'),
    (pyarrow.array(["a", "a"]).dictionary_encode()[:1], "a"),
    (pyarrow.array(["a\0b"]), None),
]


@pytest.mark.parametrize(("column", "expected"), ARROW)
@pytest.mark.parametrize("source", ["files", "hub"])
def test_a_value_of_a_table_is_written_or_refused(
    tmp_path: Path, source: str, column: pyarrow.Array, expected: str | None
) -> None:
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": column}), path)
    sizes = SplitSizes(1, 0, 0)
    templates = Templates("<{a}>")
    made = files(path, sizes=sizes, template="<{a}>") if source == "files" else hub(path.parent, sizes)
    if source == "hub":
        made = replace(made, reader=templates)
    if source == "hub" and pyarrow.types.is_map(column.type):
        # The library datasets does not read them.
        with pytest.raises(DataError, match=r"data.path: given .*/set; allowed: a data set that can be loaded"):
            made.splits(seed=0)
        return
    if expected is not None:
        assert made.splits(seed=0).train[0].text == f"<{expected}>"
        return
    with pytest.raises(DataError, match=r"data.template: given {a} with record 1 of .*the column 'a'"):
        made.splits(seed=0)


def test_a_column_that_some_records_lack_is_told_or_optional(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"q": "1", "input": "x"}, {"q": "2"}, {"q": "3", "input": None}])
    source = files(path, sizes=SplitSizes(3, 0, 0), template="{q}{input?}")
    assert {d.text for d in source.splits(seed=0).train} == {"1x", "2", "3"}
    told = r"given {input} with line 2 of a.jsonl; .*\(the column 'input' has none\), or {input\?}, which may have none"
    with pytest.raises(DataError, match=told):
        files(path, template="{q}{input}").splits(seed=0)
    with pytest.raises(DataError, match=r"given the column 'inputs'; .*did you mean 'input'"):
        files(path, template="{q}{inputs?}").splits(seed=0)
    # A file of several may lack it in all of its records.
    other = write_lines(tmp_path / "b.jsonl", [{"q": "4"}])
    both = files(other, path, sizes=SplitSizes(4, 0, 0), template="{q}{input?}")
    assert {d.text for d in both.splits(seed=0).train} == {"1x", "2", "3", "4"}


COLUMNS = {
    "model.answer": "{model.answer}",
    "2": "{2}",
    "a:b": "{a:b}",
    "": "{}",
    "x[y": "{x[y}",
    "x[0]": "{x[0]}",
    "a!r": "{a!r}",
    "User Prompt": "{User Prompt}",
    "sure?": "{sure?}",
    "a}{b": '{"a}{b"}',
    'a"b': '{a"b}',
    "a\\": "{a\\}",
}


@pytest.mark.parametrize("column", COLUMNS)
def test_any_column_can_be_named(tmp_path: Path, column: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{name: f"value of {name}" for name in COLUMNS}])
    assert document(path, f"<{COLUMNS[column]}>{{{{}}}}").text == f"<value of {column}>{{}}"


GOOD = '{"question": "a", "answer": "b"}\n'


@pytest.mark.parametrize(
    ("name", "content", "field", "given", "allowed"),
    [
        ("a.jsonl", None, "data.path", "a.jsonl", "No such file"),
        ("a*.jsonl", None, "data.path", "no file fits a*.jsonl; name files that exist", ""),
        ("a.jsonl", "", "data.path", "there are no documents in a.jsonl; give at least three", ""),
        ("a.jsonl", "\n  \n", "data.path", "there are no documents in a.jsonl; give at least three", ""),
        ("a.jsonl", GOOD + "\n" + "{oops\n", "data.path", "line 3 of ", "a JSON object with columns (Expecting"),
        ("a.jsonl", GOOD + "[1, 2]\n", "data.path", "line 2 of ", "a JSON object with columns"),
        ("a.jsonl", GOOD + "7\n", "data.path", "line 2 of ", "a JSON object with columns"),
        ("a.jsonl", GOOD + '"text"\n', "data.path", "line 2 of ", "a JSON object with columns"),
        ("a.jsonl", GOOD + "null\n", "data.path", "line 2 of ", "a JSON object with columns"),
        ("a.jsonl", GOOD + "[" * 100_000, "data.path", "line 2 of ", "a JSON object with columns"),
        ("a.jsonl", '{"problem": "a", "answer": "b"}', "data.template", "the column 'question'", "problem, answer"),
        ("a.jsonl", '{"question": null, "answer": "b"}', "data.template", "line 1 of", "with a value (the column"),
        ("a.jsonl", GOOD * 5, "data.train", "splits of 12 + 6 + 5 documents", "at most 1 together"),
        ("a.jsonl", b"\xff\xfe\x00", "data.path", "line 1 of a.jsonl, with the byte 0xff", "UTF-8"),
        ("a.csv", b"question\na\n\xe9\n", "data.path", "line 3 of a.csv, with the byte 0xe9", "UTF-8"),
        ("a.txt", b"\n\xc3", "data.path", "line 2 of a.txt, with the byte 0xc3", "UTF-8"),
        ("a.json", b'[{"a": "\xff"}]', "data.path", "line 1 of a.json, with the byte 0xff", "UTF-8"),
        ("a.jsonl", GOOD + '{"question": "\0"}', "data.path", "line 2 of a.jsonl", "(Invalid control character"),
        ("a.jsonl", GOOD + "\0" * 100, "data.path", "line 2 of a.jsonl", "a JSON object with columns ("),
        ("a.jsonl", GOOD + '{"question": %s}' % ("9" * 10**5), "data.path", "line 2 of a.jsonl", "(Exceeds the limit"),
        ("a.json", "[%s]" % ("9" * 10**5), "data.path", "a.json", "a JSON list of objects with columns (Exceeds the"),
        ("a.json", "[" * 100_000, "data.path", "a.json", "objects with columns (maximum recursion depth exceeded"),
        ("a.jsonl", '{"question": "\\ud800", "answer": "b"}', "data.template", "with line 1 of a", "is Unicode"),
        ("a.json", GOOD, "data.path", "a.json, which holds one dict", "a JSON list of objects"),
        ("a.json", "[{}", "data.path", "a.json", "a JSON list of objects with columns (Expecting"),
        ("a.json", f"[{GOOD}, 3]", "data.path", "record 2 of a.json", "a JSON object with columns"),
        ("a.csv", "question,answer\na,b\nc\n", "data.template", "line 3 of a.csv", "the column 'answer' has none"),
        ("a.csv", "question,answer\na,b,c\n", "data.path", "line 2 of a.csv", "as many columns as the first line: 2"),
        ("a.csv", 'question,answer\n"a"b,c\n', "data.path", "what follows line 1 of a.csv", "CSV ("),
        ("a.csv", "Question;Answer\na;b\n", "data.template", "the column 'question'", "of a.csv: Question;Answer"),
        ("a.parquet", "no", "data.path", "a.parquet", "a Parquet file ("),
        ("a.txt", "some text", "data.template", "the column 'question'", "the columns of a.txt: text"),
        ("a.bin", "some text", "data.path", "a.bin", "a file that ends in .jsonl, .json, .csv, .parquet, .txt"),
    ],
)  # fmt: skip
def test_files_say_what_is_wrong(
    tmp_path: Path, name: str, content: str | bytes | None, field: str, given: str, allowed: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        files(path).splits(seed=0)
    assert caught.value.field == field
    assert given in caught.value.given
    assert allowed in (caught.value.allowed or "")
    assert str(tmp_path) not in caught.value.given


TEXT = "".join(json.dumps(record) + "\n" for record in questions(30))
LIST = json.dumps(questions(30), indent=1)
TABLE = "question,answer\n" + "".join(f"What is {n} + 1?,{n + 1}\n" for n in range(30))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines_in.json", TEXT.encode()),
        ("pretty.jsonl", LIST.encode()),
        ("one_line.jsonl", json.dumps(questions(30)).encode()),
        ("a.tsv", TABLE.replace(",", "\t").encode()),
        ("excel.csv", TABLE.encode("utf-16")),
        ("excel.tsv", TABLE.replace(",", "\t").encode("utf-16")),
        ("a.jsonl", TEXT.encode("utf-16")),
        ("a.jsonl", TEXT.encode("utf-16-le")),
        ("a.csv", TABLE.encode("utf-16-be")),
        ("a.csv", TABLE.encode("utf-8-sig").replace(b"\n", b"\r\n")),
        ("a.csv.gz", gzip.compress(TABLE.encode(), mtime=0)),
        ("a.jsonl.bz2", bz2.compress(TEXT.encode())),
        ("a.jsonl.zst", pyarrow.compress(TEXT.encode(), "zstd", asbytes=True)),
        ("a.json.gz", gzip.compress(LIST.encode("utf-16"), mtime=0)),
        # A server has unpacked it, or packed it, and left the name.
        ("a.JSONL.GZ", TEXT.encode()),
        ("a.csv", gzip.compress(TABLE.encode(), mtime=0)),
    ],
)
def test_a_format_is_known_by_what_it_is(tmp_path: Path, name: str, content: bytes) -> None:
    expected = files(write_lines(tmp_path / "expected.jsonl", questions(30))).splits(seed=0)
    (tmp_path / name).write_bytes(content)
    assert files(tmp_path / name).splits(seed=0) == expected


def test_a_line_of_spaces_parts_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\r\n \r\nb\n\t\n\nc")
    splits = files(path, sizes=SplitSizes(3, 0, 0), template="{text}", sample_by="paragraph").splits(seed=0)
    assert {d.text for d in splits.train} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"q;answer\na, b;1\n", "allowed: as many columns as the first line: 1 (they are parted by"),
        ("a.csv", b"question;answer\na;b\n", "(they are parted by ';': save the table with commas, or as .tsv"),
        ("a.csv", b"question\tanswer\na\tb\n", "(they are parted by '\\t': save the table with commas, or as .tsv"),
        ("a.csv", b"question,answer,question\na,b,c\n", "the column 'question' stands twice in a.csv; rename one"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer, not the data; "),
        ("a.xlsx", b"PK", "a file that ends in .jsonl, .json, .csv, .parquet, .txt, .tsv, or one of these compressed"),
        ("a.csv", "日question,answer\na,b\n".encode("utf-16-le"), "line 1 of a.csv, with the byte 0xe5"),
        ("a.csv", b"q,question,answer\nz,a\0,b\n", "text without NUL characters (the column 'question' has one)"),
        ("a.jsonl.gz", gzip.compress(b"x" * 1000, mtime=0)[:-9], "given a.jsonl.gz; allowed: a readable UTF-8 file ("),
    ],
)  # fmt: skip
def test_what_is_not_read_says_what_to_do(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(told)):
        files(tmp_path / name).splits(seed=0)


def test_where_a_missing_file_was_looked_for_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"No such file or directory in {tmp_path})")):
        files(tmp_path / "a.jsonl").splits(seed=0)


def test_a_pipe_and_a_device_are_told_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    (tmp_path / "a.txt").symlink_to("/dev/zero")
    for name in ("a.jsonl", "a.txt"):
        with pytest.raises(DataError, match=f"data.path: given {name}; .* not a folder, a pipe or a device"):
            files(tmp_path / name).splits(seed=0)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", GOOD * 3 + '{"question": "' + "x" * 200, "line 4 of a.jsonl; allowed: at most 100 characters"),
        ("a.csv", "question,answer\na,b\n" + "x" * 200, "line 3 of a.csv; allowed: at most 100 characters"),
        ("a.csv", 'question,answer\na,b\n"' + "x\n" * 200, "what follows line 2 of a.csv; allowed: CSV (field larger"),
        ("a.txt", "x" * 200, "a.txt, of 200 bytes; allowed: at most 150 bytes"),
        ("a.json", "[" * 200, "a.json, of 200 bytes; allowed: at most 150 bytes"),
    ],
)
def test_what_is_too_large_is_not_read_whole(
    tmp_path: Path, name: str, content: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.data.files.LONGEST_LINE", 100)
    monkeypatch.setattr("trainables.data.files.LARGEST_WHOLE", 150)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=re.escape(told)):
        files(tmp_path / name, template="{question}").splits(seed=0)


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (pyarrow.array([2**62], pyarrow.timestamp("us")), "date value out of range"),
        (pyarrow.array([1], pyarrow.timestamp("us", tz="Nowhere/At_All")), "(Nowhere/At_All|zoneinfo)"),
        (pyarrow.array([2**62], pyarrow.duration("s")), "too large"),
        (pyarrow.Array.from_buffers(pyarrow.string(), 1, pyarrow.array([b"\xff"]).buffers()), "can't decode byte 0xff"),
    ],
)
def test_a_parquet_value_that_python_cannot_hold_is_told(tmp_path: Path, column: pyarrow.Array, told: str) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"a": column}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=f"data.path: given a.parquet; allowed: a Parquet file .*{told}"):
        files(tmp_path / "a.parquet", template="{a}").splits(seed=0)


def test_a_damaged_parquet_file_is_read_or_told(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", questions(30))
    whole, dice = path.read_bytes(), random.Random(0)
    told = 0
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[dice.randrange(len(whole))] ^= dice.randrange(1, 256)
        path.write_bytes(damaged[: dice.choice([None, dice.randrange(len(whole))])])
        try:
            files(path).splits(seed=0)
        except DataError:
            told += 1
    assert told > 50


def test_the_nearest_column_is_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"questions": "a", "answer": "b"}])
    with pytest.raises(DataError) as caught:
        files(path).splits(seed=0)
    assert caught.value.nearest == "questions"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "a.jsonl"
    folder.mkdir()
    with pytest.raises(DataError, match="readable UTF-8 file"):
        files(folder).splits(seed=0)


def test_the_split_of_a_data_set_is_chosen(tmp_path: Path) -> None:
    write_lines(tmp_path / "set" / "train.jsonl", questions(1))
    write_lines(tmp_path / "set" / "test.jsonl", questions(30))
    splits = hub(tmp_path / "set", split="test").splits(seed=0)
    assert all(d.answer == d.text for d in splits.train)
    with pytest.raises(DataError) as caught:
        hub(tmp_path / "set", split="tests").splits(seed=0)
    error = caught.value
    assert (error.field, error.given, error.allowed, error.nearest) == ("data.split", "tests", "train, test", "test")


def test_some_of_a_data_sets_files_are_read(tmp_path: Path) -> None:
    write_lines(tmp_path / "set" / "train-00000-of-2.jsonl", questions(30))
    write_lines(tmp_path / "set" / "train-00001-of-2.jsonl", [{"content": "other columns"}])
    splits = hub(tmp_path / "set", files="train-00000-*").splits(seed=0)
    assert len(splits.train) == SIZES.train


def test_a_turn_of_a_conversation_is_a_column_of_a_column(tmp_path: Path) -> None:
    turns = [[{"from": "human", "value": f"What is {n}?"}, {"from": "gpt", "value": f"It is {n}."}] for n in range(30)]
    folder = tmp_path / "set"
    folder.mkdir()
    table = pyarrow.Table.from_pylist([{"conversations": pair} for pair in turns])
    pyarrow.parquet.write_table(table, folder / "train.parquet")
    templates = Templates("{conversations[1][value]}", "{conversations[0][value]}\n")
    splits = hub(folder, reader=templates).splits(seed=0)
    assert {d.prompt + d.text for d in splits.train} <= {f"What is {n}?\nIt is {n}." for n in range(30)}


def test_columns_of_several_types_are_read_as_they_stand(tmp_path: Path) -> None:
    values: list[Any] = [1, "one", {"a": [1.5, None]}, [{"b": "x"}, "y"]]
    write_lines(tmp_path / "set" / "train.jsonl", [{"a": value, "b": [{"c": value}]} for value in values])
    for template in ("{a}", "{b[0][c]}"):
        source = hub(tmp_path / "set", SplitSizes(4, 0, 0), reader=Templates(template))
        expected = {"1", "one", '{"a": [1.5, null]}', '[{"b": "x"}, "y"]'}
        assert {d.text for d in source.splits(seed=0).train} == expected


def test_data_sets_say_what_is_wrong(tmp_path: Path) -> None:
    write_lines(tmp_path / "set" / "train.jsonl", questions(30))
    with pytest.raises(DataError, match=r"data.name: given main; .*Available: \['default'\]"):
        hub(tmp_path / "set", name="main").splits(seed=0)
    with pytest.raises(DataError, match=r"data.path: .*a data set that can be loaded"):
        hub(tmp_path / "nowhere").splits(seed=0)
    with pytest.raises(DataError, match=r"data.template: given the column 'text'; .*: question, answer"):
        hub(tmp_path / "set", template="{text}").splits(seed=0)
    (tmp_path / "set" / "train.jsonl").write_text('{"question": 1}\n{oops\n')
    with pytest.raises(DataError, match=r"data.path: .*a data set that can be loaded.*JSON parse error"):
        hub(tmp_path / "set").splits(seed=0)


@pytest.mark.parametrize("split", ["train", None])
def test_what_save_to_disk_has_written_is_read(tmp_path: Path, split: str | None) -> None:
    import datasets

    saved = datasets.Dataset.from_list(questions(30), split=split)
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": saved, "extra": saved}).save_to_disk(tmp_path / "two")
    expected = hub(tmp_path / "one").splits(seed=0)
    assert len(expected.train) == SIZES.train
    assert hub(tmp_path / "two", split="extra").splits(seed=0) == expected
    with pytest.raises(DataError, match=r"data.split: given tests; allowed: train, extra"):
        hub(tmp_path / "two", split="tests").splits(seed=0)


def test_folders_that_are_no_data_sets_are_told(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text("raise SystemExit")
    with pytest.raises(DataError, match=r"data.path: .*/set; allowed: a data set .*scripts are no longer supported"):
        hub(tmp_path / "set").splits(seed=0)
    (tmp_path / "set" / "train.csv").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(DataError, match=r"data.path: train.csv is a Git LFS pointer, not the data; run git lfs pull"):
        hub(tmp_path / "set").splits(seed=0)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"data.path: .*/saved; allowed: a data set that can be loaded from"):
        hub(tmp_path / "saved").splits(seed=0)


def test_a_data_set_of_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("datasets.get_dataset_split_names", mock.Mock(side_effect=ConnectionError("no route")))
    source = replace(hub(tmp_path), path="acme/questions")
    with pytest.raises(DataError, match=r"data.path: acme/questions is not .*reached: no route; .*local-dir"):
        source.splits(seed=0)


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(DataError("data.train", "9", "at most 8", "8")))
    assert (error.field, error.given, error.allowed, error.nearest) == ("data.train", "9", "at most 8", "8")
    assert str(error) == "data.train: given 9; allowed: at most 8; did you mean '8'?"
