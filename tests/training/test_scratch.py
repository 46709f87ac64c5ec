"""Temporary folders: those of killed processes go when another one of their kind is made."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

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
