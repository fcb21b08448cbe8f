"""Records written to files of all kinds, and the sources that read them."""

import csv
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from trainables.data.documents import (
    Splits,
    SplitSizes,
)
from trainables.data.files import Files
from trainables.data.hub import Hub
from trainables.data.templates import Templates

SIZES = SplitSizes(12, 6, 5)
needs_reasoning_gym = pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="needs reasoning-gym")


def write_lines(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
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
