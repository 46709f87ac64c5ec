"""Folders for what nobody needs once its process has ended, which a killed process leaves behind."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from t5ray.locking import is_let_go, lock

HELD = ".held"
"""Locked by the process whose folder it is, as long as that lives."""
YOUNG_S = 60.0
"""A younger folder may be one whose process is about to lock it."""


@contextmanager
def scratch(kind: str) -> Iterator[str]:
    """Give a folder among the system's temporary ones, and delete those of its kind whose processes were killed."""
    prefix = f"t5ray-{kind}-"
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # another user's, or another process was faster
            if _is_left(folder):
                shutil.rmtree(folder, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name,
        Path(name, HELD).open("w") as file,
    ):
        lock(file)
        yield name


def _is_left(folder: Path) -> bool:
    held = (folder / HELD).stat(follow_symlinks=False)
    if held.st_uid != os.getuid() or time.time() - held.st_mtime < YOUNG_S:
        return False
    with (folder / HELD).open("r+") as file:  # NFS locks for writers only
        return is_let_go(file)
