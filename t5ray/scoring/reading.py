"""The rows of one shard, read without the rest of their file.

Comes in: a file and a range. Goes out: `ShardRows`. Must not know tasks or models.
"""

import codecs
import contextlib
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from t5ray.data.cells import values_of
from t5ray.data.formats import READERS, BadRow, Row, read_json_lines, read_source
from t5ray.data.sources import Source
from t5ray.errors import DataError
from t5ray.scoring.inputs import DELIMITERS, TEXT, InputFile, Shard

BATCH_ROWS = 1024
"""Rows that are decoded from Parquet at a time."""
MOST_QUOTED = 10_000
"""Characters of an unreadable row that its `error` repeats."""


@dataclass(frozen=True)
class ShardRows:
    """Rows as they were read. `records` has an entry for each, bad ones included."""

    records: list[dict[str, Any]]
    """Column -> value; empty for a row that cannot be read."""
    problems: dict[int, str] = field(default_factory=dict)
    """Row of the shard -> why it cannot be read."""
    lines: list[bytes] | None = None
    """JSON lines only: the text of each row, so that it can be passed on to the letter."""
    table: pa.Table | None = None
    """Parquet only: all columns with their types."""
    has_no_nulls: bool = False
    """True for formats whose cells are texts that may be empty, but never null."""


class RangeReader:
    """Byte ranges of files. A packed file stays open from one range to the next, as it is unpacked from its start."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._path = ""
        self._file: IO[bytes] | None = None

    def read(self, source: Source, start: int, stop: int) -> bytes:
        """Return the unpacked bytes from start up to stop.

        Raises:
            DataError: the file is gone or unreadable.
        """
        if not source.packing:
            with source.open() as file:
                file.seek(start)
                return file.read(stop - start)
        if self._file is None or source.path != self._path or self._file.tell() > start:
            self._open.close()
            self._file, self._path = self._open.enter_context(source.open()), source.path
        file, self._file = self._file, None  # unless it can be read on
        with source.reading():
            file.seek(start)
            data = file.read(stop - start)
        self._file = file
        return data


def read_shard(
    file: InputFile,
    shard: Shard,
    columns: Sequence[str] | None,
    ranges: RangeReader | None = None,
    needed: Sequence[str] | None = None,
) -> ShardRows:
    """Read a shard.

    Args:
        columns: those that `records` need where the file is Parquet; None: all.
        needed: those of them without which a row is a bad one where a cell cannot be read; None: all of them.
        ranges: what read the shards before it. None: nothing did.
    Raises:
        DataError: the file is gone, unreadable, or not the one that was scanned.
    """
    kind = file.source.format
    if kind == "parquet":
        rows = _read_parquet(file.source, shard, columns, needed)
    elif kind == "json":
        last = shard.first_row + shard.num_rows
        rows = _collect(itertools.islice(read_source(file.source), shard.first_row, last), file.source.name, shard)
    else:
        rows = _read_range(file, shard, ranges or RangeReader())
    file.require_unchanged()
    if len(rows.records) != shard.num_rows:
        raise file.changed()
    return rows


def _read_range(file: InputFile, shard: Shard, ranges: RangeReader) -> ShardRows:
    data = ranges.read(file.source, shard.start, shard.stop)
    kind, name = file.source.format, file.source.name
    if kind == TEXT:
        return _text_rows(data, name, shard)
    if kind in DELIMITERS:
        rows = _collect(READERS[kind](io.BytesIO(file.header + data), name), name, shard)
        return replace(rows, has_no_nulls=True)
    lines = [line for line in data.split(b"\n") if line and not line.isspace()]
    return _collect(read_json_lines(io.BytesIO(data), name, is_start=shard.start == 0), name, shard, lines)


def _text_rows(data: bytes, name: str, shard: Shard) -> ShardRows:
    rows: list[Row | BadRow] = []
    data = data.removeprefix(codecs.BOM_UTF8) if shard.start == 0 else data
    for line in data.removesuffix(b"\n").split(b"\n"):
        try:
            rows.append(Row(name, {"text": line.removesuffix(b"\r").decode("utf-8")}))
        except UnicodeDecodeError as exc:
            rows.append(BadRow(name, f"text must be UTF-8, but holds byte 0x{line[exc.start]:02x}", line))
    return replace(_collect(iter(rows), name, shard), has_no_nulls=True)


def _collect(rows: Iterator[Row | BadRow], name: str, shard: Shard, lines: list[bytes] | None = None) -> ShardRows:
    records: list[dict[str, Any]] = []
    problems = {}
    for number, row in enumerate(rows):
        if isinstance(row, BadRow):
            problems[number] = f"{name} row {shard.first_row + number + 1}: {row.reason}{_quoted(row.raw)}"
            records.append({})
        else:
            records.append(dict(row.values))
    return ShardRows(records, problems, lines)


def _quoted(raw: bytes) -> str:
    """Return what a row that cannot be read holds, for its `error`: no column has it."""
    shown = raw.decode("utf-8", "backslashreplace")
    if len(shown) > MOST_QUOTED:
        shown = f"{shown[:MOST_QUOTED]}... ({len(shown)} characters)"
    return f". It reads: {shown}" if shown else ""


def _read_parquet(
    source: Source, shard: Shard, columns: Sequence[str] | None, needed: Sequence[str] | None
) -> ShardRows:
    with source.open() as opened:
        try:
            table = pa.Table.from_batches(*_slice(pq.ParquetFile(opened), shard))
        except pa.ArrowException as exc:
            raise DataError(f"{source.name}: must be Parquet, but could not be read: {exc}") from exc
    records, wrong = values_of(_selected(table, columns))
    if wrong and needed is not None:
        _, wrong = values_of(_selected(table, needed))
    problems = {row: f"{source.name} row {shard.first_row + row + 1}: {reason}" for row, reason in wrong.items()}
    return ShardRows(records, problems, table=table)


def _selected(table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    return table if columns is None else table.select([name for name in columns if name in table.column_names])


def _slice(parquet: pq.ParquetFile, shard: Shard) -> tuple[list[pa.RecordBatch], pa.Schema]:
    """Return the batches of a row range, decoding only the row groups that hold it."""
    first, last, seen = shard.first_row, shard.first_row + shard.num_rows, 0
    groups = []
    skipped = 0
    for group in range(parquet.metadata.num_row_groups):
        size = parquet.metadata.row_group(group).num_rows
        if seen + size <= first:
            skipped += size
        elif seen < last:
            groups.append(group)
        seen += size
    batches, at = [], skipped
    for batch in parquet.iter_batches(batch_size=BATCH_ROWS, row_groups=groups):
        low, high = max(first - at, 0), min(last - at, batch.num_rows)
        if high > low:
            batches.append(batch.slice(low, high - low))
        at += batch.num_rows
        if at >= last:
            break
    return batches, parquet.schema_arrow
