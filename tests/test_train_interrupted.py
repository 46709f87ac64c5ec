"""Ctrl-C and SIGTERM on a `train` of its own process: a tidy end, nothing left behind, and the rest on --resume."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

EPOCHS = 15
END_S = 15
"""How long an interrupted command may take to end."""


def command(folder: Path, words: Path, model: Path, workers: int) -> list[str]:
    given = {"data": words, "task": "classify", "model": model, "storage": folder / "runs", "name": "words"}
    given |= {"max-epochs": EPOCHS, "workers-per-trial": workers, "tracking-uri": "none"}
    flags = [word for flag, value in given.items() for word in (f"--{flag}", str(value))]
    return [sys.executable, "-m", "t5ray.train", *flags, "--set", "training.batch_size=8"]


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start a command as the leader of a process group, as a shell does; its temporary files go to the folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(words, text=True, start_new_session=True, env=environment, **streams)  # type: ignore[call-overload, no-any-return]


def family_at_work(process: subprocess.Popen[str], run: Path) -> list[psutil.Process]:
    """Wait until an epoch is saved; return the processes that the command started, Ray's included."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        if list(run.glob("state/*/last.pt")):
            return psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.1)
    raise AssertionError("the run saved no epoch within two minutes")


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder with a short name: Ray keeps its sockets there, whose paths may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="t5", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("how", "workers"),
    [
        ("SIGINT", 1),
        pytest.param("SIGTERM", 1, marks=pytest.mark.long),
        pytest.param("SIGINT", 2, marks=pytest.mark.long),
        pytest.param("SIGTERM", 2, marks=pytest.mark.long),
    ],
)
def test_an_interrupted_train_ends_tidily_and_goes_on(
    tmp_path: Path, scratch: Path, words: Path, tiny_t5: Path, how: str, workers: int
) -> None:
    given = command(tmp_path, words, tiny_t5, workers)
    run = tmp_path / "runs/words"
    process = start(given, scratch)
    family = family_at_work(process, run)
    started = time.monotonic()
    if how == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)  # a terminal tells the whole group
    else:
        process.send_signal(signal.SIGTERM)
    shown = process.communicate(timeout=60)[0]
    assert process.returncode == 130, shown
    assert time.monotonic() - started < END_S
    assert "Traceback" not in shown
    assert " --resume" in next(line for line in shown.splitlines() if "Go on with: python -m t5ray.train" in line)
    _, alive = psutil.wait_procs(family, timeout=END_S)
    assert alive == []
    assert not list(scratch.glob("t5ray-train-*"))
    assert not (run / "train.json").exists()

    resumed = start([*given, "--resume"], scratch)
    shown = resumed.communicate(timeout=240)[0]
    assert resumed.returncode == 0, shown
    epochs = json.loads((run / "train.json").read_text())["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, EPOCHS + 1))
    assert not (run / "state").exists()
