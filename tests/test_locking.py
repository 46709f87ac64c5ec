"""Locks between processes."""

import errno
import multiprocessing
from pathlib import Path

import pytest

from t5ray.config import RunConfig
from t5ray.errors import ClusterError
from t5ray.locking import lock
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
