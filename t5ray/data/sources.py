"""A path that a user gives -> the files behind it, in a fixed order.

Comes in: a file, glob, folder or fsspec URI. Goes out: `Source`s, which open as bytes. Must not know what a row is.
"""

import difflib
import gzip
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec

from t5ray.errors import DataError

FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}
"""Suffix -> format. Text formats may be packed: `.csv.gz`."""

VERSION_KEYS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "created")
"""What file systems call that which changes when a file does; the first that is there counts."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file of rows."""

    name: str
    """How messages call it: its path below what the user named."""
    path: str
    """Where it is, in its file system."""
    format: str
    """A value of `FORMATS`."""
    packed: bool
    """True where the file is gzip."""
    files: Any
    """The fsspec file system that holds it."""

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the file for reading, unpacked.

        Raises:
            DataError: the file is gone, unreadable or no gzip; also while the caller reads it.
        """
        try:
            with self.files.open(self.path, "rb") as raw:
                yield gzip.GzipFile(fileobj=raw) if self.packed else raw  # type: ignore[misc]
        except (OSError, EOFError, zlib.error) as exc:
            raise DataError(f"{self.name}: the file must be readable to its end, but reading failed: {exc}.") from exc


def version_of(info: Mapping[str, Any]) -> tuple[str, Any]:
    """Return what changes when a file does, by the name that its file system has for it; two empty texts if nothing.

    Args:
        info: what fsspec says of the file.
    """
    return next(((name, info[name]) for name in VERSION_KEYS if info.get(name)), ("", ""))


def find_sources(path: str, formats: Mapping[str, str] = FORMATS) -> tuple[list[Source], list[str]]:
    """Find the files behind a path.

    Folders are read with all folders below them. Files and folders whose name starts with `.` or `_` are skipped, and
    so are files of a folder in no known format.

    Args:
        formats: suffix -> format of the files that are known.
    Returns:
        The sources, sorted by path, and one sentence for each file that was left out for its format.
    Raises:
        DataError: nothing is there, the URI cannot be reached, or a file that was asked for has no known format.
    """
    with _reaching(path):
        files, root = fsspec.core.url_to_fs(path)
        if files.isfile(root):
            return [_source(files, root, PurePosixPath(root).name, formats)], []
        is_folder = files.isdir(root)
        found = _below(files, root) if is_folder else _matching(files, root)
    if not found:
        raise DataError(_nothing_there(files, path, root, formats, is_folder=is_folder))
    base = root if is_folder else _fixed_part(root)
    names = {file: str(PurePosixPath(file).relative_to(base)) for file in found}
    visible = sorted(file for file, name in names.items() if not _is_hidden(name))
    strangers = [file for file in visible if _format_of(file, formats) is None] if is_folder else []
    sources = [_source(files, file, names[file], formats) for file in visible if file not in set(strangers)]
    if not sources:
        raise DataError(_nothing_there(files, path, root, formats, is_folder=is_folder))
    known = _suffixes(formats)
    return sources, [f"{names[file]}: was not read, as its name ends in none of {known}." for file in strangers]


@contextmanager
def _reaching(path: str) -> Iterator[None]:
    """Translate what a file system raises on the way to a path. Drivers raise errors of every class."""
    try:
        yield
    except DataError:
        raise
    except ImportError as exc:
        raise DataError(
            f"{path}: this kind of address needs a driver that is not installed: {exc}. Install it with pip."
        ) from exc
    except Exception as exc:
        reason = " ".join(str(exc).split()) or type(exc).__name__
        raise DataError(f"{path}: the data must be at a path or address that can be reached, but: {reason}.") from exc


def _below(files: Any, root: str) -> set[str]:
    return set(files.find(root))


def _matching(files: Any, pattern: str) -> set[str]:
    """Return the files that a glob names, those in folders that it names included."""
    if not _has_magic(pattern):
        return set()
    found = set[str]()
    for name, info in files.glob(pattern, detail=True).items():
        found |= _below(files, name) if info["type"] == "directory" else {name}
    return found


def _has_magic(text: str) -> bool:
    return any(sign in text for sign in "*?[")


def _fixed_part(pattern: str) -> str:
    """Return the folder above the first part of a glob that is not literal."""
    parts = PurePosixPath(pattern).parts
    literal = next((i for i, part in enumerate(parts) if _has_magic(part)), len(parts))
    return str(PurePosixPath(*parts[:literal]))


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)


def _format_of(path: str, formats: Mapping[str, str]) -> tuple[str, bool] | None:
    """Return format and whether it is packed; None where the suffix says nothing."""
    name = PurePosixPath(path.lower())
    packed = name.suffix == ".gz"
    kind = formats.get(PurePosixPath(name.stem).suffix if packed else name.suffix)
    return None if kind is None or (packed and kind == "parquet") else (kind, packed)


def _suffixes(formats: Mapping[str, str]) -> str:
    return ", ".join(formats)


def _source(files: Any, path: str, name: str, formats: Mapping[str, str]) -> Source:
    kind = _format_of(path, formats)
    if kind is None:
        known = _suffixes(formats)
        raise DataError(f"{path}: the name of a file of rows must end in one of {known}, or these and .gz.")
    return Source(name, path, kind[0], kind[1], files)


def _nothing_there(files: Any, path: str, root: str, formats: Mapping[str, str], *, is_folder: bool) -> str:
    if is_folder:
        return f"{path}: the folder must hold a file of rows ({_suffixes(formats)}), but holds none."
    if _has_magic(root):
        return f"{path}: the pattern must match a file of rows, but matches none. Quote it on the command line."
    return f"{path}: there must be a file, folder or glob of rows, but nothing is there.{_nearest(files, root)}"


def _nearest(files: Any, root: str) -> str:
    """Name the neighbour that was probably meant, if any."""
    wanted = PurePosixPath(root)
    with _reaching(root):
        folder = str(wanted.parent)
        siblings = [PurePosixPath(file).name for file in files.ls(folder, detail=False)] if files.isdir(folder) else []
    near = difflib.get_close_matches(wanted.name, siblings, n=1)
    return f" Did you mean `{near[0]}`?" if near else ""
