"""Columns of a part -> the values that the input held, by the types that the job keeps of its input.

JSON lines hold dates, times, decimals and NaN as texts, and CSV holds everything as text. So whatever format the parts
have, evaluate reads what it would read in the input. Durations and bytes stay text, and maps come back as lists:
[("a", 1)] as [["a", 1]]. Must not know tasks.
"""

import datetime
import decimal
import json
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa

from t5ray.data.cells import UNREADABLE, has_integers, holds_json

Restore = Callable[[Any], Any]
"""Takes what a part holds, returns what the input held."""
WRONG = (*UNREADABLE, LookupError, ArithmeticError, RecursionError)
"""What is raised where a text is none that a value of its column's type becomes."""


def restorers(schema: pa.Schema, part_format: str) -> dict[str, Restore]:
    """Return what restores a value of each column, for the columns that need it.

    Args:
        schema: of the input.
    """
    if part_format == "parquet":
        return {}
    found: dict[str, Restore] = {}
    for field in schema:
        if holds_json(field):
            if part_format == "csv":
                found[field.name] = from_mixed_cell
        elif pa.types.is_nested(field.type) or _parser(field.type, has_integers(field)):
            way = partial(_typed, field.type, has_integers(field))
            found[field.name] = partial(_from_cell, field.type, way) if part_format == "csv" else way
    return found


def from_mixed_cell(cell: Any, kinds: tuple[type, ...] = (list, dict, bool, str)) -> Any:
    """Return what a CSV cell holds in a column of several kinds. Numbers stay the text they are rendered as.

    Args:
        kinds: of values that are spelt as JSON in the column.
    Example:
        '["a"]' -> ["a"], 'true' -> True, '"true"' -> "true", '12' -> "12", 'a' -> "a"
    """
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return value if isinstance(value, kinds) else cell


def _from_cell(kind: pa.DataType, way: Restore, cell: str) -> Any:
    if not cell:
        return None
    try:
        return way(json.loads(cell) if pa.types.is_nested(kind) else cell)
    except (ValueError, RecursionError):
        return cell


def _typed(kind: pa.DataType, has_integers: bool, value: Any) -> Any:
    """Return the value of a type that a text was made of; other values, and other texts, as they are."""
    types = pa.types
    if isinstance(value, list) and (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return [_typed(kind.value_type, has_integers, item) for item in value]
    if isinstance(value, dict) and pa.types.is_struct(kind):
        kinds = {field.name: field.type for field in kind}
        return {
            name: _typed(kinds[name], has_integers, item) if name in kinds else item for name, item in value.items()
        }
    parse = _parser(kind, has_integers) if isinstance(value, str) else None
    try:
        return parse(value) if parse else value
    except WRONG:
        return value


@lru_cache(maxsize=1024)
def _parser(kind: pa.DataType, has_integers: bool) -> Callable[[str], Any] | None:
    """Return what reads the text that writing makes of a value; None where the value is that text."""
    types = pa.types
    if kind == pa.time64("ns"):
        return None  # text in Parquet's values, too
    if types.is_dictionary(kind):
        return _parser(kind.value_type, has_integers)
    if types.is_timestamp(kind) and kind.unit == "ns":
        return lambda text: pa.scalar(text).cast(kind).as_py()  # whose nanoseconds Python's own dates have not
    parsers: list[tuple[Callable[[pa.DataType], bool], Callable[[str], Any]]] = [
        (types.is_boolean, {"true": True, "false": False}.__getitem__),
        (types.is_integer, int),
        (types.is_floating, _number if has_integers else float),
        (types.is_decimal, decimal.Decimal),
        (types.is_date, datetime.date.fromisoformat),
        (types.is_timestamp, datetime.datetime.fromisoformat),
        (types.is_time, datetime.time.fromisoformat),
    ]
    return next((parse for is_one, parse in parsers if is_one(kind)), None)


def _number(text: str) -> int | float:
    return int(text) if text.lstrip("-").isdecimal() else float(text)
