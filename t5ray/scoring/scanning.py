"""Files -> an `Input`: columns, a digest of each file, and where each shard begins, in one pass over each file.

Comes in: a path, glob, folder or URI. Goes out: an `Input`. Nothing is kept of a row but where it begins and what
kinds of values it has. A CSV record may span lines, so the csv reader itself finds where one begins. Must not know
tasks or models.
"""

import csv
import hashlib
import io
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from t5ray.counting import counted
from t5ray.data.formats import READERS, BadRow, Row
from t5ray.data.sources import Source
from t5ray.errors import DataError, one_line
from t5ray.scoring.inputs import DELIMITERS, TEXT, Input, InputFile, list_sources, stamp_of
from t5ray.scoring.kinds import Kinds, require_distinct

HASH_BYTES = 1 << 20
UNCLOSED = "unexpected end of data"
"""What csv says where a quote is never closed."""


def scan(path: str, shard_rows: int, sources: Sequence[Source] | None = None) -> Input:
    """Read every file of an input once.

    Args:
        sources: what `list_sources` found at the path. None: it is asked here.
    Raises:
        DataError: nothing is there, a file is unreadable as a whole, columns clash, or there are no rows.
    """
    files, schemas = [], []
    kinds = Kinds()
    for source in list_sources(path).sources if sources is None else sources:
        if source.format == "parquet":
            file, schema = _scan_parquet(source)
            schemas.append((source.name, schema))
        else:
            file = _scan_text(source, shard_rows, kinds)
        files.append(file)
    if not any(file.num_rows for file in files):
        raise DataError(f"{path}: the input must hold rows, but holds none.")
    return Input(tuple(files), _unify(schemas) if schemas else kinds.schema(), shard_rows)


def _scan_parquet(source: Source) -> tuple[InputFile, pa.Schema]:
    digest, stamp = hashlib.sha256(), stamp_of(source)
    with source.open() as file:
        try:
            parquet = pq.ParquetFile(file)
            rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
        except pa.ArrowException as exc:
            raise DataError(f"{source.name}: must be Parquet, but could not be read: {exc}") from exc
        require_distinct(schema.names, source.name)
        file.seek(0)
        while block := file.read(HASH_BYTES):
            digest.update(block)
    return InputFile(source, rows, (), b"", digest.hexdigest(), stamp), schema


def _unify(schemas: list[tuple[str, pa.Schema]]) -> pa.Schema:
    """Return the columns of all files; a file may lack some, null there, but may not give one another type."""
    merged = schemas[0][1]
    for name, schema in schemas[1:]:
        try:
            merged = pa.unify_schemas([merged, schema])
        except (pa.ArrowInvalid, pa.ArrowTypeError) as exc:
            raise DataError(
                f"{name}: its columns must have the types of the files before it, but: {one_line(exc).rstrip('.')}. "
                "Cast the column to one type in all files."
            ) from exc
    for place, field in enumerate(merged):
        if any(field.name not in schema.names for _, schema in schemas):
            merged = merged.set(place, field.with_nullable(True))
    return merged


class _Tap:
    """Lines of a file, with the offset of the last one and a digest of all."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.start = 0
        self.stop = 0
        self.num_filled = 0
        """Lines of a CSV so far that are not blank."""

    def __iter__(self) -> Iterator[bytes]:
        for line in self._file:
            self.start, self.stop = self.stop, self.stop + len(line)
            self.digest.update(line)
            yield line


def _scan_text(source: Source, shard_rows: int, kinds: Kinds) -> InputFile:
    """Scan a file of lines (or one JSON list, which has no offsets)."""
    stamp, rows, header = stamp_of(source), 0, b""
    marks: list[int] = []
    with source.open() as file:
        tap = _Tap(file)
        for start, values in _records(source, tap, kinds):
            if rows % shard_rows == 0:
                marks.append(start)
            rows += 1
            kinds.add(values, source.name)
        if source.format in DELIMITERS and marks:
            file.seek(0)
            header = file.read(marks[0])
    has_offsets = source.format != "json"
    return InputFile(source, rows, (*marks, tap.stop) if has_offsets else (), header, tap.digest.hexdigest(), stamp)


def _records(source: Source, tap: _Tap, kinds: Kinds) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield where each record begins and what it holds; {} for one that cannot be read."""
    if source.format == TEXT:
        kinds.name_all(["text"], source.name)
        for _ in tap:
            yield tap.start, {}
    elif source.format in DELIMITERS:
        for start in _csv_starts(source, tap, kinds):
            yield start, {}
    elif source.format == "json":
        for row in READERS["json"](io.BytesIO(b"".join(tap)), source.name):
            yield 0, _values(row)
    else:
        for row in READERS[source.format](iter(tap), source.name):  # type: ignore[arg-type]  # it only iterates
            yield tap.start, _values(row)


def _values(row: Row | BadRow) -> dict[str, Any]:
    return {} if isinstance(row, BadRow) else dict(row.values)


def _csv_lines(tap: _Tap) -> Iterator[str]:
    """Yield lines as the reader of rows sees them: a carriage return alone ends one too."""
    for line in tap:
        tap.stop = tap.start
        for piece in line.splitlines(keepends=True):
            tap.start, tap.stop = tap.stop, tap.stop + len(piece)
            tap.num_filled += not piece.isspace()
            yield piece.decode("utf-8-sig" if tap.start == 0 else "utf-8", "surrogateescape")


def _csv_starts(source: Source, tap: _Tap, kinds: Kinds) -> Iterator[int]:
    """Name the columns, then yield where each record begins. A cell may hold line breaks."""
    csv.field_size_limit(sys.maxsize)
    lines = csv.reader(
        _csv_lines(tap),
        delimiter=DELIMITERS[source.format],
        strict=True,
    )
    named = False
    while True:
        start, line, filled = tap.stop, lines.line_num + 1, tap.num_filled + 1
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as exc:
            if not named:
                raise DataError(f"{source.name}:1: the first line must name the columns, but: {exc}.") from exc
            _require_closed(source.name, line, tap.num_filled - filled, str(exc))
            cells = [""]
        if not cells:
            continue
        if named:
            yield start
        else:
            kinds.name_all(cells, source.name)
            named = True


def _require_closed(name: str, first: int, num_after: int, problem: str) -> None:
    """Refuse a file whose last row is all the lines after a quote: as a bad row it would stand for many.

    Args:
        first: line where the row begins.
        num_after: lines after that one in the row, without blank ones.
    Raises:
        DataError: it is.
    """
    if problem == UNCLOSED and num_after:
        raise DataError(
            f"{name}:{first}: a quote that opens must be closed, but the one in the row that begins here never is, so "
            f"that the {counted(num_after, 'line')} after it would belong to that row. Close it or, where it is text, "
            "double it within quotes."
        )
