"""Locks between processes."""

import errno
import multiprocessing
import shutil
import threading
import time
from pathlib import Path
from typing import IO

import pytest

from t5ray import locking
from t5ray.config import RunConfig
from t5ray.errors import ClusterError
from t5ray.locking import lock, turn
from t5ray.training.place import Place


def gets_it(path: Path) -> bool:
    with path.open("w") as file:
        return lock(file)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        with path.open("w") as file:
            assert lock(file)
            assert not pool.apply(gets_it, (path,))
        assert pool.apply(gets_it, (path,))


@pytest.mark.parametrize(
    ("number", "locked"), [(errno.EWOULDBLOCK, False), (errno.ENOLCK, True), (errno.ENOTSUP, True)]
)
def test_a_file_system_without_locks_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, locked: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr("fcntl.flock", refuse)
    assert gets_it(tmp_path / "lock") == locked


def most_at_once(paths: list[Path]) -> int:
    """Let a thread take ten turns at each path, and return how many had one at a time."""
    at_once, most, book = 0, 0, threading.Lock()

    def take_turns(path: Path) -> None:
        nonlocal at_once, most
        for _ in range(10):
            with turn(path):
                with book:
                    at_once += 1
                    most = max(most, at_once)
                time.sleep(0.01)
                with book:
                    at_once -= 1

    threads = [threading.Thread(target=take_turns, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return most


def test_turns_are_had_one_after_the_other(tmp_path: Path) -> None:
    assert most_at_once([tmp_path / "one", tmp_path / "one", tmp_path / "one"]) == 1
    assert most_at_once([tmp_path / "one", tmp_path / "two", tmp_path / "three"]) > 1


def test_a_turn_that_does_not_come_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "LONGEST_WAIT_S", 0.2)
    started = time.monotonic()
    with turn(tmp_path / "lock"), turn(tmp_path / "lock"):
        assert 0.2 <= time.monotonic() - started < 10


def test_two_runs_do_not_work_in_one_folder(tmp_path: Path) -> None:
    place = Place.of(RunConfig(storage=str(tmp_path), name="one"))
    with place.held(), pytest.raises(ClusterError, match="one process at a time must work here, but another one"):
        place.held().__enter__()
    with place.held():
        pass


def test_a_command_that_was_refused_leaves_no_folder(tmp_path: Path) -> None:
    place = Place.of(RunConfig(storage=str(tmp_path), name="one"))
    with place.held():
        (place.folder / "state/trials").mkdir()
    assert not place.folder.exists()
    with place.held():
        (place.folder / "search.json").touch()
    assert place.folder.exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no file system of processes")
@pytest.mark.parametrize("storage", ["/proc", "/proc/runs"])
def test_a_storage_in_which_no_folder_can_be_made_is_refused(storage: str) -> None:
    place = Place.of(RunConfig(storage=storage, name="one"))
    wanted = f"{storage}/one: --storage must be writable, but: .*No such file or directory.* Choose another one"
    with pytest.raises(ClusterError, match=wanted):
        place.held().__enter__()


def test_a_folder_that_another_command_deletes_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, opened, missed = Place.of(RunConfig(storage=str(tmp_path), name="one")), Path.open, 0

    def deleted_before(path: Path, mode: str) -> IO[str]:
        nonlocal missed
        missed += 1
        if missed < 10:
            shutil.rmtree(place.folder)
        return opened(path, mode)

    monkeypatch.setattr(Path, "open", deleted_before)
    with place.held():
        assert missed == 10
