"""Files of the user's own: JSON lines, JSON, CSV, Parquet, plain text."""

import csv
import glob
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow
import pyarrow.parquet
from pyarrow import compute

from trainables.data.documents import Reader, Splits, SplitSizes, split
from trainables.data.formats import is_chat
from trainables.data.templates import parse_json, separator_advice
from trainables.errors import DataError
from trainables.hub import is_lfs_pointer

Records = Iterator[tuple[str, dict[str, Any]]]

# Characters of a line, far above those of a document; a file without line ends would be read whole.
LONGEST_LINE = 2**26
# Bytes of a file that is read at once (.json, .txt).
LARGEST_WHOLE = 2**30
# Rows of a Parquet file that are in memory at once: a compressed file may be much smaller than its rows.
_ROWS = 256
# Compressed files by their first bytes, with pyarrow's names.
_COMPRESSED = {b"\x1f\x8b": "gzip", b"(\xb5/\xfd": "zstd", b"BZh": "bz2"}
_COMPRESSED_SUFFIXES = (".gz", ".zst", ".bz2")
# How a Parquet file begins and ends.
_PARQUET = b"PAR1"
# What cannot be read, by its first bytes.
_ARCHIVES = {b"PK\x03\x04": "a zip archive", b"\xfd7zX": "an xz file", b"7z\xbc\xaf": "a 7z archive"}
# Files that are read, by `kind_of`.
KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".txt", ".tsv")


@dataclass(frozen=True)
class Files:
    """Records in files.

    Attributes:
        paths: files of `KINDS`, compressed too, or patterns such as texts/*.txt.
        reader: makes documents of records; a text file has the column "text".
        sample_by: what of a text file is a record: "line", "paragraph" or "document".
        separator: of the columns of a CSV file.
    """

    paths: tuple[str, ...]
    reader: Reader
    sizes: SplitSizes
    sample_by: str = "line"
    separator: str = ","

    def splits(self, seed: int, apart: Splits | None = None) -> Splits:
        files = [file for pattern in self.paths for file in matching_files(pattern)]
        where = f"in {files[0].name}" if len(files) == 1 else f"in {len(files)} files"
        records = (record for file in files for record in self._records(file))
        documents = self.reader.documents(records, where.removeprefix("in "))
        return split(documents, self.sizes, seed, where, apart)

    def records(self) -> Records:
        """The records of all files, each with where it stands, as in "line 3 of data.jsonl".

        Raises:
            DataError: a file that cannot be read.
        """
        for pattern in self.paths:
            for file in matching_files(pattern):
                yield from self._records(file)

    def _records(self, file: Path) -> Records:
        read: dict[str, Callable[[Path], Records]] = {
            ".jsonl": _json_lines,
            ".ndjson": _json_lines,
            ".json": _json,
            ".csv": lambda file: _csv(file, self.separator),
            ".parquet": _parquet,
            ".txt": lambda file: _text(file, self.sample_by),
            ".tsv": lambda file: _csv(file, "\t" if self.separator == "," else self.separator),
        }
        kind = kind_of(file)
        try:
            # Opening a pipe would wait for its other end.
            if file.exists() and not file.is_file():
                allowed = "a readable UTF-8 file, not a folder, a pipe or a device; source: hub reads a folder"
                raise DataError("data.path", file.name, allowed)
            if kind not in KINDS:
                allowed = f"a file that ends in {', '.join(KINDS)}, or one of these compressed (.gz, .zst, .bz2)"
                raise DataError("data.path", file.name, allowed)
            if is_lfs_pointer(file):
                raise DataError("data.path", f"{file.name} is a Git LFS pointer, not the data; run git lfs pull there")
            yield from read[_kind_within(file, kind)](file)
        except UnicodeError:
            raise DataError("data.path", _undecodable(file), "a readable UTF-8 file") from None
        except OSError as error:
            reason = f"{error.strerror} in {file.parent}" if error.strerror else str(error)
            raise DataError("data.path", file.name, f"a readable UTF-8 file ({reason})") from None


def kind_of(file: Path) -> str:
    """The suffix that says how a file is read, as in .jsonl: without that of a compression."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in _COMPRESSED_SUFFIXES else file.suffix.lower()


def _kind_within(file: Path, kind: str) -> str:
    """The kind of a file that has the suffix of another one, where its first bytes tell; `kind` where they do not.

    Raises:
        DataError: it is an archive.
    """
    with _bytes(file) as content:
        begins = content.peek(64)[:64]
    if archive := next((what for magic, what in _ARCHIVES.items() if begins.startswith(magic)), None):
        raise DataError("data.path", f"{file.name} is {archive}; unpack it")
    if begins.startswith(_PARQUET) and _ends_with(file, _PARQUET):
        return ".parquet"
    if kind in (".csv", ".tsv") and re.match(rb'(\xef\xbb\xbf)?\s*\{\s*"', begins):
        return ".jsonl"
    return kind


def _ends_with(file: Path, mark: bytes) -> bool:
    with file.open("rb") as content:
        content.seek(-len(mark), os.SEEK_END)
        return content.read() == mark


def _bytes(file: Path) -> io.BufferedReader:
    """The content of a file, compressed or not."""
    with file.open("rb") as content:
        begins = content.read(4)
    for magic, name in _COMPRESSED.items():
        if begins.startswith(magic):
            return io.BufferedReader(pyarrow.input_stream(str(file), compression=name))
    return file.open("rb")


def _open_text(file: Path, newline: str | None = None) -> TextIO:
    """The text of a file in UTF-8, or in UTF-16 if it begins as such."""
    content = _bytes(file)
    begins = content.peek(4)[:4]
    if begins[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    else:
        # Two letters without a mark in front of them.
        encodings = {b"x\0x\0": "utf-16-le", b"\0x\0x": "utf-16-be"}
        encoding = encodings.get(re.sub(rb"[^\0]", b"x", begins), "utf-8-sig")
    return io.TextIOWrapper(content, encoding=encoding, newline=newline)


def _undecodable(file: Path) -> str:
    """The first line that is not UTF-8."""
    with _bytes(file) as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number} of {file.name}, with the byte 0x{line[error.start]:02x}"
    return file.name


def matching_files(pattern: str) -> list[Path]:
    """The files that a pattern stands for; the path itself if it is none.

    Raises:
        DataError: no file fits the pattern.
    """
    if not glob.has_magic(pattern) or os.path.exists(pattern):
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
    with _open_text(file, newline="\n") as lines:
        first = True
        for number, line in enumerate(_read_lines(lines, file), 1):
            if not line.strip():
                continue
            if first and line.lstrip().startswith("["):
                # A JSON list has got the wrong name.
                yield from _json(file)
                return
            first = False
            place = f"line {number} of {file.name}"
            try:
                record = parse_json(line)
            # A ValueError that is no JSONDecodeError: Python refuses to convert thousands of digits.
            except (ValueError, RecursionError) as error:
                if number == 1 and not line.lstrip("\ufeff \t").startswith(("{", "[")):
                    raise DataError(
                        "data.path", f"{file.name} holds no JSON; give it the suffix of what it is"
                    ) from None
                _object(None, place, error)
            yield _object(record, place)


def _read_lines(lines: TextIO, file: Path) -> Iterator[str]:
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


def _read_whole(file: Path) -> str:
    """The content of a file.

    Raises:
        DataError: it is too large to be read at once.
    """
    if (size := file.stat().st_size) > LARGEST_WHOLE:
        given = f"{file.name}, of {size} bytes"
        raise DataError("data.path", given, f"at most {LARGEST_WHOLE} bytes; or .jsonl, which is read line by line")
    with _open_text(file) as text:
        content = text.read(LARGEST_WHOLE + 1)
    if len(content) > LARGEST_WHOLE:
        raise DataError("data.path", f"{file.name}, compressed", f"at most {LARGEST_WHOLE} characters")
    return content


def _json(file: Path) -> Records:
    content = _read_whole(file)
    try:
        records = parse_json(content)
    except (ValueError, RecursionError) as error:
        if str(error).startswith("Extra data") and content.lstrip().startswith("{"):
            # JSON lines have got the wrong name.
            yield from _json_lines(file)
            return
        raise DataError("data.path", file.name, f"a JSON list of objects with columns ({error})") from None
    if isinstance(records, dict):
        if tables := [key for key, value in records.items() if _is_table(value)]:
            problem = f"the records of {file.name} are in the list '{tables[0]}' of one object"
            raise DataError("data.path", f"{problem}; write a file with that list alone")
        # One file for each record.
        records = [records]
    if not isinstance(records, list):
        raise DataError("data.path", f"{file.name}, which holds one value", "a JSON list of objects with columns")
    for number, record in enumerate(records, 1):
        yield _object(record, f"record {number} of {file.name}")


def _is_table(value: Any) -> bool:
    """Whether a value of an object is what should stand in its place: many records."""
    return isinstance(value, list) and all(isinstance(one, dict) for one in value) and not is_chat(value)


def _csv(file: Path, delimiter: str = ",") -> Records:
    # The default limit of a value is 131,072 characters.
    csv.field_size_limit(LONGEST_LINE)
    with _open_text(file, newline="") as lines:
        rows = csv.DictReader(_read_lines(lines, file), delimiter=delimiter, strict=True)
        try:
            columns = list(rows.fieldnames or ())
            if twice := [name for name in columns if columns.count(name) > 1]:
                raise DataError("data.path", f"the column '{twice[0]}' stands twice in {file.name}; rename one")
            for record in rows:
                place = f"line {rows.line_num} of {file.name}"
                if None in record:
                    allowed = f"as many columns as the first line: {len(columns)}{separator_advice(columns)}"
                    raise DataError("data.path", place, allowed)
                yield place, record
        except csv.Error as error:
            raise DataError(
                "data.path", f"what follows line {rows.line_num} of {file.name}", f"CSV ({error})"
            ) from None


def date_columns(schema: pyarrow.Schema, read: Callable[[list[str]], pyarrow.Table]) -> list[str]:
    """The columns of timestamps that are all at midnight: what was a date is one again.

    Args:
        read: gives some columns, whole.
    """
    names = [field.name for field in schema if pyarrow.types.is_timestamp(field.type) and field.type.tz is None]
    if not names:
        return []
    table = read(names)
    midnights = {name: compute.equal(table[name], compute.floor_temporal(table[name], unit="day")) for name in names}
    return [name for name in names if compute.all(midnights[name]).as_py() is not False]


def arrow_records(batch: pyarrow.RecordBatch | pyarrow.Table, dates: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of a table.

    Args:
        dates: see date_columns.

    Raises:
        pyarrow.ArrowException, ValueError, OverflowError, KeyError: Python has no room for a value: a date out of its
            range, text that is not UTF-8, an unknown time zone.
    """
    for name in dates:
        batch = batch.set_column(batch.schema.get_field_index(name), name, batch[name].cast(pyarrow.date32()))
    rows: list[dict[str, Any]] = batch.to_pylist(maps_as_pydicts="strict")
    # Also within lists and objects: numbers of 16 and 32 bits, and columns of several types, which the library datasets
    # stores as JSON.
    for field in [field for field in batch.schema if re.search("float|arrow.json", str(field.type))]:
        for row in rows:
            row[field.name] = _unpack_value(row[field.name], field.type)
    return rows


def _unpack_value(value: Any, kind: pyarrow.DataType) -> Any:
    if value is None:
        return None
    if isinstance(kind, pyarrow.JsonType):
        return parse_json(value)
    # By their digits: 0.1 is not 0.10000000149011612.
    if pyarrow.types.is_float32(kind):
        return float(str(np.float32(value)))
    if pyarrow.types.is_float16(kind):
        return float(str(np.float16(value)))
    if pyarrow.types.is_struct(kind):
        return {field.name: _unpack_value(value[field.name], field.type) for field in kind}
    if pyarrow.types.is_map(kind):
        return {key: _unpack_value(one, kind.item_type) for key, one in value.items()}
    return [_unpack_value(one, kind.value_type) for one in value] if isinstance(value, list) else value


def _parquet(file: Path) -> Records:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            dates = date_columns(parquet.schema_arrow, parquet.read)
            for batch in parquet.iter_batches(_ROWS):
                for record in arrow_records(batch, dates):
                    number += 1
                    yield f"record {number} of {file.name}", record
    except (pyarrow.ArrowException, ValueError, OverflowError, KeyError) as error:
        where = f"what follows record {number} of {file.name}" if number else file.name
        raise DataError("data.path", where, f"a Parquet file ({error})") from None


def _text(file: Path, sample_by: str) -> Records:
    content = _read_whole(file)
    samples = {"line": content.split("\n"), "paragraph": re.split(r"\n\s*\n", content), "document": [content]}[
        sample_by
    ]
    for number, sample in enumerate(samples, 1):
        yield f"{sample_by} {number} of {file.name}", {"text": sample.strip("\n")}
