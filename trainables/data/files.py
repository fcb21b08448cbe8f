"""Files of the user's own: JSON lines, JSON, CSV, Parquet, plain text."""

import csv
import glob
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import pyarrow
import pyarrow.parquet

from trainables.data.arrow import NO_ROOM, arrow_records, date_columns
from trainables.data.documents import Reader, Splits, SplitSizes, split
from trainables.data.formats import is_chat, recognize
from trainables.data.templates import TwiceError, parse_json, parse_json_at, separator_advice
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
# How zstd may begin, too: with a frame that is skipped, as pzstd writes.
_COMPRESSED |= {bytes([first]) + b"*M\x18": "zstd" for first in range(0x50, 0x60)}
_COMPRESSED_SUFFIXES = (".gz", ".zst", ".bz2")
# How a Parquet file begins and ends.
_PARQUET = b"PAR1"
# What cannot be read, by its first bytes.
_ARCHIVES = {b"PK\x03\x04": "a zip archive", b"\xfd7zX": "an xz file", b"7z\xbc\xaf": "a 7z archive"}
_ARCHIVES |= dict.fromkeys(_COMPRESSED, "compressed twice")
_OTHERS = {
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save its table as CSV",
    b"ARROW1": "an Arrow (Feather) file; write it as Parquet",
    b"SQLite format 3": "an SQLite database; write its table as CSV",
}
# What is in a zip archive that is a table.
_TABLES = (b"[Content_Types].xml", b"xl/", b"opendocument.spreadsheet")
# Between JSON values that follow one another, or are in a list.
_BETWEEN = re.compile(r"[\s,]*")
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
            ".jsonl": lambda file: _json_lines(file, self.reader),
            ".ndjson": lambda file: _json_lines(file, self.reader),
            ".json": lambda file: _json(file, self.reader),
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
        begins = content.peek(4096)[:4096]
    if archive := next((what for magic, what in _ARCHIVES.items() if begins.startswith(magic)), None):
        if archive == "a zip archive" and any(mark in begins for mark in _TABLES):
            raise DataError("data.path", f"{file.name} is a workbook (as of Excel); save its table as CSV")
        raise DataError("data.path", f"{file.name} is {archive}; unpack it")
    if other := next((what for magic, what in _OTHERS.items() if begins.startswith(magic)), None):
        raise DataError("data.path", f"{file.name} is {other}")
    if begins.startswith(_PARQUET):
        if _is_compressed(file):
            raise DataError("data.path", f"{file.name} is a Parquet file that is compressed as a whole; unpack it")
        if _ends_with(file, _PARQUET):
            return ".parquet"
    elif kind in (".csv", ".tsv", ".parquet") and begins:
        with _open_text(file, errors="replace") as text:
            if re.match(r'\s*(\[\s*)?\{\s*"', text.read(64)):
                return ".jsonl"
        if kind == ".parquet":
            raise DataError("data.path", f"{file.name} holds no Parquet; give it the suffix of what it is")
    return kind


def _ends_with(file: Path, mark: bytes) -> bool:
    with file.open("rb") as content:
        content.seek(-len(mark), os.SEEK_END)
        return content.read() == mark


def _is_compressed(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(4).startswith(tuple(_COMPRESSED))


def _bytes(file: Path) -> io.BufferedReader:
    """The content of a file, compressed or not."""
    with file.open("rb") as content:
        begins = content.read(4)
    for magic, name in _COMPRESSED.items():
        if begins.startswith(magic):
            return io.BufferedReader(pyarrow.input_stream(str(file), compression=name))
    return file.open("rb")


def _open_text(file: Path, newline: str | None = None, errors: str = "strict") -> TextIO:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 if it begins as such."""
    content = _bytes(file)
    return io.TextIOWrapper(content, encoding=_encoding(content.peek(4)[:4]), newline=newline, errors=errors)


def _encoding(begins: bytes) -> str:
    if begins in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "utf-32"
    if begins[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    # Two letters without a mark in front of them, or one.
    encodings = {
        b"x\0x\0": "utf-16-le",
        b"\0x\0x": "utf-16-be",
        b"x\0\0\0": "utf-32-le",
        b"\0\0\0x": "utf-32-be",
    }
    return encodings.get(re.sub(rb"[^\0]", b"x", begins), "utf-8-sig")


def _undecodable(file: Path) -> str:
    """The first line that is not UTF-8, or what the file is instead."""
    with _bytes(file) as lines:
        encoding = _encoding(lines.peek(4)[:4])
        if encoding != "utf-8-sig":
            name = encoding.upper()[:6]
            return f"{file.name}, which begins as {name} and is cut or damaged"
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


def _json_lines(file: Path, reader: Reader) -> Records:
    # Lines end at \n only: a line separator such as U+2028 may stand in a JSON string as it is.
    with _open_text(file, newline="\n") as lines:
        first = True
        for number, line in enumerate(_read_lines(lines, file), 1):
            if not line.strip():
                continue
            if first and line.lstrip().startswith("["):
                # A JSON list has got the wrong name.
                yield from _json(file, reader)
                return
            place = f"line {number} of {file.name}"
            try:
                record = parse_json(line)
            # A ValueError that is no JSONDecodeError: Python refuses to convert thousands of digits.
            except (ValueError, RecursionError) as error:
                if first and not line.lstrip("\ufeff \t").startswith(("{", "[")):
                    raise _no_json(file) from None
                if first and isinstance(error, json.JSONDecodeError) and error.pos >= len(line.rstrip()):
                    # An object goes on in the next line.
                    yield from _json(file, reader, follow=True)
                    return
                _object(None, place, error)
            first = False
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


def _no_json(file: Path) -> DataError:
    return DataError("data.path", f"{file.name} holds no JSON; give it the suffix of what it is")


def _json(file: Path, reader: Reader, follow: bool = False) -> Records:
    """
    Args:
        follow: whether there may be several objects, which follow one another and go over several lines.
    """
    content = _read_whole(file)
    begin = content.lstrip()[:1]
    try:
        records = parse_json(content)
    except TwiceError as error:
        if begin == "{":
            _object(None, f"record 1 of {file.name}", error)
        # Which record it is in.
        yield from _json_values(content, content.index("[") + 1, file)
        return
    except (ValueError, RecursionError) as error:
        if str(error).startswith("Extra data") and begin == "{":
            # JSON lines have got the wrong name.
            yield from _json_values(content, 0, file) if follow else _json_lines(file, reader)
            return
        if not begin:
            return
        if begin not in "{[":
            raise _no_json(file) from None
        raise DataError("data.path", file.name, f"a JSON list of objects with columns ({error})") from None
    if isinstance(records, dict):
        if not _is_record(records, reader) and (tables := [key for key, value in records.items() if _is_table(value)]):
            problem = f"the records of {file.name} are in the list '{tables[0]}' of one object"
            raise DataError("data.path", f"{problem}; write a file with that list alone")
        # One file for each record.
        records = [records]
    if not isinstance(records, list):
        raise DataError("data.path", f"{file.name}, which holds one value", "a JSON list of objects with columns")
    for number, record in enumerate(records, 1):
        yield _object(record, f"record {number} of {file.name}")


def _json_values(content: str, start: int, file: Path) -> Records:
    """The values that follow one another from there on."""
    number, end = 0, start
    while (match := _BETWEEN.match(content, end)) and (end := match.end()) < len(content):
        number += 1
        place = f"record {number} of {file.name}"
        try:
            record, end = parse_json_at(content, end)
        except (ValueError, RecursionError) as error:
            _object(None, place, error)
        yield _object(record, place)


def _is_record(value: dict[str, Any], reader: Reader) -> bool:
    """Whether an object is a record itself, whatever is in it, as far as its keys tell."""
    return reader.fits(value) or recognize([value]) is not None


def _is_table(value: Any) -> bool:
    """Whether a value of an object is what should stand in its place: many records."""
    return (
        isinstance(value, list) and value != [] and all(isinstance(one, dict) for one in value) and not is_chat(value)
    )


def _csv(file: Path, delimiter: str = ",") -> Records:
    # The default limit of a value is 131,072 characters.
    csv.field_size_limit(LONGEST_LINE)
    with _open_text(file, newline="") as lines:
        numbered = enumerate(_read_lines(lines, file), 1)
        # Empty lines may stand before the names of the columns.
        number, first = next(((n, line) for n, line in numbered if line.strip()), (1, ""))
        rows = csv.DictReader(chain([first], (line for _, line in numbered)), delimiter=delimiter, strict=True)
        try:
            columns = list(rows.fieldnames or ())
            _refuse_twins(columns, file)
            for record in rows:
                place = f"line {number - 1 + rows.line_num} of {file.name}"
                if None in record:
                    allowed = f"as many columns as the first line: {len(columns)}{separator_advice(columns)}"
                    raise DataError("data.path", place, allowed)
                yield place, record
        except csv.Error as error:
            where = f"what follows line {number - 1 + rows.line_num} of {file.name}"
            advice = separator_advice(first.strip().split(delimiter))
            raise DataError("data.path", where, f"CSV ({error}){advice}") from None


def _refuse_twins(columns: list[str], file: Path) -> None:
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise DataError("data.path", f"the column '{twice[0]}' stands twice in {file.name}; rename one")


def _parquet(file: Path) -> Records:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            _refuse_twins(parquet.schema_arrow.names, file)
            dates = date_columns(parquet.schema_arrow, parquet.read)
            for batch in parquet.iter_batches(_ROWS):
                yield from arrow_records(batch, dates, number, file.name)
                number += len(batch)
    except DataError:
        raise
    except NO_ROOM as error:
        where = f"what follows record {number} of {file.name}" if number else file.name
        raise DataError("data.path", where, f"a Parquet file ({error})") from None


def _text(file: Path, sample_by: str) -> Records:
    content = _read_whole(file)
    samples = {"line": content.split("\n"), "paragraph": re.split(r"\n\s*\n", content), "document": [content]}[
        sample_by
    ]
    for number, sample in enumerate(samples, 1):
        yield f"{sample_by} {number} of {file.name}", {"text": sample.strip("\n")}
