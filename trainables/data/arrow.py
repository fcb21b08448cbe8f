"""The records of Arrow tables, as Parquet files and the library datasets have them."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow
from pyarrow import compute

from trainables.data.templates import parse_json
from trainables.errors import DataError

# What pyarrow raises of a file, and of a value that Python cannot hold.
NO_ROOM = (pyarrow.ArrowException, ValueError, OverflowError, KeyError)


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


def _records(batch: pyarrow.RecordBatch | pyarrow.Table, dates: Sequence[str] = ()) -> list[dict[str, Any]]:
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
        return {_unpack_value(k, kind.key_type): _unpack_value(one, kind.item_type) for k, one in value.items()}
    return [_unpack_value(one, kind.value_type) for one in value] if isinstance(value, list) else value


def arrow_records(
    batch: pyarrow.RecordBatch | pyarrow.Table, dates: Sequence[str], number: int, where: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table, each with where it stands.

    Args:
        dates: see date_columns.
        number: of records before them.

    Raises:
        DataError: Python has no room for a value.
    """
    try:
        records = _records(batch, dates)
    except NO_ROOM as error:
        given = _find_unreadable(batch, number, where)
        raise DataError("data.path", given, f"values that Python can hold ({error})") from None
    for place, record in enumerate(records, number + 1):
        yield f"record {place} of {where}", record


def _find_unreadable(batch: pyarrow.RecordBatch | pyarrow.Table, number: int, where: str) -> str:
    """Where the first value stands that Python cannot hold."""
    for row in range(len(batch)):
        for name in batch.schema.names:
            try:
                _records(batch.select([name]).slice(row, 1))
            except NO_ROOM:
                return f"the column '{name}' of record {number + row + 1} of {where}"
    return f"what follows record {number} of {where}"
