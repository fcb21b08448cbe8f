"""From columns to text: what is written, named and refused."""

import re
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.trainables.data.records import (
    files,
    hub,
    write_lines,
)
from trainables.data.documents import (
    Document,
    SplitSizes,
)
from trainables.data.templates import Templates
from trainables.errors import DataError


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
    "-0": "-0",
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


@pytest.mark.parametrize("source", ["files", "hub"])
def test_a_column_of_days_is_one_of_dates_and_one_of_times_keeps_midnight(tmp_path: Path, source: str) -> None:
    days = [datetime(2024, 5, 1), None, *[datetime(2024, 5, 2)] * 300]
    table = pyarrow.table({"day": days, "time": [*days[:-1], datetime(2024, 5, 2, 12, 30)]})
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / "train.parquet"
    pyarrow.parquet.write_table(table, path)
    sizes = SplitSizes(2, 0, 0)
    made = files(path, sizes=sizes) if source == "files" else hub(path.parent, sizes)
    splits = replace(made, reader=Templates("{day?} {time?}")).splits(seed=0)
    expected = {"2024-05-01 2024-05-01 00:00:00", "2024-05-02 2024-05-02 00:00:00", "2024-05-02 2024-05-02 12:30:00"}
    assert {document.text for document in splits.train} < expected


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


def test_the_nearest_column_is_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"questions": "a", "answer": "b"}])
    with pytest.raises(DataError) as caught:
        files(path).splits(seed=0)
    assert caught.value.nearest == "questions"


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


@pytest.mark.parametrize(("kind", "key"), [(pyarrow.int64(), 3), (pyarrow.string(), "3"), (pyarrow.float32(), 0.1)])
def test_maps_have_keys_of_any_type(tmp_path: Path, kind: pyarrow.DataType, key: Any) -> None:
    column = pyarrow.array([[(key, "x")]], pyarrow.map_(kind, pyarrow.string()))
    pyarrow.parquet.write_table(pyarrow.table({"a": column}), tmp_path / "a.parquet")
    assert document(tmp_path / "a.parquet", f"{{a[{key}]}} {{a[4]?}}").text == "x "
