"""From records with columns to documents, by templates such as "{question}\\n{answer}".

What stands between braces is the name of a column, whatever characters it has, or a column and what lies within it, as
in {messages[0][content]} ({messages[-1][content]} for the last one). With a ? at its end, as in {input?}, it may be
absent: nothing is written for it. A name with braces or a ? at its end stands in quotes, as in {"a}b"} or {"sure?"}.
"""

import json
import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from functools import cache
from typing import Any

from trainables.data.documents import Document, content_hash
from trainables.data.formats import format_column
from trainables.errors import DataError

_PART = re.compile(r'(\{\{|\}\})|\{(?:("(?:[^"\\]|\\.)*")|([^{}]*?))(\?)?\}|([{}])')
# Characters of a field that an error shows: the record stands behind it.
_LONGEST_FIELD = 40


@dataclass(frozen=True)
class Field:
    """A column in a template, or what lies within one.

    Attributes:
        name: what stands between the braces.
        optional: whether records may lack it.
    """

    name: str
    optional: bool

    def value(self, record: Mapping[str, Any]) -> Any:
        """What the record has there; None if it has nothing."""
        for name in self.names():
            if name in record:
                return record[name]
        column, inner = self.path()
        value = record.get(column)
        for part in inner:
            if isinstance(value, Mapping):
                # Keys of Parquet's maps may be numbers.
                value = value[part] if part in value else next((v for k, v in value.items() if str(k) == part), None)
            elif isinstance(value, list) and re.fullmatch(r"-?\d{1,9}", part):
                index = int(part)
                value = value[index] if -len(value) <= index < len(value) else None
            else:
                return None
        return value

    def names(self) -> list[str]:
        """The columns that it may stand for as a whole."""
        return [self.name, f"{self.name}?"] if self.optional else [self.name]

    def is_in(self, columns: Container[str]) -> bool:
        return any(name in columns for name in (*self.names(), self.path()[0]))

    def path(self) -> tuple[str, list[str]]:
        """The column, and the keys and indices within it."""
        path = re.fullmatch(r"([^\[\]]*)((?:\[[^\[\]]*\])+)", self.name)
        return (path[1], re.findall(r"\[([^\[\]]*)\]", path[2])) if path else (self.name, [])

    def __str__(self) -> str:
        name = self.name if len(self.name) <= _LONGEST_FIELD else f"{self.name[: _LONGEST_FIELD - 3]}..."
        return f"{{{name}{'?' if self.optional else ''}}}"


@cache
def parse(template: str) -> tuple[str | Field, ...]:
    """The texts and the fields of a template, in their order.

    Raises:
        ValueError: a brace that belongs to no field.
    """
    parts: list[str | Field] = []
    end = 0
    for found in _PART.finditer(template):
        double, quoted, name, optional, single = found.groups()
        if single:
            raise ValueError(f"a single '{single}'")
        parts += [
            template[end : found.start()],
            double[0] if double else Field(_unquote(quoted, name), bool(optional)),
        ]
        end = found.end()
    return *parts, template[end:]


def _unquote(quoted: str | None, name: str) -> str:
    return name if quoted is None else str(json.loads(quoted, strict=False))


@dataclass(frozen=True)
class Templates:
    """What turns a record into a document.

    Attributes:
        text, prompt, answer: of the document, with columns in braces. Documents with the same prompt are a group.
    """

    text: str
    prompt: str | None = None
    answer: str | None = None

    def fits(self, record: Mapping[str, Any]) -> bool:
        parts = [part for template in (self.text, self.prompt, self.answer) for part in parse(template or "")]
        fields = [part for part in parts if isinstance(part, Field) and not part.optional]
        return bool(fields) and all(field.is_in(record) for field in fields)

    def documents(self, records: Iterable[tuple[str, Mapping[str, Any]]], where: str) -> Iterator[Document]:
        """The documents; some may be empty.

        Args:
            records: each with where it stands, as in "line 3 of data.jsonl".

        Raises:
            DataError: a column that does not exist, or that has no value which can be written as text.
        """
        known: dict[str, None] = {}
        for place, record in records:
            known |= dict.fromkeys(record)
            text = fill_template("template", self.text, record, place, where, known)
            prompt = fill_template("prompt", self.prompt, record, place, where, known) if self.prompt else ""
            answer = fill_template("answer", self.answer, record, place, where, known) if self.answer else None
            yield Document(text, content_hash(prompt or text), prompt, answer)
        for field, template in (("template", self.text), ("prompt", self.prompt), ("answer", self.answer)):
            for part in parse(template or "") if known else ():
                if isinstance(part, Field) and not part.is_in(known):
                    raise no_column(field, part, known, where)


def fill_template(
    field: str, template: str, record: Mapping[str, Any], place: str, where: str, known: Mapping[str, None]
) -> str:
    """A template's text for a record.

    Args:
        field: the setting, for an error, as in "answer".
        known: the columns of the records so far.

    Raises:
        DataError: a column that does not exist, or that has no value which can be written as text.
    """
    return "".join(
        part if isinstance(part, str) else _format_field(field, part, record, place, where, known)
        for part in parse(template)
    )


def _format_field(
    field: str, part: Field, record: Mapping[str, Any], place: str, where: str, known: Mapping[str, None]
) -> str:
    if not part.optional and not part.is_in(known):
        raise no_column(field, part, known, where)
    try:
        text = as_text(part.value(record))
        if text is not None:
            text.encode()
    # Bytes of a picture; half of a character, which JSON can hold as in "\\ud800"; objects within objects without end.
    except (ValueError, RecursionError):
        allowed = f"text that is Unicode, UTF-8 where it is bytes (the column '{part.name}' is not)"
        raise DataError(f"data.{field}", f"{part} with {place}", allowed) from None
    if text is None:
        if part.optional:
            return ""
        allowed = f"columns with a value (the column '{part.name}' has none), or {{{part.name}?}}, which may have none"
        raise DataError(f"data.{field}", f"{part} with {place}", allowed)
    if "\0" in text:
        allowed = f"text without NUL characters (the column '{part.name}' has one); save it as UTF-8 text"
        raise DataError(f"data.{field}", f"{part} with {place}", allowed)
    return text


def no_column(field: str, part: Field, known: Mapping[str, None], where: str) -> DataError:
    """The error of a setting that names a column which no record so far has."""
    column = part.path()[0]
    close = get_close_matches(column, known, n=1)
    if any("\0" in name for name in known):
        raise DataError("data.path", f"{where} has NUL characters in the names of its columns; save it as UTF-8 text")
    allowed = f"the columns of {where}: {', '.join(map(str, known))}{separator_advice(known)}"
    nearest = close[0] if close else None
    # Some names stand in quotes.
    if nearest is not None and (written := format_column(nearest, optional=False)) != f"{{{nearest}}}":
        nearest = written
    return DataError(f"data.{field}", f"the column '{column}'", allowed, nearest)


def separator_advice(columns: Iterable[str]) -> str:
    """What to do with a table whose one column is the names of several."""
    name, *others = columns or [""]
    parted = not others and re.search("[;\t|,]", name or "")
    if not parted:
        return ""
    advice = "name it .csv" if parted[0] == "," else "save the table with commas, or as .tsv with tabs"
    return f" (they are parted by {parted[0]!r}: {advice})"


class Number(str):
    """A number of a JSON file as it stands there."""


class Object(dict[str, Any]):
    """An object of a JSON file. What is null in it was written so: Parquet files fill in the keys of other records."""


class TwiceError(ValueError):
    """A key that stands twice in an object: nobody knows which of its values is meant."""


def parse_json(text: str) -> Any:
    """A JSON value; numbers stay as they stand, and NaN and Infinity, which JSON does not have, are no value.

    Raises:
        TwiceError, ValueError, RecursionError: it is none.
    """
    return json.loads(text, **_AS_IT_STANDS)


def parse_json_at(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins there, as `parse_json` gives it, and where it ends.

    Raises:
        TwiceError, ValueError, RecursionError: it is none.
    """
    return json.JSONDecoder(**_AS_IT_STANDS).raw_decode(text, start)


def _parse_integer(text: str) -> int | Number:
    # Python's integers have no minus zero.
    return Number(text) if text == "-0" else int(text)


def _parse_object(pairs: list[tuple[str, Any]]) -> Object:
    made = Object(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise TwiceError(f"the key {json.dumps(twice)} stands twice in an object")
    return made


_AS_IT_STANDS: dict[str, Any] = {
    "parse_float": Number,
    "parse_int": _parse_integer,
    "parse_constant": lambda _: None,
    "object_pairs_hook": _parse_object,
}


def as_text(value: Any) -> str | None:
    """A value as it stands in its file; None if there is none.

    An object or a list is JSON. A number that is whole is written as such: a column of integers with a gap is one of
    floating-point numbers in Parquet files.

    Raises:
        ValueError: bytes that are not UTF-8.
    """
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case float():
            if not math.isfinite(value):
                return None
            return str(int(value)) if value.is_integer() and abs(value) < 1e16 else repr(value)
        case Decimal():
            return format(value, "f") if value.is_finite() else None
        case bytes():
            return value.decode()
        case Mapping() | list() | tuple():
            return _as_json(value)
        case _:
            return str(value)


def _as_json(value: Any) -> str:
    match value:
        case Mapping():
            inner = (f"{json.dumps(str(key), ensure_ascii=False)}: {_as_json(one)}" for key, one in value.items())
            return f"{{{', '.join(inner)}}}"
        case list() | tuple():
            return f"[{', '.join(map(_as_json, value))}]"
    text = as_text(value)
    if text is None:
        return "null"
    return text if isinstance(value, int | float | Decimal | Number) else json.dumps(text, ensure_ascii=False)
