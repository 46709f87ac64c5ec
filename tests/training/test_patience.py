"""A storage that is away for a moment costs a run some seconds; one that stays away cuts it off, and fails nothing."""

import errno
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from t5ray.data.tokens import TokenisedData
from t5ray.errors import ClusterError, StorageError
from t5ray.model.loading import load_model
from t5ray.training.checkpoint import LAST
from t5ray.training.group import Group
from t5ray.training.mailbox import Job, Mailbox
from t5ray.training.patience import patiently
from t5ray.training.plan import RunPlan
from t5ray.training.worker import _do
from tests.training.running import curves, run


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of which takes any time."""
    made: list[float] = []

    def paused(pause_s: float, why: str) -> bool:
        made.append(pause_s)
        return True

    monkeypatch.setattr("t5ray.training.patience._paused", paused)
    return made


class Storage:
    """Is away for its first calls."""

    def __init__(self, away: int) -> None:
        self.away = away

    def answer(self, name: str) -> str:
        self.away -= 1
        if self.away >= 0:
            raise ClusterError("s3://bucket: the storage must be reachable, but: ExpiredToken.")
        return name


def test_what_fails_is_tried_again_with_growing_pauses(pauses: list[float]) -> None:
    assert patiently(Storage(away=3).answer, "here") == "here"
    assert pauses == [1.0, 2.0, 4.0]


def test_after_about_a_minute_it_is_given_up(pauses: list[float]) -> None:
    with pytest.raises(StorageError, match=r"but: ExpiredToken\. It was tried 7 times\. .* with --resume\."):
        patiently(Storage(away=99).answer, "here")
    assert sum(pauses) == 63.0


def test_what_is_no_fault_of_the_storage_is_not_tried_again(pauses: list[float]) -> None:
    def broken() -> None:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        patiently(broken)
    assert pauses == []


def test_what_lies_here_is_not_waited_for(pauses: list[float]) -> None:
    def full() -> None:
        raise ClusterError("the disk is full") from OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match=r"the disk is full It was tried 1 time\. .* with --resume\."):
        patiently(full)
    assert pauses == []


WAITS_AT_ITS_END = """
import threading
from t5ray.errors import ClusterError
from t5ray.training.patience import patiently

def away():
    raise ClusterError("away")

threading.Thread(target=patiently, args=[away]).start()
"""


def test_a_process_that_ends_waits_for_no_storage() -> None:
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", WAITS_AT_ITS_END], capture_output=True, text=True, timeout=60)
    assert "StorageError: away It was tried 1 time." in ended.stderr
    assert time.monotonic() - started < 30  # of the 63 s that it would be tried for


def test_a_run_whose_storage_stays_away_is_told_to_go_on_later_and_does(
    tiny_t5: Path,
    data: TokenisedData,
    plan: RunPlan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pauses: list[float],
) -> None:
    expected = curves(run(tiny_t5, data, replace(plan, folder=tmp_path / "undisturbed"))[0])
    there = replace(plan, remote=f"memory://{tmp_path.name}/away")

    taken = MemoryFileSystem.put_file

    def refuse_states(files: MemoryFileSystem, local: str, target: str, **named: Any) -> None:
        if target.endswith(LAST):
            raise PermissionError("ExpiredToken")
        taken(files, local, target, **named)

    box = Mailbox()
    box.submit(Job(1, there))
    for epoch in (1, 2, 3):
        box.decide(1, epoch, True)
    with monkeypatch.context() as away:
        away.setattr(MemoryFileSystem, "put_file", refuse_states)
        _do(Job(1, there), load_model(str(tiny_t5)), data, Group(), box)
    messages = [box.next_message(1, index, wait_s=0) for index in (0, 1)]
    assert [message is not None and message.away for message in messages] == [False, True]
    assert sum(pauses) == 63.0
    told, _ = run(tiny_t5, data, there)
    assert curves(told) == expected
