"""Sources and splits. One conformance suite for all sources: a new one joins the fixture `source`."""

import bz2
import gzip
import json
import os
import pickle
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tests.trainables.data.records import (
    SIZES,
    WRITERS,
    files,
    hub,
    needs_reasoning_gym,
    questions,
    texts,
    write_csv,
    write_lines,
    write_parquet,
)
from trainables.data.builtin import Builtin
from trainables.data.documents import (
    Source,
    SplitSizes,
    general_documents,
)
from trainables.data.reasoning_gym import ReasoningGym
from trainables.data.templates import Templates
from trainables.errors import DataError


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


@pytest.mark.parametrize(("sample_by", "count"), [("line", 6), ("paragraph", 3), ("document", 1)])
def test_a_text_file_is_read_by_line_paragraph_or_whole(tmp_path: Path, sample_by: str, count: int) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a\nb\n\nc\nd\n\ne\nf\n")
    source = files(path, sizes=SplitSizes(count, 0, 0), template="{text}", sample_by=sample_by)
    assert len(source.splits(seed=0).train) == count
    with pytest.raises(DataError, match=f"given {count + 1}; allowed: at most {count}, the distinct"):
        replace(source, sizes=SplitSizes(count + 1, 0, 0)).splits(seed=0)


GOOD = '{"question": "a", "answer": "b"}\n'
TWICE = '{"question": "a", "answer": "b", "answer": "c"}'


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
        ("a.jsonl", b"\xff\xfe\x00", "data.path", "a.jsonl, which begins as UTF-16 and is cut or damaged", "UTF-8"),
        ("a.csv", "q\nx\n".encode("utf-16")[:-1], "data.path", "a.csv, which begins as UTF-16 and is cut", "UTF-8"),
        ("a.csv", b"question\na\n\xe9\n", "data.path", "line 3 of a.csv, with the byte 0xe9", "UTF-8"),
        ("a.txt", b"\n\xc3", "data.path", "line 2 of a.txt, with the byte 0xc3", "UTF-8"),
        ("a.json", b'[{"a": "\xff"}]', "data.path", "line 1 of a.json, with the byte 0xff", "UTF-8"),
        ("a.jsonl", GOOD + '{"question": "\0"}', "data.path", "line 2 of a.jsonl", "(Invalid control character"),
        ("a.jsonl", GOOD + "\0" * 100, "data.path", "line 2 of a.jsonl", "a JSON object with columns ("),
        ("a.jsonl", GOOD + '{"question": %s}' % ("9" * 10**5), "data.path", "line 2 of a.jsonl", "(Exceeds the limit"),
        ("a.json", "[%s]" % ("9" * 10**5), "data.path", "a.json", "a JSON list of objects with columns (Exceeds the"),
        ("a.json", "[" * 100_000, "data.path", "a.json", "objects with columns (maximum recursion depth exceeded"),
        ("a.jsonl", '{"question": "\\ud800", "answer": "b"}', "data.template", "with line 1 of a", "is Unicode"),
        ("a.json", f'{{"data": [{GOOD}]}}', "data.path", "records of a.json are in the list 'data' of one", ""),
        ("a.json", "3", "data.path", "a.json, which holds one value", "a JSON list of objects with columns"),
        ("a.json", "[{}", "data.path", "a.json", "a JSON list of objects with columns (Expecting"),
        ("a.json", f"[{GOOD}, 3]", "data.path", "record 2 of a.json", "a JSON object with columns"),
        ("a.csv", "question,answer\na,b\nc\n", "data.template", "line 3 of a.csv", "the column 'answer' has none"),
        ("a.csv", "question,answer\na,b,c\n", "data.path", "line 2 of a.csv", "as many columns as the first line: 2"),
        ("a.csv", 'question,answer\n"a"b,c\n', "data.path", "what follows line 1 of a.csv", "CSV ("),
        ("a.csv", "Question;Answer\na;b\n", "data.template", "the column 'question'", "of a.csv: Question;Answer"),
        ("a.parquet", "no", "data.path", "a.parquet holds no Parquet; give it the suffix of what it is", ""),
        ("a.parquet", "PAR1", "data.path", "a.parquet", "a Parquet file ("),
        ("a.json", " \n", "data.path", "there are no documents in a.json; give at least three", ""),
        ("a.json", '"question","answer"\n', "data.path", "a.json holds no JSON; give it the suffix of what it is", ""),
        ("a.jsonl", "\nquestion,answer\n", "data.path", "a.jsonl holds no JSON; give it the suffix of what it", ""),
        ("a.json", "question,answer\n", "data.path", "a.json holds no JSON; give it the suffix of what it is", ""),
        ("a.csv", "\n\nquestion,answer\na,b,c\n", "data.path", "line 4 of a.csv", "as the first line: 2"),
        ("a.csv", '\n\nquestion,answer\n"a"b,c\n', "data.path", "what follows line 3 of a.csv", "CSV ("),
        ("a.jsonl", GOOD + TWICE, "data.path", "line 2 of a.jsonl", '(the key "answer" stands twice in an object)'),
        ("a.json", f"[{GOOD}, {TWICE}]", "data.path", "record 2 of a.json", '(the key "answer" stands twice'),
        ("a.json", TWICE, "data.path", "record 1 of a.json", '(the key "answer" stands twice in an object)'),
        ("a.json", GOOD + TWICE, "data.path", "line 2 of a.json", '(the key "answer" stands twice in an object)'),
        ("a.json", f'{{"data": [{TWICE}]}}', "data.path", "record 1 of a.json", '(the key "answer" stands twice'),
        ("a.jsonl", GOOD + f'{{"x": [{TWICE}]}}', "data.path", "line 2 of a.jsonl", "stands twice in an object)"),
        ("a.jsonl", "{" + GOOD[1:].replace(" ", "\n") + '{\n"a" "b"\n}', "data.path", "record 2", "(Expecting ':'"),
        ("a.txt", "some text", "data.template", "the column 'question'", "the columns of a.txt: text"),
        ("a.bin", "some text", "data.path", "a.bin", "a file that ends in .jsonl, .ndjson, .json, .csv, .parquet"),
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
        ("a.jsonl", TEXT.encode("utf-32")),
        ("a.csv", TABLE.encode("utf-32-le")),
        ("a.csv", TABLE.encode("utf-32-be")),
        ("a.csv", f"\r\n \n{TABLE}".encode()),
        ("list.csv", LIST.encode()),
        ("list.csv", json.dumps(questions(30)).encode("utf-16")),
        ("lines.parquet", TEXT.encode()),
        ("list.parquet", LIST.encode()),
        ("pretty.jsonl", "".join(json.dumps(one, indent=2) + "\n" for one in questions(30)).encode()),
        ("pretty.json", "\n".join(json.dumps(one, indent=2) for one in questions(30)).encode()),
        ("skipped.csv.zst", b"\x51*M\x18\x02\0\0\0ab" + pyarrow.compress(TABLE.encode(), "zstd", asbytes=True)),
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
        ("a.csv", b'question;answer\n"q, 1";"a"\n', "(',' expected after '\"') (they are parted by ';': save"),
        ("a.csv", b'"question"|"answer"\n"q"|"a"\n', "(they are parted by '|': save the table with commas, or as .tsv"),
        ("a.csv", b'"question"\t"answer"\n"q"\t"a"\n', "(they are parted by '\\t': save the table with commas, or as"),
        ("a.tsv", b'question,answer\n"q, 1","a"\n', "(they are parted by ',': name it .csv)"),
        ("a.csv", b"PK\x03\x04\x14\0\x06\0[Content_Types].xml", "is a workbook (as of Excel); save its table as CSV"),
        ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a.csv is an Excel workbook; save its table as CSV"),
        ("a.parquet", b"ARROW1\0\0", "a.parquet is an Arrow (Feather) file; write it as Parquet"),
        ("a.parquet.gz", gzip.compress(b"PAR1 PAR1", mtime=0), "is a Parquet file that is compressed as a whole; "),
        ("a.csv.gz", gzip.compress(gzip.compress(b"q\na\n", mtime=0), mtime=0), "a.csv.gz is compressed twice; unpack"),
        ("a.csv", b"question;answer\na;b\n", "(they are parted by ';': save the table with commas, or as .tsv"),
        ("a.csv", b"question\tanswer\na\tb\n", "(they are parted by '\\t': save the table with commas, or as .tsv"),
        ("a.csv", b"question,answer,question\na,b,c\n", "the column 'question' stands twice in a.csv; rename one"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer, not the data; "),
        ("a.xlsx", b"PK", ".json, .csv, .parquet, .txt, .tsv, or one of these compressed"),
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
    with pytest.raises(DataError, match=f"column 'a' of record 1 of a.parquet; allowed: values that Python .*{told}"):
        files(tmp_path / "a.parquet", template="{a}").splits(seed=0)


@pytest.mark.parametrize("write", ["file", "saved"])
def test_the_column_and_the_record_of_such_a_value_are_told(tmp_path: Path, write: str) -> None:
    import datasets

    days = pyarrow.array([0] * 300 + [10**8], pyarrow.date32())
    table = pyarrow.table({"a": [f"{n}" for n in range(301)], "day": days})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    source: Source = files(tmp_path / "a.parquet", template="{a}")
    if write == "saved":
        datasets.Dataset(datasets.table.InMemoryTable(table)).save_to_disk(tmp_path / "a")
        source = hub(tmp_path / "a", reader=Templates("{a}"))
    with pytest.raises(DataError, match=r"given the column 'day' of record 301 of .*; allowed: values that Python"):
        source.splits(seed=0)


def test_columns_of_a_parquet_file_that_stand_twice_are_told(tmp_path: Path) -> None:
    table = pyarrow.table([pyarrow.array(["x"]), pyarrow.array(["y"])], names=["a", "a"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"data.path: the column 'a' stands twice in a.parquet; rename one"):
        files(tmp_path / "a.parquet", template="{a}").splits(seed=0)


@pytest.mark.parametrize("beside", [[], [{"url": "u"}], [{}]])
@pytest.mark.parametrize("names", [("question", "answer"), ("a", "b")])
def test_a_record_may_hold_lists_of_objects(tmp_path: Path, beside: list[Any], names: tuple[str, str]) -> None:
    (tmp_path / "a.json").write_text(json.dumps({names[0]: "q", names[1]: "x", "more": beside}))
    source = files(tmp_path / "a.json", sizes=SplitSizes(1, 0, 0), template=f"{{{names[0]}}} {{{names[1]}}}")
    assert [document.text for document in source.splits(seed=0).train] == ["q x"]


@pytest.mark.parametrize("beside", [{}, {"version": "1.1"}, {"version": 2, "license": None, "tags": []}])
def test_a_table_in_an_object_is_told(tmp_path: Path, beside: dict[str, Any]) -> None:
    (tmp_path / "a.json").write_text(json.dumps({**beside, "data": questions(30)}))
    with pytest.raises(DataError, match=r"the records of a.json are in the list 'data' of one object; write a fi"):
        files(tmp_path / "a.json").splits(seed=0)


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


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b"PK\x03\x04", "a.jsonl is a zip archive; unpack it"),
        ("a.csv", b"\xfd7zXZ\0", "a.csv is an xz file; unpack it"),
        ("a.jsonl", b"question,answer\na,b\n", "a.jsonl holds no JSON; give it the suffix of what it is"),
        ("a.tsv", b"question,answer\na,b\n", r"they are parted by ',': name it .csv"),
        ("a.csv", b",question,\n1,a,b\n", "the column '' stands twice in a.csv"),
        ("x" * 300 + ".jsonl", None, "allowed: a readable UTF-8 file"),
    ],
)
def test_files_with_a_wrong_name_say_what_to_do(name: str, content: bytes | None, told: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        files(tmp_path / name).splits(seed=0)


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.txt"])
def test_a_parquet_file_is_read_whatever_its_name(name: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / name, questions(30))
    assert len(files(tmp_path / name).splits(seed=0).train) == SIZES.train


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.ndjson", "a.json"])
def test_json_lines_are_read_whatever_their_name(name: str, tmp_path: Path) -> None:
    write_lines(tmp_path / name, questions(30))
    assert len(files(tmp_path / name).splits(seed=0).train) == SIZES.train


def test_numbers_of_16_and_32_bits_have_their_own_digits(tmp_path: Path) -> None:
    single, half = pyarrow.float32(), pyarrow.float16()
    within = pyarrow.struct([("x", single), ("m", pyarrow.map_(single, single))])
    columns = {"l": pyarrow.list_(single), "o": within, "h": half, "s": single}
    rows = [{"l": [0.1, None], "o": {"x": 0.1, "m": {0.7: 0.3}}, "h": np.float16(0.3), "s": 0.1}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, pyarrow.schema(columns)), tmp_path / "a.parquet")
    read = files(tmp_path / "a.parquet", sizes=SplitSizes("all", 0, 0), template="{l} {o} {h} {s}").splits(seed=0)
    assert [d.text for d in read.train] == ['[0.1, null] {"x": 0.1, "m": {"0.7": 0.3}} 0.3 0.1']


@pytest.mark.parametrize("invisible", ["\u200b", "\ufeff", "\u00ad", "\u2060", "\u200d", "\u200e"])
def test_texts_that_differ_in_characters_without_width_are_one(invisible: str, tmp_path: Path) -> None:
    twins = [{**q, "question": f"{q['question'][:3]}{invisible}{q['question'][3:]}"} for q in questions(30)]
    path = write_lines(tmp_path / "a.jsonl", [*questions(30), *twins])
    read = files(path, sizes=SplitSizes("all", 0.3, 0.3)).splits(seed=0)
    assert len(read.train) + len(read.validation) + len(read.test) == 30


@pytest.mark.parametrize(
    ("more", "note"),
    [
        ([], ()),
        (questions(1), ("1 of 31 documents in a.jsonl is left out, as it repeats another",)),
        (
            [*questions(3), {"question": "What is  0 + 1?", "answer": "1"}],
            ("4 of 34 documents in a.jsonl are left out,",),
        ),
    ],
)
def test_repeated_documents_are_told(more: list[dict[str, str]], note: tuple[str, ...], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [*questions(30), *more])
    notes = files(path).splits(seed=0).notes
    assert len(notes) == len(note)
    assert all(said.startswith(told) for said, told in zip(notes, note, strict=True))


def test_documents_without_a_text_are_told(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl", [*questions(30), *({"question": f"{n}?", "answer": " "} for n in range(9))]
    )
    read = files(path, template="{answer}", prompt="{question}").splits(seed=0)
    assert read.notes == ("9 of 39 documents in a.jsonl are left out, as they have no text to learn",)


def test_a_pointer_that_is_not_read_does_no_harm(tmp_path: Path) -> None:
    write_lines(tmp_path / "set" / "a.jsonl", questions(30))
    (tmp_path / "set" / "picture.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert len(hub(tmp_path / "set", files="a.jsonl").splits(seed=0).train) == SIZES.train


ROWS = [("2024-01-05", "1.50", "007"), ("2024-01-05T10:00:00Z", "NA", "True"), ("10:30", "1e3", "nan")]
AS_JSON = "".join(
    f'{{"question": "{date}", "answer": {number.replace("NA", "null")}, "id": "{word}"}}\n'
    for date, number, word in ROWS
)
AS_CSV = "".join(f"{','.join(row)}\n" for row in [("question", "answer", "id"), *ROWS])


@pytest.mark.parametrize(
    ("name", "text"),
    [("train.jsonl", AS_JSON), ("train.csv", AS_CSV), ("train.tsv", AS_CSV.replace(",", "\t"))],
    ids=["jsonl", "csv", "tsv"],
)
def test_a_data_sets_values_are_those_of_its_files(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / name).write_text(text)
    reader = Templates("{question} {answer?} {id}")
    read = hub(tmp_path / "set", SplitSizes("all", 0, 0), reader=reader).splits(seed=0)
    nothing = "" if name.endswith("jsonl") else "NA"
    expected = {"2024-01-05 1.50 007", f"2024-01-05T10:00:00Z {nothing} True", "10:30 1e3 nan"}
    assert {document.text for document in read.train} == expected


def test_a_data_sets_card_says_how_its_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").write_text(AS_CSV.replace(",", ";"))
    (tmp_path / "set" / "README.md").write_text('---\nconfigs:\n- config_name: default\n  sep: ";"\n---\n')
    read = hub(tmp_path / "set", SplitSizes("all", 0, 0), reader=Templates("{question} {id}")).splits(seed=0).train
    assert "2024-01-05 007" in {document.text for document in read}


def test_a_data_set_whose_records_have_a_file_each(tmp_path: Path) -> None:
    for number, record in enumerate(questions(30)):
        write_lines(tmp_path / "set" / "train" / f"{number}.json", [record])
    assert len(hub(tmp_path / "set").splits(seed=0).train) == SIZES.train
    assert files(tmp_path / "set" / "train" / "*.json").splits(seed=0).train


def test_without_a_hub_what_was_downloaded_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "datasets--acme--questions"
    write_lines(folder / "snapshots" / ("0" * 40) / "train.jsonl", questions(30))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    source = replace(hub(tmp_path), path="acme/questions")
    assert len(source.splits(seed=0).train) == SIZES.train


def test_some_of_a_data_sets_files_are_read(tmp_path: Path) -> None:
    write_lines(tmp_path / "set" / "train-00000-of-2.jsonl", questions(30))
    write_lines(tmp_path / "set" / "train-00001-of-2.jsonl", [{"content": "other columns"}])
    splits = hub(tmp_path / "set", files="train-00000-*").splits(seed=0)
    assert len(splits.train) == SIZES.train


def test_data_sets_say_what_is_wrong(tmp_path: Path) -> None:
    write_lines(tmp_path / "set" / "train.jsonl", questions(30))
    with pytest.raises(DataError, match=r"data.name: given main; .*Available: \['default'\]"):
        hub(tmp_path / "set", name="main").splits(seed=0)
    for lost in (str(tmp_path / "nowhere"), "./nowhere", "~/nowhere", "no/such/folder"):
        with pytest.raises(DataError, match=r"data.path: given .*; allowed: a folder that exists, or owner/name of a"):
            replace(hub(tmp_path), path=lost).splits(seed=0)
    with pytest.raises(DataError, match=r"data.source: hub reads no file, and .*/train.jsonl is one; write source: fi"):
        hub(tmp_path / "set" / "train.jsonl").splits(seed=0)
    with pytest.raises(DataError, match=r"data.template: given the column 'text'; .*: question, answer"):
        hub(tmp_path / "set", template="{text}").splits(seed=0)
    (tmp_path / "set" / "train.jsonl").write_text(GOOD + "{oops\n")
    with pytest.raises(DataError, match=r"data.path: given line 2 of train.jsonl; allowed: a JSON object with columns"):
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
    (tmp_path / "set" / "set.py").unlink()
    (tmp_path / "set" / "train.csv").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(DataError, match=r"data.path: train.csv is a Git LFS pointer, not the data; run git lfs pull"):
        hub(tmp_path / "set").splits(seed=0)
    write_lines(tmp_path / "pointers" / "state.json", [{}])
    (tmp_path / "pointers" / "data.arrow").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(DataError, match=r"data.path: data.arrow is a Git LFS pointer, not the data; run git lfs pull"):
        hub(tmp_path / "pointers").splits(seed=0)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"data.path: .*/saved; allowed: a data set that can be loaded from"):
        hub(tmp_path / "saved").splits(seed=0)


def test_a_data_set_of_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("datasets.load_dataset_builder", mock.Mock(side_effect=ConnectionError("no route")))
    source = replace(hub(tmp_path), path="acme/questions")
    with pytest.raises(DataError, match=r"data.path: acme/questions is not .*reached: no route; .*local-dir"):
        source.splits(seed=0)


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(DataError("data.train", "9", "at most 8", "8")))
    assert (error.field, error.given, error.allowed, error.nearest) == ("data.train", "9", "at most 8", "8")
    assert str(error) == "data.train: given 9; allowed: at most 8; did you mean '8'?"
