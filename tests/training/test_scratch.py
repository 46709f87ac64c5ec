"""Temporary folders: those of killed processes go when another one of their kind is made."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

import pytest

from t5ray.training import scratch as module
from t5ray.training.scratch import scratch

HOLDS = """
import time
from t5ray.training.scratch import scratch
with scratch("tune") as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


def held(folder: Path) -> "tuple[subprocess.Popen[str], Path]":
    """Start a process that has a folder, and return it."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    process = subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_only_folders_of_killed_processes_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    living, its = held(tmp_path)
    killed, left = held(tmp_path)
    try:
        (left / "tune").mkdir()
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        others = [
            tmp_path / name for name in ("t5ray-tune-older", "t5ray-train-x")
        ]  # of no known owner, of another kind
        for path in others:
            path.mkdir()
        with scratch("tune"):
            assert left.exists()  # so young that it might be locked in a moment
        monkeypatch.setattr(module, "YOUNG_S", 0.0)
        with scratch("tune") as mine:
            assert {path for path in tmp_path.iterdir() if path.is_dir()} == {its, Path(mine), *others}
        assert not Path(mine).exists()
    finally:
        for process in (living, killed):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.mark.parametrize("code", [errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_folder_stays_where_nobody_can_tell_whether_its_process_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*given: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "YOUNG_S", 0.0)
    monkeypatch.setattr(fcntl, "flock", refuse)
    with scratch("tune") as living, scratch("tune"):
        assert Path(living).is_dir()


def test_a_folder_is_let_go_of_where_only_writers_may_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS, where an exclusive lock is one of a range of the file, for those that have it open for writing."""

    def as_nfs(file: IO[str], operation: int) -> None:
        if not file.writable():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "YOUNG_S", 0.0)
    monkeypatch.setattr(fcntl, "flock", as_nfs)
    left = tmp_path / "t5ray-tune-left"
    left.mkdir()
    (left / module.HELD).touch()
    with scratch("tune"):
        assert not left.exists()
