"""Files of the user's own: JSON lines, JSON, CSV, Parquet, plain text."""

import csv
import glob
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pyarrow
import pyarrow.parquet

from trainables.data.documents import Splits, SplitSizes, split, unseen
from trainables.data.templates import Templates
from trainables.errors import DataError

Records = Iterator[tuple[str, dict[str, Any]]]

# Characters of a line, far above those of a document; a file without line ends would be read whole.
LONGEST_LINE = 2**26
# Bytes of a file that is read at once (.json, .txt).
LARGEST_WHOLE = 2**30
# Rows of a Parquet file that are in memory at once: a compressed file may be much smaller than its rows.
_ROWS = 256


@dataclass(frozen=True)
class Files:
    """Records in files.

    Attributes:
        paths: files (.jsonl, .json, .csv, .parquet, .txt), or patterns such as texts/*.txt.
        templates: of a document; a text file has the column "text".
        sample_by: what of a text file is a record: "line", "paragraph" or "document".
    """

    paths: tuple[str, ...]
    templates: Templates
    sizes: SplitSizes
    sample_by: str = "line"

    def splits(self, seed: int, apart: Splits | None = None) -> Splits:
        files = [file for pattern in self.paths for file in _matching(pattern)]
        where = f"in {files[0].name}" if len(files) == 1 else f"in {len(files)} files"
        documents = (d for file in files for d in self.templates.documents(self._records(file), file.name))
        return split(unseen(documents, apart), self.sizes, seed, where)

    def _records(self, file: Path) -> Records:
        read: dict[str, Callable[[Path], Records]] = {
            ".jsonl": _json_lines,
            ".json": _json,
            ".csv": _csv,
            ".parquet": _parquet,
            ".txt": lambda file: _text(file, self.sample_by),
        }
        if file.suffix.lower() not in read:
            raise DataError("data.path", file.name, f"a file that ends in {', '.join(read)}")
        try:
            # Opening a pipe would wait for its other end.
            if file.exists() and not file.is_file():
                raise DataError("data.path", file.name, "a readable UTF-8 file, not a folder, a pipe or a device")
            yield from read[file.suffix.lower()](file)
        except UnicodeDecodeError as error:
            given = f"{_undecodable(file)}, with the byte 0x{error.object[error.start]:02x}"
            raise DataError("data.path", given, "a readable UTF-8 file") from None
        except OSError as error:
            raise DataError("data.path", file.name, f"a readable UTF-8 file ({error.strerror})") from None


def _undecodable(file: Path) -> str:
    """The first line that is not UTF-8."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"line {number} of {file.name}"
    return file.name


def _matching(pattern: str) -> list[Path]:
    if Path(pattern).exists() or not glob.has_magic(pattern):
        return [Path(pattern)]
    files = sorted(Path(file) for file in glob.glob(pattern, recursive=True))
    if not files:
        raise DataError("data.path", f"no file fits {Path(pattern).name}; name files that exist")
    return files


def _object(record: Any, place: str, error: Exception | None = None) -> tuple[str, dict[str, Any]]:
    if isinstance(record, dict):
        return place, record
    reason = f" ({error})" if error is not None else ""
    raise DataError("data.path", place, f"a JSON object with columns{reason}")


def _json_lines(file: Path) -> Records:
    # Lines end at \n only: a line separator such as U+2028 may stand in a JSON string as it is.
    with file.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(_bounded(lines, file), 1):
            if not line.strip():
                continue
            place = f"line {number} of {file.name}"
            try:
                record = json.loads(line)
            # A ValueError that is no JSONDecodeError: Python refuses to convert thousands of digits.
            except (ValueError, RecursionError) as error:
                _object(None, place, error)
            yield _object(record, place)


def _bounded(lines: TextIO, file: Path) -> Iterator[str]:
    """The lines of a file.

    Raises:
        DataError: one is too long.
    """
    number = 0
    while line := lines.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise DataError(
                "data.path", f"line {number} of {file.name}", f"at most {LONGEST_LINE} characters in a line"
            )
        yield line


def _whole(file: Path) -> str:
    """The content of a file.

    Raises:
        DataError: it is too large to be read at once.
    """
    if (size := file.stat().st_size) > LARGEST_WHOLE:
        given = f"{file.name}, of {size} bytes"
        raise DataError("data.path", given, f"at most {LARGEST_WHOLE} bytes; or .jsonl, which is read line by line")
    return file.read_text(encoding="utf-8-sig")


def _json(file: Path) -> Records:
    content = _whole(file)
    try:
        records = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError("data.path", file.name, f"a JSON list of objects with columns ({error})") from None
    if not isinstance(records, list):
        given = f"{file.name}, which holds one {type(records).__name__}"
        raise DataError("data.path", given, "a JSON list of objects with columns")
    for number, record in enumerate(records, 1):
        yield _object(record, f"record {number} of {file.name}")


def _csv(file: Path) -> Records:
    # The default limit of a value is 131,072 characters.
    csv.field_size_limit(LONGEST_LINE)
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(_bounded(lines, file), strict=True)
        try:
            for record in rows:
                place = f"line {rows.line_num} of {file.name}"
                if None in record:
                    raise DataError(
                        "data.path", place, f"as many columns as the first line: {len(rows.fieldnames or ())}"
                    )
                yield place, record
        except csv.Error as error:
            raise DataError(
                "data.path", f"what follows line {rows.line_num} of {file.name}", f"CSV ({error})"
            ) from None


def _parquet(file: Path) -> Records:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(_ROWS):
                for record in batch.to_pylist():
                    number += 1
                    yield f"record {number} of {file.name}", record
    # Also values that Python has no room for: dates out of its range, text that is not UTF-8, unknown time zones.
    except (pyarrow.ArrowException, ValueError, OverflowError, KeyError) as error:
        where = f"what follows record {number} of {file.name}" if number else file.name
        raise DataError("data.path", where, f"a Parquet file ({error})") from None


def _text(file: Path, sample_by: str) -> Records:
    content = _whole(file)
    samples = {"line": content.split("\n"), "paragraph": content.split("\n\n"), "document": [content]}[sample_by]
    for number, sample in enumerate(samples, 1):
        yield f"{sample_by} {number} of {file.name}", {"text": sample.strip("\n")}
