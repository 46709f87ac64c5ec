"""Searches that are killed (SIGKILL) at random points and resumed end as if nothing had been."""

import functools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t5ray.config import SchedulerConfig
from t5ray.search.ledger import Ledger
from t5ray.search.scheduler import Asha

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(580)]

SPACE = "parameters: {learning_rate: {loguniform: [1.0e-4, 1.0e-2]}, dropout: {uniform: [0.0, 0.2]}}\n"
EPOCHS, NUM_TRIALS, SEEDS = 9, 4, 2


@pytest.fixture
def command(tmp_path: Path, words: Path, tiny_t5: Path) -> list[str]:
    (tmp_path / "space.yaml").write_text(SPACE)
    flags = {"data": words, "task": "classify", "model": tiny_t5, "search-space": tmp_path / "space.yaml"}
    flags |= {"num-trials": NUM_TRIALS, "max-epochs": EPOCHS, "max-concurrent": 1, "confirm-seeds": SEEDS}
    flags |= {"storage": tmp_path / "runs", "tracking-uri": "none"}
    return [sys.executable, "-m", "t5ray.tune", *(w for k, v in flags.items() for w in (f"--{k}", str(v)))]


def finish(command: list[str], name: str, *more: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--name", name, *more], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def kill_when(due: Callable[[], bool], after_s: float, command: list[str], name: str, *more: str) -> None:
    """Start the search and kill its driver, and nothing else, some seconds after it is due."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--name", name, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    deadline_s = time.monotonic() + 120
    while not due():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    time.sleep(after_s)
    process.kill()
    process.wait()


def epochs(folder: Path) -> tuple[int, int]:
    """Return how many epochs of trials and of confirming runs are known."""
    path = folder / "state/ledger.json"
    if not path.exists():
        return 0, 0
    saved = json.loads(path.read_text())
    trials, runs = ([len(record["reports"]) for record in saved[part]] for part in ("trials", "confirm_runs"))
    return sum(trials), sum(runs)


def outcome(folder: Path) -> dict[str, Any]:
    """Return what must not depend on a kill: every trial's end and values, the rungs, the confirmation, the winner."""
    found, ledger = json.loads((folder / "search.json").read_text()), Ledger.load(folder / "state/ledger.json")
    rungs = [bracket._rungs for bracket in Asha(SchedulerConfig(), ledger, EPOCHS)._brackets]
    same = ("trial", "state", "reason", "params", "values", "best_epoch", "best_value")
    trials = [{name: trial[name] for name in same} for trial in found["trials"]]
    stops = [record.stopped_epoch for record in ledger.trials.values()]
    kept = sorted(path.name.partition(".")[0] for path in (folder / "state/trials").iterdir())
    parts = {name: found[name] for name in ("best", "default", "confirm", "test")}
    return {"trials": trials, "rungs": rungs, "stops": stops, "kept": kept, **parts}


def test_killed_anywhere_a_search_ends_as_an_undisturbed_one(tmp_path: Path, command: list[str]) -> None:
    """Three kills at random points of the trials, and one among the runs that confirm the best."""
    finish(command, "whole")
    whole = tmp_path / "runs/whole"
    of_trials, of_confirming = epochs(whole)
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 1_000_000))
    generator = random.Random(seed)
    points = sorted(generator.sample(range(of_trials), 3))
    folder, resume = tmp_path / "runs/killed", list[str]()
    for point in points:
        due = functools.partial(lambda least: epochs(folder)[0] >= least, point)
        kill_when(due, generator.uniform(0.0, 0.3), command, "killed", *resume)
        resume = ["--resume"] if (folder / "state/ledger.json").exists() else []
    confirmed = generator.randrange(1, of_confirming)
    kill_when(lambda: epochs(folder)[1] >= confirmed, generator.uniform(0.0, 0.3), command, "killed", *resume)
    finish(command, "killed", "--resume")
    assert outcome(folder) == outcome(whole), f"KILL_SEED={seed}: killed after epochs {points} and {confirmed}"
