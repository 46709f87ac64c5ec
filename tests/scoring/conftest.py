"""Disks that a test can fill."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Remount = Callable[[str], None]
"""Takes mount options, such as `size=1m` or `ro`."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Remount]]:
    """A disk of 64 kB, and what changes it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk, lambda options: _run("mount", "-o", f"remount,{options}", str(disk))
    _run("umount", str(disk))


def _run(*words: str) -> None:
    subprocess.run(words, check=True)
