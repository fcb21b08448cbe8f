"""What is said about damaged data: one line that names the setting, or the right documents; never a traceback.

    python -m tests.faults.damaged_data [--files 300] [--seed 0] [--json FILE] [--quick]

Files of questions and answers in each format, and folders of a data set, are damaged, with a seed, in turn: values are
dropped, renamed, retyped, nested and moved; files are cut, have bytes changed, are given another name, another
encoding, another separator or compression, are packed away as Git LFS pointers or hold NUL characters. Each goes
through `python -m search.run FILE --dry-run` in this process, without the plan. Some three minutes on two cores.

Keys: tried, tracebacks, unplaced (refused in another way than in one line with a place in the YAML), misread (accepted
with text that no person has written: "None", "nan", "b'...'", NUL characters), accepted, kinds (tried, by damage).
"""

import argparse
import bz2
import gzip
import json
import os
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import chdir
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow
import pyarrow.parquet

from tests.faults.damaged_spaces import VALUE_KINDS, Answer, answer, damage_bytes, damage_value
from tests.scripts import parse, parser_of, write_results
from trainables.data.documents import Splits

FORMATS = ("jsonl", "json", "csv", "tsv", "parquet", "txt", "hub")
_NEVER = re.compile(r"\bNone\b|\bnan\b|\bNaN\b|\bTrue\b|\bFalse\b|b'|\0|git-lfs|datetime|Decimal\(")
_ARROW = [None, 5.0, float("nan"), b"bytes", b"\xff", date(2024, 5, 1), Decimal("5.00"), True, ["a", None], {"a": b"x"}]


def records() -> list[dict[str, Any]]:
    return [{"q": f"What is {n} + 1?", "m": [{"c": "sum"}, {"c": f"It is {n + 1}."}], "n": n} for n in range(24)]


def written(rows: list[Any], kind: str) -> bytes:
    """Records as a file of a format."""
    if kind in ("jsonl", "hub"):
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == "json":
        return json.dumps(rows, indent=1).encode()
    if kind == "parquet":
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
        return bytes(sink.getvalue())
    flat = [(str(row["q"]), str(row["m"][1]["c"]), str(row["n"])) for row in rows]
    separator = "\t" if kind == "tsv" else "," if kind == "csv" else " "
    lines = flat if kind == "txt" else [("q", "a", "n"), *flat]
    return "".join(separator.join(line) + "\n" for line in lines).encode()


def _values(rows: list[Any], kind: str, how: str, dice: random.Random) -> bytes:
    for _ in range(dice.choice([1, 1, 3])):
        damage_value(rows, how, dice)
    try:
        return written(rows, kind)
    # What a format cannot hold.
    except (TypeError, ValueError, LookupError, OverflowError, AttributeError, pyarrow.ArrowException):
        return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _typed(rows: list[Any], dice: random.Random) -> bytes:
    value = dice.choice(_ARROW)
    for row in rows:
        row["n"] = value
    return written(rows, "parquet")


_CONTENTS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": lambda content, dice: damage_bytes(content, "truncated", dice),
    "raw bytes": lambda content, dice: damage_bytes(content, "raw bytes", dice),
    "encoding": lambda content, dice: content.decode(errors="replace").encode(
        dice.choice(["utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp037", "utf-7", "utf-8-sig"]), "replace"
    ),
    "compressed": lambda content, dice: dice.choice([gzip.compress, bz2.compress])(content)[: dice.choice([None, -9])],
    "separator": lambda content, dice: content.replace(b",", dice.choice([b";", b"\t", b"|", b""])),
    "pointer": lambda content, dice: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "NUL": lambda content, dice: content.replace(b"t", b"\0"),
    "emptied": lambda content, dice: dice.choice([b"", b"\n", b"[]", b"{}", b"null"]),
}
KINDS = (*VALUE_KINDS, "typed", *_CONTENTS, "renamed file", "column")


def damaged(number: int, seed: int, folder: Path) -> str:
    """Writes the data of this number and its space, space.yaml, into `folder`; the damage. The same for a seed."""
    dice = random.Random(f"{seed}/{number}")
    kind, how = FORMATS[number % len(FORMATS)], KINDS[number // len(FORMATS) % len(KINDS)]
    rows, name = records(), "data." + ("jsonl" if kind == "hub" else kind)
    content = written(rows, kind)
    if how in VALUE_KINDS:
        content = _values(rows, kind, how, dice)
    elif how == "typed":
        content, name = _typed(rows, dice), "data.parquet"
    elif how in _CONTENTS:
        content = _CONTENTS[how](content, dice)
    elif how == "renamed file":
        name = f"data.{dice.choice([*FORMATS, 'jsonl.gz', 'csv.zst', 'bin', 'xlsx', 'py', 'JSON'])}"
    path = folder / "set" / name
    path.parent.mkdir()
    path.write_bytes(content)
    nested = "{m[1][c]}" if kind in ("jsonl", "json", "parquet", "hub") else "{a}"
    template = "{text}" if kind == "txt" else f"{nested} {{n}}"
    if how == "column":
        template = dice.choice(["{m}", "{m[9][c]}", "{n[a]}", "{x?}{q}", "{q.x}", "{}", "{m[1][d]}", "{m[1][d]?}{q}"])
    prompt = "" if kind == "txt" else ', prompt: "{q}"'
    source = "source: hub, path: ./set" if kind == "hub" else f"source: files, path: set/{name}"
    data = f"data: {{{source}, template: '{template}'{prompt}, train: 4, validation: 3, test: 6}}\n"
    (folder / "space.yaml").write_text(f"models: [builtin/nano]\n{data}")
    return how


def read(folder: Path) -> tuple[Answer, Splits | None]:
    """What is said of a space, and the documents that are read of it."""
    seen: list[Splits] = []

    def plan(space: Any, splits: Splits, *rest: Any) -> list[str]:
        seen.append(splits)
        return ["search planned"]

    with chdir(folder), mock.patch("search.plan.plan", plan):
        return answer("space.yaml"), seen[0] if seen else None


def measure(files: int, seed: int) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["HF_HUB_OFFLINE"] = "1"
    for number in range(files):
        with tempfile.TemporaryDirectory() as scratch, mock.patch("datasets.config.HF_DATASETS_CACHE", Path(scratch)):
            folder = Path(scratch).resolve()
            kind = damaged(number, seed, folder)
            said, splits = read(folder)
        kinds[kind] += 1
        counts["tracebacks"] += said.crashed
        texts = [d.prompt + d.text for d in (*splits.train, *splits.validation, *splits.test)] if splits else []
        # A table of texts and a text file hold these words as a person has written them.
        own = kind in VALUE_KINDS and FORMATS[number % len(FORMATS)] in ("csv", "tsv", "txt")
        odd = [] if own else [text for text in texts if _NEVER.search(text)]
        counts["misread"] += bool(odd)
        counts["accepted"] += said.valid
        unplaced = not said.valid and not said.crashed and not said.placed("space.yaml")
        counts["unplaced"] += unplaced
        if said.crashed or odd or unplaced:
            print(f"{number} ({FORMATS[number % len(FORMATS)]}, {kind}): {odd[:2]}\n{said.out}{said.err[-3000:]}")
    names = ("tracebacks", "unplaced", "misread", "accepted")
    return {"tried": files, **{name: counts[name] for name in names}, "kinds": dict(kinds)}


def options(docstring: str | None, quick: int) -> argparse.Namespace:
    parser = parser_of(docstring)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    return parse(parser, files=quick)


def conclude(given: argparse.Namespace, result: dict[str, Any]) -> int:
    print(json.dumps(result, indent=2))
    write_results(given, result)
    return int(any(result[name] for name in ("tracebacks", "unplaced", "misread")))


def main() -> int:
    given = options(__doc__, len(KINDS))
    return conclude(given, measure(given.files, given.seed))


if __name__ == "__main__":
    sys.exit(main())
