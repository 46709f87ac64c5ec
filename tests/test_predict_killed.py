"""kill -9 of anything at any moment: the same command goes on, and the result is what an undisturbed run gives.

Where Ray's own process dies, the command says so and ends with 6. Only before it watches them, while Ray starts, may
Ray's native code be first: it ends its driver with exit code 1 and no word, which no code of the driver can change.
"""

import json
import os
import random
import shlex
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.test_predict import arguments, score_without_ray, start, wait_for, write_rows

NUM_KILLS = 12
NUM_ROWS = 1500
VICTIMS = {"worker": "ray::MapWorker", "driver": "", "raylet": "raylet", "gcs": "gcs_server"}


def victims(driver: int, name: str) -> list[psutil.Process]:
    """Return the driver itself, or its descendants of a name."""
    if not name:
        return [psutil.Process(driver)]
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        try:
            if name in (process.cmdline() or [""])[0]:
                found.append(process)
        except psutil.Error:
            continue  # gone meanwhile
    return found


def strike(driver: int, rng: random.Random) -> str:
    """Kill something and say what."""
    kind = rng.choice(list(VICTIMS))
    try:
        found = victims(driver, VICTIMS[kind])
        if found:
            rng.choice(found).send_signal(signal.SIGKILL)
            return kind
    except psutil.NoSuchProcess:
        pass
    return ""


@pytest.mark.integration
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2])
def test_kill_nine_of_anything_at_random_moments_changes_nothing(tiny_t5: Path, tmp_path: Path, seed: int) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", NUM_ROWS)
    sets = ("--set", "shard_rows=10", "--set", "scores=true")
    given = arguments(tiny_t5, rows, tmp_path / "out", *sets, "--format", "jsonl", "--workers", "2")
    rng, killed, codes = random.Random(seed), list[str](), list[int]()
    while 0 not in codes:
        process, before = start(given), len(killed)
        while process.poll() is None:
            time.sleep(rng.uniform(0.5, 15) if len(killed) < NUM_KILLS else 1)
            if len(killed) < NUM_KILLS and process.poll() is None and (victim := strike(process.pid, rng)):
                killed.append(victim)
        shown = process.communicate(timeout=60)[0]
        codes.append(process.returncode)
        assert process.returncode in (0, 1, 6, -signal.SIGKILL), shown
        assert process.returncode != 1 or {"raylet", "gcs"} & set(killed[before:]), shown  # see above
        assert "Traceback" not in shown, shown
    assert len(killed) >= 3
    resumed = sorted((tmp_path / "out").glob("part-*"))
    whole = score_without_ray(given, tmp_path / "whole")
    assert [path.name for path in resumed] == [path.name for path in whole]
    assert [path.read_bytes() for path in resumed] == [path.read_bytes() for path in whole]
    found = [json.loads(line) for path in resumed for line in path.read_text().splitlines()]
    assert [row["id"] for row in found] == list(range(NUM_ROWS))
    assert all(0 < row["score"] < 1 for row in found)
    assert not list((tmp_path / "out").glob(".*")), os.listdir(tmp_path / "out")


@pytest.mark.integration
@pytest.mark.long
@pytest.mark.parametrize(("kind", "name"), [("raylet", "raylet"), ("gcs", "gcs_server")])
def test_a_ray_that_dies_is_said_in_one_paragraph_with_the_command_that_goes_on(
    tiny_t5: Path, tmp_path: Path, kind: str, name: str
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", NUM_ROWS)
    given = arguments(tiny_t5, rows, tmp_path / "out", "--set", "shard_rows=10", "--format", "jsonl")
    process = start(given)
    wait_for(lambda: len(list((tmp_path / "out" / "_ledger").glob("part-*.json"))) >= 2, process)
    victims(process.pid, VICTIMS[kind])[0].kill()
    shown = process.communicate(timeout=60)[0]
    assert process.returncode == 6, shown
    assert shown.splitlines()[-2:] == [
        f"cluster error: Ray's own processes must live as long as the command, but `{name}` died: killed, perhaps for "
        "want of memory. What was finished is kept.",
        f"Go on with: {shlex.join(['python', '-m', 't5ray.predict', *given])}",
    ]
