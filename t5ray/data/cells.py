"""An Arrow table -> Python's values, of which some cells may have none.

Parquet promises that texts are UTF-8 and holds dates that Python's calendar has not, and nobody checks a file when it
is written. Such a cell makes a bad row, not a bad file. Where a column mixes kinds, which Parquet cannot, a scoring job
writes JSON text, or floats of which the whole ones were integers, and marks the column, which is read as the values it
was made of.
"""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

JSON_TEXT = {"json": "true"}
"""Metadata of a string field that holds JSON text."""
INTEGERS = {"integers": "true"}
"""Metadata of a field of floats, or lists of them, whose whole numbers were integers."""
EXACT_INT = 2**53
"""Whole numbers up to here survive as float64."""
UNREADABLE = (ValueError, OverflowError, pa.ArrowException)
"""What Arrow raises at a cell that Python has no value for."""


def values_of(table: pa.Table | pa.RecordBatch) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Return the rows of a table, and row -> what is wrong with it.

    A cell without a value becomes text, as near as text comes, or, where it has parts, what its parts become. Times of
    day in nanoseconds, of which Python knows microseconds, are text, too.

    Example:
        text: ["a", bytes ff] -> [{"text": "a"}, {"text": "\\xff"}] and {1: "`text` must be UTF-8 text, but ..."}
        a column marked as JSON text: ['["a"]', '1'] -> [{"text": ["a"]}, {"text": 1}]
        a column marked as having integers: [4.0, 4.5] -> [{"text": 4}, {"text": 4.5}]
    """
    for place, field in enumerate(table.schema):
        if (kind := _with_times_as_text(field).type) != field.type:
            table = table.set_column(place, field.name, table.column(place).cast(kind))
    rows, problems = _rows_of(table)
    for name in (field.name for field in table.schema if holds_json(field)):
        for row in rows:
            row[name] = _parsed(row[name])
    for name in (field.name for field in table.schema if has_integers(field)):
        for row in rows:
            row[name] = _with_integers(row[name])
    return rows, problems


def holds_json(field: pa.Field) -> bool:
    """Say whether a column is marked as JSON text."""
    return bool((field.metadata or {}).get(b"json") == b"true")


def has_integers(field: pa.Field) -> bool:
    """Say whether a column is marked as floats of which the whole ones were integers."""
    return bool((field.metadata or {}).get(b"integers") == b"true")


def _with_integers(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_integers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT_INT else value


def _with_times_as_text(field: pa.Field) -> pa.Field:
    """Return a field with text in place of times of day in nanoseconds, those in lists and objects, too."""
    kind, text = field.type, _with_times_as_text
    if kind == pa.time64("ns"):
        kind = pa.string()
    elif pa.types.is_struct(kind):
        kind = pa.struct([text(part) for part in kind])
    elif pa.types.is_map(kind):
        kind = pa.map_(text(kind.key_field), text(kind.item_field))
    elif pa.types.is_fixed_size_list(kind):
        kind = pa.list_(text(kind.value_field), kind.list_size)
    elif pa.types.is_list(kind):
        kind = pa.list_(text(kind.value_field))
    elif pa.types.is_large_list(kind):
        kind = pa.large_list(text(kind.value_field))
    return field.with_type(kind)


def _rows_of(table: pa.Table | pa.RecordBatch) -> tuple[list[dict[str, Any]], dict[int, str]]:
    try:
        return table.to_pylist(), {}
    except UNREADABLE:
        pass  # somewhere in the table
    problems: dict[int, str] = {}
    columns = {name: _column(name, table[name], problems) for name in table.column_names}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)], problems


def _parsed(text: Any) -> Any:
    """Return what JSON text holds; what is none stays as it is."""
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return text


def _column(name: str, cells: pa.ChunkedArray | pa.Array, problems: dict[int, str]) -> Sequence[Any]:
    try:
        values: Sequence[Any] = cells.to_pylist()
    except UNREADABLE:
        return [_cell(name, number, cell, problems) for number, cell in enumerate(cells)]
    return values


def _cell(name: str, number: int, cell: pa.Scalar, problems: dict[int, str]) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError as exc:
        problems.setdefault(number, f"`{name}` must be UTF-8 text, but holds byte 0x{exc.object[exc.start]:02x}")
        text: str | None = exc.object.decode("utf-8", "backslashreplace")
    except UNREADABLE as exc:
        why = "" if _zone(cell) else f": {exc}"  # Arrow blames a package for a time zone that nobody knows
        problems.setdefault(number, f"`{name}` must hold a value that can be read, but its {cell.type} cannot{why}")
        text = _arrow_text(cell)
    return _parts(name, number, cell, problems) if pa.types.is_nested(cell.type) else text


def _parts(name: str, number: int, cell: pa.Scalar, problems: dict[int, str]) -> Any:
    """Return a list or object, of whose parts some may have no value."""
    if isinstance(cell, pa.StructScalar):
        fields = [(field.name, _cell(name, number, cell[place], problems)) for place, field in enumerate(cell.type)]
        return dict(fields) if len(dict(fields)) == len(fields) else fields
    parts = [_cell(name, number, part, problems) for part in cell.values]
    return [tuple(part.values()) for part in parts] if pa.types.is_map(cell.type) else parts


def _zone(cell: pa.Scalar) -> str | None:
    return cell.type.tz if pa.types.is_timestamp(cell.type) else None


def _arrow_text(cell: pa.Scalar) -> str | None:
    """Return what Arrow makes of a cell that Python has no value for; of a time in a zone, the time in UTC."""
    try:
        if _zone(cell):
            return f"{cell.cast(pa.timestamp(cell.type.unit)).cast(pa.string()).as_py()}Z"
        return str(cell.cast(pa.string()).as_py())
    except UNREADABLE:
        return None
