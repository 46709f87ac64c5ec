"""A single run whose command is killed (SIGKILL) goes on and ends with the bits of an undisturbed one."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from t5ray.training.checkpoint import LAST

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(300)]

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def command(tmp_path: Path, words: Path, tiny_t5: Path) -> list[str]:
    flags = {"data": words, "task": "classify", "model": tiny_t5, "max-epochs": 12}
    flags |= {"storage": tmp_path / "runs", "tracking-uri": "none"}
    return [sys.executable, "-m", "t5ray.train", *(w for k, v in flags.items() for w in (f"--{k}", str(v)))]


def finish(command: list[str], *more: str) -> None:
    done = subprocess.run([*command, *more], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr


def kill_after_save(command: list[str], folder: Path, *more: str) -> None:
    """Kill the command, which trains in its own process, soon after it has saved a new state."""
    before = saved_ns(folder)
    process = subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT)
    while saved_ns(folder) in ([], before):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    process.kill()
    process.wait()


def saved_ns(folder: Path) -> list[int]:
    """Return when the run's state was saved."""
    with suppress(FileNotFoundError):  # a new one takes its place at this moment
        return [path.stat().st_mtime_ns for path in folder.glob(f"state/*/{LAST}")]
    return []


def outcome(folder: Path) -> Any:
    record = json.loads((folder / "train.json").read_text())
    fields = ("epoch", "step", "value", "train_loss", "validation_loss", "best_epoch", "best_step")
    epochs = [[epoch[field] for field in fields] for epoch in record["epochs"]]
    return epochs, record["test"], (folder / "best/model.safetensors").read_bytes()


def test_killed_twice_a_run_ends_as_an_undisturbed_one(tmp_path: Path, command: list[str]) -> None:
    finish(command, "--name", "whole")
    folder = tmp_path / "runs/killed"
    kill_after_save(command, folder, "--name", "killed")
    kill_after_save(command, folder, "--name", "killed", "--resume")
    finish(command, "--name", "killed", "--resume")
    assert outcome(tmp_path / "runs/killed") == outcome(tmp_path / "runs/whole")
