"""The input of a job: its files and their shards, and what is remembered of a scan.

Comes in: a path, glob, folder or URI. Goes out: `Source`s, and an `Input` that an earlier run scanned. Must not know
tasks or models. `scanning.py` makes an `Input`.

How a file is cut: every `shard_rows` rows, never across files. Text formats are cut at byte offsets where a record
begins, so that a worker reads its own range only.
"""

import base64
import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from t5ray.data.sources import FORMATS, Found, Source, find_sources, version_of
from t5ray.errors import DataError

TEXT = "text"
"""Format of `.txt`: every line is a row with the one column `text`."""
INPUT_FORMATS = {**FORMATS, ".txt": TEXT}
"""Suffix -> format; all but Parquet may be packed."""
DELIMITERS = {"csv": ",", "tsv": "\t"}
NO_VERSION = "no time known"
"""End of the stamp of a file whose file system gives neither time nor version."""


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
    attempts: int = 0
    """How often earlier runs scored it: only its rows with an error are scored again, unless its entry was lost."""


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
    """What tells a change without reading: size, and time or version, where there is one. Another file of equal size
    and time is not told from it: numbers of inodes differ from mount to mount on some shares, and time stamps of them
    change with rights."""

    def require_unchanged(self) -> None:
        """Refuse a file that is not the one that was scanned.

        Raises:
            DataError: it is another by now, or gone.
        """
        if stamp_of(self.source) != self.stamp:
            raise self.changed()

    def changed(self) -> DataError:
        """Return what is to be said where it did change."""
        return DataError(
            f"{self.source.name}: the input must not change while it is scored, but it did. Run the same command "
            "again: it goes on where the content is still the same, and says so where it is not."
        )


@dataclass(frozen=True)
class Input:
    """All rows of a job, in order."""

    files: tuple[InputFile, ...]
    schema: pa.Schema
    """Every column with its type in Parquet; a field with metadata `json` holds JSON text there."""
    shard_rows: int
    """Rows of a shard, at most."""

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """All shards, in order."""
        return tuple(_cut(self.files, self.shard_rows))

    @property
    def num_shards(self) -> int:
        """Count the shards without making them."""
        return sum(-(-file.num_rows // self.shard_rows) for file in self.files)

    @property
    def num_rows(self) -> int:
        """Rows of all files."""
        return sum(file.num_rows for file in self.files)

    @property
    def digests(self) -> list[list[str]]:
        """Return name and content digest of each file, in order."""
        return [[file.source.name, file.sha256] for file in self.files]


def _cut(files: Sequence[InputFile], shard_rows: int) -> Iterator[Shard]:
    index = 0
    for number, file in enumerate(files):
        for place, first in enumerate(range(0, file.num_rows, shard_rows)):
            start, stop = file.marks[place : place + 2] if file.marks else (0, 0)
            yield Shard(index, number, first, min(shard_rows, file.num_rows - first), start, stop)
            index += 1


def list_sources(path: str) -> Found:
    """Find the files of an input.

    Raises:
        DataError: nothing is there, or the files are of several formats, which have no common columns.
    """
    found = find_sources(path, INPUT_FORMATS)
    formats = sorted({source.format for source in found.sources})
    if len(formats) > 1:
        raise DataError(f"{path}: all files must be of one format, but found {', '.join(formats)}. Score them apart.")
    return found


def stamp_of(source: Source) -> str:
    """Return size and version of a file: what tells a change without reading it.

    Raises:
        DataError: the file is gone.
    """
    try:
        source.files.invalidate_cache(source.path)
        info = source.files.info(source.path)
    except OSError as exc:
        raise DataError(f"{source.name}: the input file must stay until the job is done, but: {exc}.") from exc
    return f"{info['size']} bytes, {_shown_version(info)}"


def _shown_version(info: Mapping[str, Any]) -> str:
    """Return the time or version of a file as its file system says it."""
    name, value = version_of(info)
    if name == "mtime" and isinstance(value, float):
        return f"changed {datetime.datetime.fromtimestamp(value, datetime.UTC).isoformat()}"
    return f"{name} {value}" if name else NO_VERSION


def are_as_stamped(stamps: Sequence[Sequence[str]], sources: Sequence[Source]) -> bool:
    """Say whether files are known to be those of an earlier run without reading them; never where one has no version.

    Args:
        stamps: name and stamp of each file then, in order.
    Raises:
        DataError: a file is gone.
    """
    now = [(source.name, stamp_of(source)) for source in sources]
    return [tuple(stamp) for stamp in stamps] == now and not any(stamp.endswith(NO_VERSION) for _, stamp in now)


def remembered(rows: Input) -> dict[str, Any]:
    """Return a scan as JSON can hold it, for `recall`."""
    files = [
        {
            "name": file.source.name,
            "stamp": file.stamp,
            "num_rows": file.num_rows,
            "sha256": file.sha256,
            "header": file.header.decode("latin-1"),
            "marks": list(file.marks),
        }
        for file in rows.files
    ]
    return {"shard_rows": rows.shard_rows, "schema": schema_text(rows.schema), "files": files}


def recall(record: Mapping[str, Any], sources: Sequence[Source]) -> Input | None:
    """Return the scan that an earlier run of the same job made; None where any file may not be as it was then.

    Args:
        record: what `remembered` gave.
    """
    if not are_as_stamped([(file["name"], file["stamp"]) for file in record["files"]], sources):
        return None
    files = [
        InputFile(
            source,
            file["num_rows"],
            tuple(file["marks"]),
            file["header"].encode("latin-1"),
            file["sha256"],
            file["stamp"],
        )
        for source, file in zip(sources, record["files"], strict=True)
    ]
    return Input(tuple(files), schema_of(record["schema"]), record["shard_rows"])


def schema_text(schema: pa.Schema) -> str:
    """Return columns and types as text that JSON can hold, for `schema_of`."""
    return base64.b64encode(schema.serialize()).decode()


def schema_of(text: str) -> pa.Schema:
    """Return the columns and types that `schema_text` was given."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
