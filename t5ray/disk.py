"""What survives a power cut, how a full disk is known, and where caches are."""

import errno
import os
import shutil
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Causes of an OSError that say that a disk, or one's share of it, is full."""


def cache_folder(kind: str) -> Path:
    """Return where t5ray keeps what can be had again: in `~/.cache/t5ray`, or where XDG_CACHE_HOME says."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t5ray" / kind


def publish_dir(made: Path, target: Path) -> None:
    """Move a finished folder to its place, where it so appears whole or not at all, also after a power cut.

    Where another process put its own meanwhile, that one stays.
    """
    for path in made.rglob("*"):
        sync(path)
    sync(made)
    try:
        made.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(made)
    sync(target.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk itself."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
