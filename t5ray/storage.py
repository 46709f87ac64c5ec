"""The folders that results go to, on this machine or at an fsspec URI.

Comes in: a path or URI. Goes out: files, here or there. Must not know what is in them.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from t5ray.errors import ClusterError

DOWNLOAD = ".download-"
"""Begins the names of folders beside a target in which it arrives."""


def is_uri(path: str) -> bool:
    """Say whether a path names a file system other than this machine's: `s3://bucket/runs`."""
    scheme, separator, _ = path.partition("://")
    return bool(separator) and scheme not in ("file", "local")


def local_path(path: str) -> Path:
    """Return the path of a folder on this machine, given plain or as file://.

    Raises:
        ClusterError: the path is a URI of another file system.
    """
    if is_uri(path):
        raise ClusterError(f"{path}: must be a folder of this machine or a mounted share, but is a URI.")
    return Path(path.partition("://")[2] or path)


def upload_dir(local: Path, target: str) -> None:
    """Copy a folder's content into a folder or URI, which is made where it does not exist.

    Raises:
        ClusterError: the storage refuses.
    """
    _copy(str(local), target, target, upload=True)


def replace_remote(local: Path, target: str, *, key: str) -> None:
    """Copy a folder's files in place of what a folder or URI held; one process at a time may.

    Storage without renames cannot do so at once. So the file without which nobody takes the folder for whole goes
    first and comes last: where this broke off, what is there is unfinished, never a mixture of two.

    Args:
        key: path of that file in the folder.
    Raises:
        ClusterError: the storage refuses.
    """
    with _reachable(target) as (there, root), suppress(FileNotFoundError):
        there.rm(f"{root.rstrip('/')}/{key}")
    remove_dir(target)
    files = sorted(path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file())
    with _reachable(target) as (there, root):
        for folder in sorted({f"{root.rstrip('/')}/{name}".rpartition("/")[0] for name in files}):
            there.makedirs(folder, exist_ok=True)
        for names in ([name for name in files if name != key], [key]):
            there.put([f"{local}/{name}" for name in names], [f"{root.rstrip('/')}/{name}" for name in names])


def download_dir(source: str, local: Path) -> None:
    """Copy the content of a folder or URI into a local folder, which is made where it does not exist.

    Raises:
        ClusterError: nothing is there, or the storage refuses.
    """
    local.mkdir(parents=True, exist_ok=True)
    _copy(source, str(local), source, upload=False)


def replace_dir(source: str, local: Path) -> None:
    """Copy a folder or URI here in place of what a folder held; it appears whole or not at all.

    Raises:
        ClusterError: nothing is there, or the storage refuses.
    """
    local.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=DOWNLOAD, dir=local.parent) as folder:
        download_dir(source, Path(folder, local.name))
        shutil.rmtree(local, ignore_errors=True)
        Path(folder, local.name).replace(local)


def upload_file(path: Path, target: str) -> None:
    """Copy a file into a folder or URI, which is made where it does not exist.

    Raises:
        ClusterError: the storage refuses.
    """
    with _reachable(target) as (files, root):
        files.makedirs(root, exist_ok=True)
        files.put_file(str(path), f"{root.rstrip('/')}/{path.name}")


def download_file(source: str, local: Path) -> None:
    """Copy a file from a path or URI here; it appears whole or not at all, whoever else copies it.

    Raises:
        ClusterError: nothing is there, or the storage refuses.
    """
    local.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=DOWNLOAD, dir=local.parent) as folder:
        with _reachable(source) as (files, root):
            files.get_file(root, f"{folder}/{local.name}")
        Path(folder, local.name).replace(local)


def read_remote(path: str) -> bytes | None:
    """Return what a file here or at a URI holds; None where it is not there.

    Raises:
        ClusterError: the storage refuses to say.
    """
    with _reachable(path) as (files, root):
        files.invalidate_cache()
        try:
            return bytes(files.cat_file(root))
        except FileNotFoundError:
            return None


def is_there(path: str) -> bool:
    """Say whether a file or folder exists here or at a URI.

    Raises:
        ClusterError: the storage refuses to say.
    """
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(path)
        files.invalidate_cache()
        return bool(files.exists(root))
    except Exception as exc:  # drivers raise errors of every class
        raise ClusterError(
            f"{path}: the storage must be reachable, but: {exc}. Check address and credentials."
        ) from exc


def names_in(path: str) -> list[str]:
    """Return the names of what a folder or URI holds; none where it is not there.

    Raises:
        ClusterError: the storage refuses to say.
    """
    with _reachable(path) as (files, root):
        files.invalidate_cache()
        return sorted(PurePosixPath(name).name for name in files.ls(root, detail=False)) if files.exists(root) else []


def remove_dir(path: str) -> None:
    """Delete a folder here or at a URI; one that is not there is deleted already.

    Raises:
        ClusterError: the storage refuses.
    """
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(path)
        if files.exists(root):
            files.rm(root, recursive=True)
    except Exception as exc:  # drivers raise errors of every class
        raise ClusterError(f"{path}: the storage must let us delete, but: {exc}. Check credentials.") from exc


def _copy(source: str, target: str, remote: str, *, upload: bool) -> None:
    with _reachable(remote) as (files, root):
        if upload:
            files.makedirs(root, exist_ok=True)
            files.put(source.rstrip("/") + "/", root.rstrip("/") + "/", recursive=True)
        else:
            files.get(root.rstrip("/") + "/", target.rstrip("/") + "/", recursive=True)


@contextmanager
def _reachable(uri: str) -> Iterator[tuple[Any, str]]:
    """Give the file system of a folder or URI, and the path in it.

    Raises:
        ClusterError: what was done with it failed.
    """
    import fsspec

    try:
        yield fsspec.core.url_to_fs(uri)
    except Exception as exc:  # drivers raise errors of every class
        raise ClusterError(
            f"{uri}: the storage must be reachable and writable, but: {exc}. Check address and credentials."
        ) from exc


def free_bytes(path: str | Path) -> int | None:
    """Return what is free on the disk that holds (or will hold) a path; None at a URI, where nobody says."""
    if is_uri(str(path)):
        return None
    folder = local_path(str(path)).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
