"""Which of several states all workers of a run go on from."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from t5ray.training import shared_state
from t5ray.training.checkpoint import LAST
from t5ray.training.group import Group
from t5ray.training.shared_state import share_last
from tests.training.test_checkpoint import killed_between_two_renames, save, step_of
from tests.training.test_resume import flipped


class Worker(Group):
    """One of two workers on different nodes; the second hears what the first said."""

    def __init__(self, rank: int, said: list[Any]) -> None:
        super().__init__()
        self.rank, self.size, self.said = rank, 2, said

    def broadcast(self, value: Any) -> Any:
        if self.rank == 0:
            self.said.append(value)
        return self.said[0]


def test_workers_of_a_node_that_fetch_the_state_at_once_all_have_it(tmp_path: Path) -> None:
    remote, said = f"memory://{tmp_path.name}/states", list[Any]()
    save(tmp_path / "first", 8)
    share_last(tmp_path / "first", remote, Worker(0, said))
    for attempt in range(20):
        folder = tmp_path / f"node-{attempt}"
        killed_between_two_renames(folder)
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(share_last, folder, remote, Worker(1, said)) for _ in range(4)]:
                done.result()
        assert step_of(folder) == 8


@pytest.mark.parametrize(
    ("first", "second", "there", "chosen"),
    [
        ([], [], [], None),
        ([], [], [8], 8),  # another machine
        ([8, 16], [8], [16], 16),  # the second went on from a copy once, and wrote none of its own
        ([8], [16], [16], 16),  # the first is another node than before
        ([8, 16], [8], [8], 16),  # a kill between saving and copying
        ([8, "damaged"], [], [8], 8),
        (["damaged"], [4], [8], 8),
        (["damaged"], ["damaged"], ["damaged"], None),
        ([], [8], [], None),
    ],
)
def test_all_workers_go_on_from_the_newest_state_of_the_first_one_and_the_uri(
    tmp_path: Path, first: list[Any], second: list[Any], there: list[Any], chosen: int | None
) -> None:
    folders = [tmp_path / name for name in ("first", "second", "there")]
    for folder, steps in zip(folders, (first, second, there), strict=True):
        for step in steps:
            save(folder, *((99, flipped) if step == "damaged" else (step,)))
    remote = f"memory://{tmp_path.name}/states"
    if there:
        fsspec.filesystem("memory").put_file(str(folders[2] / LAST), f"/{tmp_path.name}/states/{LAST}")
    said: list[Any] = []
    for rank in (0, 1):
        share_last(folders[rank], remote, Worker(rank, said))
    assert [step_of(folder) for folder in folders[:2]] == [chosen, chosen]
    for folder in folders[:2]:
        assert not folder.exists() or {path.name for path in folder.iterdir()} <= {LAST, "last-but-one.pt"}
    if chosen is not None:
        fsspec.filesystem("memory").get_file(f"/{tmp_path.name}/states/{LAST}", str(tmp_path / LAST))
        assert step_of(tmp_path) == chosen


def test_a_worker_that_fetches_the_state_takes_it_from_no_other_of_its_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, said, there = f"memory://{tmp_path.name}/states", list[Any](), list[bool]()
    save(tmp_path / "first", 16)
    save(tmp_path / "second", 8)
    share_last(tmp_path / "first", remote, Worker(0, said))
    monkeypatch.setattr(shared_state, "download_file", lambda source, local: there.append(local.exists()))
    share_last(tmp_path / "second", remote, Worker(1, said))
    assert there == [True]  # until the new one takes its place


@pytest.mark.parametrize(("rank", "stays"), [(0, False), (1, True)])
def test_what_a_kill_left_of_a_download_is_deleted_before_others_begin_theirs(
    tmp_path: Path, rank: int, stays: bool
) -> None:
    download = tmp_path / "run/.download-x"
    download.mkdir(parents=True)
    share_last(tmp_path / "run", f"memory://{tmp_path.name}/states", Worker(rank, [] if rank == 0 else [-1]))
    assert download.exists() == stays
