"""A command that is let stand still, and the time that counts for it."""

import time
from pathlib import Path

import psutil
import pytest

from benchmarks.scoring_job_overhead import within
from benchmarks.watch import Command

PARENT = """
import subprocess, sys, time
child = "import time\\nwhile True:\\n    time.sleep(0.01)\\n    open('child', 'w').close()"
subprocess.Popen([sys.executable, "-c", child])
while True:
    time.sleep(0.01)
    open("parent", "w").close()
"""


def is_alive(path: Path, within_s: float) -> bool:
    """Say whether something touches the file within so many seconds."""
    path.unlink(missing_ok=True)
    until = time.monotonic() + within_s
    while time.monotonic() < until and not path.exists():
        time.sleep(0.01)
    return path.exists()


def test_a_command_stands_still_with_what_it_started_until_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parent_and_child.py").write_text(PARENT)
    command = Command(["parent_and_child"], watch=False)
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "child").exists() and time.monotonic() < until:
            time.sleep(0.01)
        parent = next(one for one in psutil.Process().children() if "parent_and_child" in one.cmdline())
        processes = [parent, *parent.children(recursive=True)]
        for _ in range(2):
            command.suspend()
            until = time.monotonic() + 60
            while {one.status() for one in processes} != {psutil.STATUS_STOPPED} and time.monotonic() < until:
                time.sleep(0.01)
            assert not is_alive(tmp_path / "parent", 0.5)
            assert not is_alive(tmp_path / "child", 0.5)
            command.resume()
            assert is_alive(tmp_path / "parent", 60)
            assert is_alive(tmp_path / "child", 60)
        command.suspend()
    finally:
        command.destroy()
    gone, alive = psutil.wait_procs(processes, timeout=60)
    assert (len(gone), alive) == (2, [])


def test_only_its_turns_count_for_a_side() -> None:
    turns = [(0.0, 2.0), (5.0, 9.0), (20.0, 25.0)]
    assert within(turns, (1.0, 7.0)) == 3.0
    assert within(turns, (2.5, 4.0)) == 0.0
    assert within(turns, (0.0, 30.0)) == 11.0
