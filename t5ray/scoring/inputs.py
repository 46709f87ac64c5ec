"""The input of a job: files -> their columns, a digest, and where each shard begins, in one pass over each file.

Comes in: a path, glob, folder or URI. Goes out: an `Input`. Must not know tasks or models.

How a file is cut: every `shard_rows` rows, never across files. Text formats are cut at byte offsets where a record
begins, so that a worker reads its own range only; a CSV record may span lines, so the csv reader itself finds them.
"""

import csv
import hashlib
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from t5ray.data.formats import READERS, BadRow, Row
from t5ray.data.sources import Source, find_sources
from t5ray.errors import DataError
from t5ray.scoring.kinds import Kinds

TEXT = "text"
"""Format of `.txt`: every line is a row with the one column `text`."""
DELIMITERS = {"csv": ",", "tsv": "\t"}
HASH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Shard:
    """A range of rows of one file: the unit of work, of commit and of restart."""

    index: int
    """Place among all shards, from 0: decides the part's name."""
    file: int
    """Place of its file in `Input.files`."""
    first_row: int
    """Rows of the file before it."""
    num_rows: int
    start: int
    """Byte where its first record begins; 0 in formats without offsets."""
    stop: int
    """Byte after its last record; 0 in formats without offsets."""


@dataclass(frozen=True)
class InputFile:
    """One file, as it was when it was scanned."""

    source: Source
    num_rows: int
    marks: tuple[int, ...]
    """Byte offsets where shards begin, then the end; empty in formats without offsets."""
    header: bytes
    """First line(s) of a CSV, which every range needs to be read; else empty."""
    sha256: str
    stamp: str
    """Changes whenever the file system sees a change: size, times, version."""


@dataclass(frozen=True)
class Input:
    """All rows of a job, in order."""

    files: tuple[InputFile, ...]
    schema: pa.Schema
    """Every column with its type in Parquet; a field with metadata `json` holds JSON text there."""
    shards: tuple[Shard, ...]

    @property
    def num_rows(self) -> int:
        """Rows of all files."""
        return sum(file.num_rows for file in self.files)

    @property
    def digests(self) -> list[list[str]]:
        """Return name and content digest of each file, in order."""
        return [[file.source.name, file.sha256] for file in self.files]


def list_sources(path: str) -> list[Source]:
    """Find the files of an input.

    Raises:
        DataError: nothing is there, or the files are of several formats, which have no common columns.
    """
    if path.lower().endswith(".txt"):
        files, root = fsspec.core.url_to_fs(path)
        names = sorted(files.glob(root)) or [root]
        sources = [Source(str(name).rpartition("/")[2], str(name), TEXT, False, files) for name in names]
    else:
        sources, _ = find_sources(path)
    formats = sorted({source.format for source in sources})
    if len(formats) > 1:
        raise DataError(f"{path}: all files must be of one format, but found {', '.join(formats)}. Score them apart.")
    return sources


def stamp_of(source: Source) -> str:
    """Return what changes when a file changes, without reading it.

    Raises:
        DataError: the file is gone.
    """
    try:
        return str(source.files.ukey(source.path))
    except OSError as exc:
        raise DataError(f"{source.name}: the input file must stay until the job is done, but: {exc}.") from exc


def scan(path: str, shard_rows: int) -> Input:
    """Read every file of an input once.

    Raises:
        DataError: nothing is there, a file is unreadable as a whole, columns clash, or there are no rows.
    """
    files, schemas = [], []
    kinds = Kinds()
    for source in list_sources(path):
        if source.format == "parquet":
            file, schema = _scan_parquet(source)
            schemas.append((source.name, schema))
        else:
            file = _scan_text(source, shard_rows, kinds)
        files.append(file)
    if not any(file.num_rows for file in files):
        raise DataError(f"{path}: the input must hold rows, but holds none.")
    return Input(tuple(files), _unify(schemas) if schemas else kinds.schema(), tuple(_cut(files, shard_rows)))


def _cut(files: list[InputFile], shard_rows: int) -> Iterator[Shard]:
    index = 0
    for number, file in enumerate(files):
        for place, first in enumerate(range(0, file.num_rows, shard_rows)):
            start, stop = file.marks[place : place + 2] if file.marks else (0, 0)
            yield Shard(index, number, first, min(shard_rows, file.num_rows - first), start, stop)
            index += 1


def _scan_parquet(source: Source) -> tuple[InputFile, pa.Schema]:
    digest, stamp = hashlib.sha256(), stamp_of(source)
    with source.open() as file:
        try:
            parquet = pq.ParquetFile(file)
            rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
        except pa.ArrowException as exc:
            raise DataError(f"{source.name}: must be Parquet, but could not be read: {exc}") from exc
        file.seek(0)
        while block := file.read(HASH_BYTES):
            digest.update(block)
    return InputFile(source, rows, (), b"", digest.hexdigest(), stamp), schema


def _unify(schemas: list[tuple[str, pa.Schema]]) -> pa.Schema:
    """Return the columns of all files; a file may lack some, but may not give one another type."""
    merged = schemas[0][1]
    for name, schema in schemas[1:]:
        try:
            merged = pa.unify_schemas([merged, schema])
        except (pa.ArrowInvalid, pa.ArrowTypeError) as exc:
            raise DataError(f"{name}: its columns must have the types of the files before it, but: {exc}") from exc
    return merged


class _Tap:
    """Lines of a file, with the offset of the last one and a digest of all."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.start = 0
        self.stop = 0

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
        start = tap.stop
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as exc:
            if not named:
                raise DataError(f"{source.name}:1: the first line must name the columns, but: {exc}.") from exc
            cells = [""]
        if not cells:
            continue
        if named:
            yield start
        else:
            kinds.name_all(cells, source.name)
            named = True
