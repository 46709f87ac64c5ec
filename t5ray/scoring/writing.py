"""The bytes of one part: the shard's rows unchanged, then the columns of `Results`; and the way back.

    format    from Parquet                        from JSON lines               from CSV, TSV, text
    parquet   same columns, same types            types learnt in the scan      strings
    jsonl     JSON; dates, times and durations    the very text of the line     strings
              as ISO, bytes base64, decimals
              and NaN as strings
    csv       text; lists and objects as JSON     text; lists, objects: JSON    the same cells

In CSV null is an empty cell and the empty text is `""`; of a CSV input, whose readers mostly tell no such difference,
empty cells stay empty. In a column that mixes kinds, a text that spells another value there (`true`, `[1]`) is JSON.

Of a JSON column of integers and floats Parquet holds floats, marked, of which readers here take the whole ones for
integers: `2.0` among integers becomes `2`, and as a reference it is judged so.

A row that cannot be read has no columns of its own: its `error` repeats what the file holds there.

`predictions` is a list of texts, `scores` a map of label to probability; in CSV both are JSON.

The bytes depend on rows and results only, so that a shard that is scored again gives the same file.
"""

import base64
import csv
import datetime
import io
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from t5ray.data.cells import holds_json
from t5ray.scoring.reading import ShardRows
from t5ray.scoring.restoring import from_mixed_cell

PREDICTION, PREDICTIONS, SCORE, SCORES, ERROR = "prediction", "predictions", "score", "scores", "error"


@dataclass(frozen=True)
class Extras:
    """What a part adds besides `prediction` and `error`."""

    scores: bool = False
    """`score`: the prediction's probability."""
    all_scores: bool = False
    """`scores`: label -> probability."""
    texts: bool = False
    """`predictions`: several texts; of beams the best first, of samples as they were drawn."""


@dataclass
class Results:
    """What scoring found, row by row. The lists run in parallel; None where nobody asked for that column."""

    predictions: list[str | None]
    scores: list[float | None] | None
    errors: list[str | None]
    texts: list[list[str] | None] | None = None
    """All predictions of each row; `prediction` is the first."""
    label_scores: list[dict[str, float] | None] | None = None
    """Label -> probability of each row."""

    @classmethod
    def blank(cls, num_rows: int, extras: Extras) -> "Results":
        """Return results that know nothing yet."""
        return cls(
            predictions=[None] * num_rows,
            scores=[None] * num_rows if extras.scores else None,
            errors=[None] * num_rows,
            texts=[None] * num_rows if extras.texts else None,
            label_scores=[None] * num_rows if extras.all_scores else None,
        )

    @property
    def columns(self) -> dict[str, list[Any]]:
        """The columns that a part adds, in their order."""
        columns: dict[str, list[Any] | None] = {
            PREDICTION: self.predictions,
            PREDICTIONS: self.texts,
            SCORE: self.scores,
            SCORES: self.label_scores,
            ERROR: self.errors,
        }
        return {name: values for name, values in columns.items() if values is not None}


def result_columns(extras: Extras) -> tuple[str, ...]:
    """Return the names of the columns that a part adds."""
    return tuple(Results.blank(0, extras).columns)


NEEDS_QUOTES = re.compile('[",\r\n]')
RESULT_TYPES = {
    PREDICTION: pa.string(),
    PREDICTIONS: pa.list_(pa.string()),
    SCORE: pa.float64(),
    SCORES: pa.map_(pa.string(), pa.float64()),
    ERROR: pa.string(),
}


def encode(part_format: str, rows: ShardRows, results: Results, schema: pa.Schema) -> bytes:
    """Return a part as bytes.

    Args:
        schema: the columns of the whole input, so that all parts have the same.
    """
    encoders = {"parquet": _parquet, "jsonl": _json_lines, "csv": _csv}
    return encoders[part_format](rows, results, schema)


def _parquet(rows: ShardRows, results: Results, schema: pa.Schema) -> bytes:
    table = _typed(rows, schema)
    for name, values in results.columns.items():
        table = table.append_column(name, pa.array(_storable(values), RESULT_TYPES[name]))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _typed(rows: ShardRows, schema: pa.Schema) -> pa.Table:
    if rows.table is not None:
        return rows.table if rows.table.schema.equals(schema) else _with_all_columns(rows.table, schema)
    arrays = []
    for column in schema:
        values = [record.get(column.name) for record in rows.records]
        if holds_json(column):
            values = [None if value is None else json_text(value) for value in values]
        arrays.append(pa.array(_storable(values), column.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _with_all_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Add the columns that other files of the input have, as nulls."""
    arrays = [
        table[column.name] if column.name in table.column_names else pa.nulls(table.num_rows, column.type)
        for column in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _storable(values: Sequence[Any]) -> list[Any]:
    """Replace halves of surrogate pairs, which JSON can spell but no file can hold."""
    return [_clean(value) for value in values]


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):  # the labels, whose column is a map
        return [(_clean(name), item) for name, item in value.items()]
    return value


def _json_lines(rows: ShardRows, results: Results, schema: pa.Schema) -> bytes:
    buffer = io.BytesIO()
    for number, added in enumerate(_added(results)):
        line = None if rows.lines is None or number in rows.problems else rows.lines[number]
        if line is None:
            buffer.write(json_text({**rows.records[number], **added}).encode("utf-8", "replace"))
        else:
            buffer.write(_splice(line, added))
        buffer.write(b"\n")
    return buffer.getvalue()


def _added(results: Results) -> Iterator[dict[str, Any]]:
    names = list(results.columns)
    for values in zip(*results.columns.values(), strict=True):
        yield dict(zip(names, values, strict=True))


def _splice(line: bytes, added: Mapping[str, Any]) -> bytes:
    """Add members to the text of a JSON object, which keeps the spelling of all others.

    Example:
        {"a": 1.10} and {"b": null} -> {"a": 1.10, "b": null}
    """
    body = line.removeprefix(b"\xef\xbb\xbf").strip().removesuffix(b"}").rstrip()
    comma = b"" if body == b"{" else b", "
    return body + comma + json_text(added).encode("utf-8", "replace")[1:]


def json_text(value: Any) -> str:
    """Return a value as JSON on one line. NaN and the infinities, which JSON has not, are strings as in protobuf."""
    try:
        return json.dumps(value, ensure_ascii=False, default=_json_default, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(value), ensure_ascii=False, default=_json_default)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return value


def _json_default(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return _iso_duration(value) if isinstance(value, datetime.timedelta) else str(value)


def _iso_duration(value: datetime.timedelta) -> str:
    """Return a duration as pandas writes those in nanoseconds.

    Example:
        1 day and 1 microsecond -> P1DT0H0M0.000001S
    """
    minutes, seconds = divmod(value.seconds, 60)
    part = f".{value.microseconds:06d}".rstrip("0") if value.microseconds else ""
    return f"P{value.days}DT{minutes // 60}H{minutes % 60}M{seconds}{part}S"


def _csv(rows: ShardRows, results: Results, schema: pa.Schema) -> bytes:
    empty = "" if rows.has_no_nulls else '""'
    lines = [",".join(_cell(name, empty) for name in (*schema.names, *results.columns))]
    mixed = [field.name for field in schema if holds_json(field)]
    for record, added in zip(rows.records, _added(results), strict=True):
        values = {**record, **{name: _spelt(record.get(name)) for name in mixed}}
        cells = [_cell(values.get(name), empty) for name in schema.names]
        lines.append(",".join([*cells, *(_cell(value, '""') for value in added.values())]))
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def _spelt(value: Any) -> Any:
    """Return the value of a column that mixes kinds so that its cell is read as that value."""
    return json_text(value) if isinstance(value, str) and from_mixed_cell(value) is not value else value


def _cell(value: Any, empty: str) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json_text(value).strip('"')
    if not text:
        return empty
    return '"' + text.replace('"', '""') + '"' if NEEDS_QUOTES.search(text) else text


def decode_results(part_format: str, data: bytes, extras: Extras) -> Results:
    """Read the added columns of a part back.

    In CSV null and the empty text look alike; both read as the empty text where `error` is empty, else as null.
    """
    names = result_columns(extras)
    columns: dict[str, list[Any]]
    if part_format == "parquet":
        # not read_table: a thread of its datasets may let go of a Python file while the interpreter ends, which aborts
        table = pq.ParquetFile(pa.BufferReader(data)).read(columns=list(names))
        columns = table.to_pydict(maps_as_pydicts="strict")
    elif part_format == "jsonl":
        records = [json.loads(line) for line in data.removesuffix(b"\n").split(b"\n")]
        columns = {name: [record[name] for record in records] for name in names}
    else:
        columns = _csv_results(data, names)
    return Results(
        columns[PREDICTION], columns.get(SCORE), columns[ERROR], columns.get(PREDICTIONS), columns.get(SCORES)
    )


def _csv_results(data: bytes, names: Sequence[str]) -> dict[str, list[Any]]:
    csv.field_size_limit(sys.maxsize)  # the module's own is less than a long document
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for record in csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")):
        failed = bool(record[ERROR])
        columns[PREDICTION].append(None if failed else record[PREDICTION])
        columns[ERROR].append(record[ERROR] if failed else None)
        for name in columns.keys() & {PREDICTIONS, SCORE, SCORES}:
            columns[name].append(None if failed else json.loads(record[name]))
    return columns
