"""Disks that a test can fill, and the settings of a small job."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from t5ray.config import PredictConfig

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


@pytest.fixture
def settings(tiny_t5: Path, tmp_path: Path) -> PredictConfig:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n')
    return PredictConfig(
        model=str(tiny_t5),
        input=str(tmp_path / "rows.jsonl"),
        output=str(tmp_path / "out"),
        task="classify",
        shard_rows=1,
        precision="fp32",
    )
