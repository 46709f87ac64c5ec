"""A file -> its rows, each with the place where it stands.

Comes in: a `Source`. Goes out: `Row`s, and a `BadRow` where a line is no row, so that one reading finds every problem.
Types are kept: numbers of JSON and Parquet stay numbers; CSV cells are strings, an empty cell is an empty string.
Must not know tasks. Text must be UTF-8; a byte order mark is accepted.
"""

import codecs
import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from t5ray.data.sources import Source
from t5ray.errors import DataError, one_line

MOST_NESTED = 256
"""Lists and objects inside each other in a row, at most: all that handles rows can, wherever it is called."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record as the file holds it."""

    place: str
    """`topics.jsonl:17` (line), or `topics.parquet row 17` where a format has no lines. Both count from 1."""
    values: Mapping[str, Any]
    """Column -> value."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A line that cannot be read as a record."""

    place: str
    reason: str
    """What must hold and what was found."""
    raw: bytes = b""
    """What the file holds there."""


RowStream = Iterator[Row | BadRow]


def read_source(source: Source) -> RowStream:
    """Read one file.

    Raises:
        DataError: the file as a whole is unreadable or not of its format. Raised while iterating.
    """
    with source.open() as file:
        yield from READERS[source.format](file, source.name)


def _read_csv(file: IO[bytes], name: str, delimiter: str = ",") -> RowStream:
    csv.field_size_limit(sys.maxsize)  # the default of 131,072 characters is less than a long document
    text = _Taken(io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=""))
    lines = csv.reader(text, delimiter=delimiter, strict=True)
    header = _csv_header(lines, name)
    while True:
        place = f"{name}:{lines.line_num + 1}"
        text.lines.clear()
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as exc:
            reason = f"quotes must enclose whole cells and be doubled inside them, but: {exc}"
            yield BadRow(place, f"{reason}{text.span}", text.raw)
            continue
        if cells:
            row = _csv_row(header, cells, place)
            yield BadRow(place, f"{row.reason}{text.span}", text.raw) if isinstance(row, BadRow) else row


class _Taken:
    """Lines of a text, with those that csv took since somebody cleared them: a record may have several."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.lines = list[str]()

    def __iter__(self) -> Iterator[str]:
        for line in self._text:
            self.lines.append(line)
            yield line

    @property
    def raw(self) -> bytes:
        return "".join(self.lines).rstrip("\r\n").encode("utf-8", "surrogateescape")

    @property
    def span(self) -> str:
        """Say how many lines were taken for one row, where it is more than one."""
        return f", in {len(self.lines)} lines that a quote makes one row" if len(self.lines) > 1 else ""


def _csv_header(lines: Any, name: str) -> list[str]:
    """Read the first line that is not blank."""
    try:
        header: list[str] = next((cells for cells in lines if cells), [])
    except csv.Error as exc:
        raise DataError(f"{name}:1: the first line must name the columns, but it cannot be read: {exc}.") from exc
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise DataError(f"{name}:1: each column must have a name of its own, but {twice[0]!r} stands there twice.")
    if wrong := _undecodable(header):
        raise DataError(f"{name}:1: {wrong}. Save the file as UTF-8.")
    return header


def _csv_row(header: list[str], cells: list[str], place: str) -> Row | BadRow:
    if len(cells) != len(header):
        return BadRow(place, f"a line must have {len(header)} cells, as the header has, but has {len(cells)}")
    if wrong := _undecodable(cells):
        return BadRow(place, wrong)
    return Row(place, dict(zip(header, cells, strict=True)))


def _undecodable(cells: list[str]) -> str:
    """Describe the first byte that was no UTF-8 (read as a surrogate), if any."""
    joined = "".join(cells)
    try:
        joined.encode()
    except UnicodeEncodeError as exc:
        return f"text must be UTF-8, but holds byte 0x{ord(joined[exc.start]) & 0xFF:02x}"
    return ""


def _read_tsv(file: IO[bytes], name: str) -> RowStream:
    return _read_csv(file, name, delimiter="\t")


def read_json_lines(file: IO[bytes], name: str, *, is_start: bool = True) -> RowStream:
    """Read JSON lines.

    Args:
        is_start: a byte order mark may open the first line; False where that is not the first of its file.
    """
    for number, line in enumerate(file, start=1):
        content = (line.removeprefix(codecs.BOM_UTF8) if is_start and number == 1 else line).rstrip()
        if content:
            yield _json_row(content, f"{name}:{number}")


def _json_row(line: bytes, place: str) -> Row | BadRow:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as exc:
        return BadRow(place, f"text must be UTF-8, but holds byte 0x{line[exc.start]:02x}", line)
    except json.JSONDecodeError as exc:
        reason = f"a line must be one JSON object, but does not parse: {exc.msg} at column {exc.colno}"
        return BadRow(place, reason, line)
    except (ValueError, RecursionError) as exc:  # a number of thousands of digits; thousands of brackets
        return BadRow(place, f"a line must be one JSON object, but does not parse: {exc}", line)
    if line.count(b"[") + line.count(b"{") > MOST_NESTED and _is_too_deep(value):
        return _too_deep(place, line)
    return Row(place, value) if isinstance(value, dict) else _no_object(value, place, line)


def _is_too_deep(value: object) -> bool:
    inside = [value]
    for _ in range(MOST_NESTED + 1):
        parts = [part for part in inside if isinstance(part, list | dict)]
        inside = [item for part in parts for item in (part.values() if isinstance(part, dict) else part)]
        if not parts:
            return False
    return True


def _too_deep(place: str, raw: bytes) -> BadRow:
    return BadRow(place, f"lists and objects must be inside each other at most {MOST_NESTED} deep, but are deeper", raw)


def _no_object(value: object, place: str, raw: bytes) -> BadRow:
    return BadRow(place, f"a row must be a JSON object, but is {_json_kind(value)}", raw)


def _json_kind(value: object) -> str:
    kinds = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


def _read_json(file: IO[bytes], name: str) -> RowStream:
    """Read a list of objects; a file that opens with an object is read as JSON lines."""
    data = file.read().removeprefix(codecs.BOM_UTF8)
    if data.lstrip()[:1] != b"[":
        yield from read_json_lines(io.BytesIO(data), name, is_start=False)
        return
    for number, value in enumerate(_parse_json(data, name), start=1):
        place = f"{name} row {number}"
        if _is_too_deep(value):
            yield _too_deep(place, b"")
        else:
            yield Row(place, value) if isinstance(value, dict) else _no_object(value, place, json.dumps(value).encode())


def _parse_json(data: bytes, name: str) -> list[Any]:
    try:
        values: list[Any] = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise DataError(f"{name}:{line}: text must be UTF-8, but holds byte 0x{data[exc.start]:02x}.") from exc
    except json.JSONDecodeError as exc:
        raise DataError(
            f"{name}:{exc.lineno}: the file must hold a JSON list of objects, but does not parse: "
            f"{exc.msg} at column {exc.colno}."
        ) from exc
    except (ValueError, RecursionError) as exc:
        raise DataError(f"{name}: the file must hold a JSON list of objects, but does not parse: {exc}.") from exc
    return values


def _read_parquet(file: IO[bytes], name: str) -> RowStream:
    import pyarrow as pa  # heavy, and most data are text
    import pyarrow.parquet

    from t5ray.data.cells import values_of

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=4096):
            rows, wrong = values_of(batch)
            for offset, values in enumerate(rows):
                number += 1
                place = f"{name} row {number}"
                yield BadRow(place, wrong[offset]) if offset in wrong else Row(place, values)
    except (pa.ArrowException, OSError) as exc:
        reason = one_line(exc)
        raise DataError(f"{name}: the file must be Parquet, but could not be read: {reason}") from exc


READERS: dict[str, Callable[[IO[bytes], str], RowStream]] = {
    "csv": _read_csv,
    "tsv": _read_tsv,
    "jsonl": read_json_lines,
    "json": _read_json,
    "parquet": _read_parquet,
}
