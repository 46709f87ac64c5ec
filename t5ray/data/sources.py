"""A path that a user gives -> the files behind it, in a fixed order.

Comes in: a file, glob, folder or fsspec URI. Goes out: `Source`s, which open as bytes. Must not know what a row is.
"""

import bz2
import difflib
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple

import fsspec
from fsspec.registry import known_implementations

from t5ray.errors import DataError, one_line

FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}
"""Suffix -> format. Text formats may be packed: `.csv.gz`."""
PACKINGS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
"""Suffix of a packed file -> what unpacks it."""
UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""What reading a file may raise."""

VERSION_KEYS = (
    *("ETag", "etag", "md5Hash", "Content-MD5", "LastModified", "Last-Modified", "last_modified"),
    *("mtime", "created", "CRC"),
)
"""What file systems call that which changes when a file does; the first that is there counts."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file of rows."""

    name: str
    """How messages call it: its path below what the user named, as text that can be printed."""
    path: str
    """Where it is, in its file system."""
    format: str
    """A value of `FORMATS`."""
    packing: str
    """Key of `PACKINGS`; empty where the file is not packed."""
    files: Any
    """The fsspec file system that holds it."""

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the file for reading, unpacked.

        Raises:
            DataError: the file is gone, unreadable or not packed as its name says; also while the caller reads it.
        """
        with self.reading(), self.files.open(self.path, "rb") as raw:
            yield PACKINGS[self.packing](raw) if self.packing else raw

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Translate what reading the file may raise, for those who keep it open.

        Raises:
            DataError: as `open`.
        """
        try:
            yield
        except UNREADABLE as exc:
            raise DataError(f"{self.name}: the file must be readable to its end, but reading failed: {exc}.") from exc
        except ValueError as exc:
            if type(exc) is not ValueError or "http" not in self.files.protocol:
                raise  # a value of the caller's, not a server that only gives whole files
            reason = one_line(exc).partition(".")[0]  # what follows is advice to programmers
            raise DataError(
                f"{self.name}: the server must let parts of a file be read, but: {reason}. Download the file first."
            ) from exc


class Found(NamedTuple):
    """What is behind a path."""

    sources: list[Source]
    """Sorted by path."""
    notes: list[str]
    """One sentence for each thing that a user may miss in them."""
    links: list[str]
    """The links to folders that were followed, and those that lead nowhere yet."""


def version_of(info: Mapping[str, Any]) -> tuple[str, Any]:
    """Return what changes when a file does, by the name that its file system has for it; two empty texts if nothing.

    Args:
        info: what fsspec says of the file.
    """
    return next(((name, info[name]) for name in VERSION_KEYS if info.get(name)), ("", ""))


def find_sources(path: str, formats: Mapping[str, str] = FORMATS) -> Found:
    """Find the files behind a path.

    Folders are read with all folders below them; links to folders are followed, but to none that is read already.
    Files and folders whose name starts with `.` or `_` are skipped, and so are files of a folder in no known format.

    Args:
        formats: suffix -> format of the files that are known.
    Raises:
        DataError: nothing is there, the URI cannot be reached, or a file that was asked for has no known format.
    """
    with _reaching(path):
        files, root = _file_system(path)
        if files.isfile(root):
            return Found([_source(files, root, PurePosixPath(_without_query(root)).name, formats)], [], [])
        is_folder = files.isdir(root)
        base = root if is_folder else _fixed_part(root)
        found, links = _collect(files, {root: {"type": "directory"}} if is_folder else _matching(files, root), base)
    names = {file: str(PurePosixPath(file).relative_to(base)) for file in found}
    visible = sorted(found)
    if is_folder:
        strange = f"its name ends in none of {_suffixes(formats)}"
        found = {file: reason or ("" if _format_of(file, formats) else strange) for file, reason in found.items()}
    sources = [_source(files, file, names[file], formats) for file in visible if not found[file]]
    if not sources:
        raise DataError(_nothing_there(files, path, root, formats, is_folder=is_folder))
    left_out = [f"{printable(names[file])}: was not read, as {found[file]}." for file in visible if found[file]]
    return Found(sources, [*left_out, *_unread_partitions(path, sources)], links)


def _unread_partitions(path: str, sources: list[Source]) -> list[str]:
    """Say that folders are named like `year=2024`, which other programs read as columns."""
    parts = [part for source in sources for part in PurePosixPath(source.name).parts[:-1] if "=" in part]
    said = f"{path}: what the names of folders say, such as `{parts[0]}`, is not read as a column." if parts else ""
    return [said] if said else []


def printable(text: str) -> str:
    """Return a file's name as text that any output takes: bytes that are no UTF-8 are spelt out."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


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
        reason = one_line(exc)
        raise DataError(f"{path}: the data must be at a path or address that can be reached, but: {reason}.") from exc


def _file_system(path: str) -> tuple[Any, str]:
    """Return the file system of a path or URI, and the path in it."""
    first, separator, _ = path.partition("::")
    if separator and "://" not in path and first not in known_implementations:  # of a file's name, not of a chain
        return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(path))
    files, root = fsspec.core.url_to_fs(path)
    return files, root


def _collect(files: Any, entries: Mapping[str, Mapping[str, Any]], base: str) -> tuple[dict[str, str], list[str]]:
    """Find all files of some entries and of the folders among them, but for what is hidden below `base`.

    Args:
        entries: name -> what the file system says of it.
    Returns:
        File -> why it is not read, empty where it is; and `Found.links`.
    """
    found = dict[str, str]()
    folders, links, followed = list[str](), list[str](), list[str]()

    def take(entries: Mapping[str, Mapping[str, Any]]) -> None:
        for name, info in sorted(entries.items()):
            if _is_hidden(PurePosixPath(name).relative_to(base)):
                continue
            if info.get("islink") and files.isdir(name):
                if name not in links:  # a glob gives it beside the folder that holds it
                    links.append(name)
            elif info["type"] == "directory":
                folders.append(os.path.realpath(name))
                take(files.find(name, detail=True))
            else:
                found[name] = ""
                if info.get("islink") and not files.exists(name):
                    followed.append(name)

    take(entries)
    for link in links:  # which grows meanwhile
        target = os.path.realpath(link)
        if any(_holds(target, folder) or _holds(folder, target) for folder in folders):
            found[link] = "it is a link to a folder that is read already, or holds one that is"
        else:
            followed.append(link)
            take({link: {"type": "directory"}})
    return found, followed


def _holds(folder: str, other: str) -> bool:
    """Say whether who reads one folder reads the other, too."""
    return PurePosixPath(other).is_relative_to(folder) and not _is_hidden(PurePosixPath(other).relative_to(folder))


def _matching(files: Any, pattern: str) -> dict[str, dict[str, Any]]:
    """Return the files and folders that a glob names -> what the file system says of them."""
    return dict(files.glob(pattern, detail=True)) if _has_magic(pattern) else {}


def _has_magic(text: str) -> bool:
    return any(sign in text for sign in "*?[")


def _fixed_part(pattern: str) -> str:
    """Return the folder above the first part of a glob that is not literal."""
    parts = PurePosixPath(pattern).parts
    literal = next((i for i, part in enumerate(parts) if _has_magic(part)), len(parts))
    return str(PurePosixPath(*parts[:literal]))


def _is_hidden(name: PurePosixPath) -> bool:
    return any(part.startswith((".", "_")) for part in name.parts)


def _without_query(path: str) -> str:
    """Return a path as its file is named: what follows `?` in an address of the web may be a signature."""
    return path.partition("?")[0] if path.startswith(("http://", "https://")) else path


def _format_of(path: str, formats: Mapping[str, str]) -> tuple[str, str] | None:
    """Return format and packing; None where the suffix says nothing, nor that of an address with its query."""
    for name in (PurePosixPath(_without_query(path).lower()), PurePosixPath(path.lower())):
        packing = name.suffix if name.suffix in PACKINGS else ""
        kind = formats.get(PurePosixPath(name.stem).suffix if packing else name.suffix)
        if kind and not (packing and kind == "parquet"):
            return kind, packing
    return None


def _suffixes(formats: Mapping[str, str]) -> str:
    return f"{', '.join(formats)}, of text also with {', '.join(PACKINGS)}"


def _source(files: Any, path: str, name: str, formats: Mapping[str, str]) -> Source:
    kind = _format_of(path, formats)
    if kind is None:
        shown = printable(_without_query(path))
        raise DataError(f"{shown}: the name of a file of rows must end in one of {_suffixes(formats)}.")
    return Source(printable(name), path, kind[0], kind[1], files)


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
