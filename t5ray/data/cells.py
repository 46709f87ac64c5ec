"""An Arrow table -> Python's values, of which some cells may have none.

Parquet promises that texts are UTF-8 and holds dates that Python's calendar has not, and nobody checks a file when it
is written. Such a cell makes a bad row, not a bad file. Where a column mixes kinds, which Parquet cannot, a scoring job
writes JSON text and marks the column, which is read as the values it holds.
"""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

JSON_TEXT = {"json": "true"}
"""Metadata of a string field that holds JSON text."""
UNREADABLE = (ValueError, OverflowError, pa.ArrowException)
"""What Arrow raises at a cell that Python has no value for."""


def values_of(table: pa.Table | pa.RecordBatch) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Return the rows of a table, and row -> what is wrong with it.

    A cell without a value becomes text, as near as text comes, and null where it has parts.

    Example:
        text: ["a", bytes ff] -> [{"text": "a"}, {"text": "\\xff"}] and {1: "`text` must be UTF-8 text, but ..."}
        a column marked as JSON text: ['["a"]', '1'] -> [{"text": ["a"]}, {"text": 1}]
    """
    rows, problems = _rows_of(table)
    for name in (field.name for field in table.schema if holds_json(field)):
        for row in rows:
            row[name] = _parsed(row[name])
    return rows, problems


def holds_json(field: pa.Field) -> bool:
    """Say whether a column is marked as JSON text."""
    return bool((field.metadata or {}).get(b"json") == b"true")


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
        return None if pa.types.is_nested(cell.type) else exc.object.decode("utf-8", "backslashreplace")
    except UNREADABLE as exc:
        problems.setdefault(number, f"`{name}` must hold a value that can be read, but its {cell.type} cannot: {exc}")
        return _arrow_text(cell)


def _arrow_text(cell: pa.Scalar) -> str | None:
    """Return what Arrow makes of a cell that Python has no value for."""
    try:
        return str(cell.cast(pa.string()).as_py())
    except UNREADABLE:
        return None
