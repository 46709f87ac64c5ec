"""What types the columns of a text input have, learnt value by value.

JSON has no column types and Parquet needs them. A value is of one kind, and a column has the type of the kinds in it:

    kind      example      stored as
    str       "a"          string
    bool      true         bool
    int       1            int64; among floats float64, and a mark that the whole numbers were integers
    long      2**60        int64; among floats, which cannot hold it, JSON text
    float     0.5, 2.0     float64
    huge      2**70        JSON text, marked, as is any other mix of kinds
    dict      {"a": 1}     JSON text
    list ...  [1, 2]       list of what its items are, of all lists of the column; JSON text where these hold lists

So no value changes, but for halves of surrogate pairs, NaN and the infinities within JSON text, and a whole float among
integers, which Parquet gives back as an integer: 2.0 as 2.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from t5ray.data.cells import EXACT_INT, INTEGERS, JSON_TEXT
from t5ray.errors import DataError

NUMBERS = frozenset({"int", "float"})
SCALARS: dict[frozenset[str], pa.DataType] = {
    frozenset({"str"}): pa.string(),
    frozenset({"bool"}): pa.bool_(),
    frozenset({"int"}): pa.int64(),
    frozenset({"int", "long"}): pa.int64(),
    frozenset({"long"}): pa.int64(),
    frozenset({"float"}): pa.float64(),
    NUMBERS: pa.float64(),
}
"""Kinds seen in a column -> its type; any other mix is JSON text."""


class Kinds:
    """The columns seen so far, in order of first appearance."""

    def __init__(self) -> None:
        self._seen: dict[str, set[str]] = {}
        self._strings = False

    def name_all(self, names: Iterable[str], file: str) -> None:
        """Note columns of text cells.

        Raises:
            DataError: a name is no text that a file can hold, or stands there twice.
        """
        names = list(names)
        require_distinct(names, file)
        self._strings = True
        for name in names:
            self._kinds_of(name, file)

    def add(self, values: Mapping[str, Any], file: str) -> None:
        """Note the kinds of one record's values.

        Raises:
            DataError: a name is no text that a file can hold.
        """
        for name, value in values.items():
            kinds = self._kinds_of(name, file)
            if value is not None:
                kinds.add(_kind(value))

    def _kinds_of(self, name: str, file: str) -> set[str]:
        """Return the kinds seen in a column."""
        kinds = self._seen.get(name)
        if kinds is None:
            _require_unicode(name, file)
            kinds = self._seen[name] = set()
        return kinds

    def schema(self) -> pa.Schema:
        """Return the columns with their types."""
        if self._strings:
            return pa.schema([pa.field(name, pa.string()) for name in self._seen])
        return pa.schema([_field(name, kinds) for name, kinds in self._seen.items()])


def require_distinct(names: Sequence[str], file: str) -> None:
    """Refuse columns that nobody can tell apart.

    Raises:
        DataError: a name stands there twice.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{file}: each column must have a name of its own, but {twice[0]!r} stands there twice. Rename one."
        )


def _require_unicode(name: str, file: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise DataError(
            f"{file}: the names of columns must be UTF-8 text, but one is {name!r}. Rename it, or save the "
            "file as UTF-8."
        ) from exc


def _kind(value: object) -> str:
    if isinstance(value, list):
        inner = {"list" if isinstance(item, list) else _kind(item) for item in value if item is not None}
        return "list " + " ".join(sorted(inner))
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if abs(value) <= EXACT_INT else "long" if -(2**63) <= value < 2**63 else "huge"
    return type(value).__name__


def _field(name: str, kinds: set[str]) -> pa.Field:
    if not kinds:
        return pa.field(name, pa.string())
    found, are_lists = frozenset(kinds), all(kind.startswith("list ") for kind in kinds)
    if are_lists:
        found = frozenset(word for kind in kinds for word in kind.split()[1:]) or frozenset({"str"})
    scalar = SCALARS.get(found)
    if scalar is None:
        return pa.field(name, pa.string(), metadata=JSON_TEXT)
    return pa.field(name, pa.list_(scalar) if are_lists else scalar, metadata=INTEGERS if found == NUMBERS else None)
