import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t5ray.errors import ClusterError, DataError
from t5ray.scoring.journal import (
    LIMIT,
    MOST_DEATHS_IN_VAIN,
    Journal,
    Slice,
    Stage,
    forget_all,
    journal_file,
    rows_under_way,
)


def notes(tmp_path: Path) -> Path:
    return journal_file(tmp_path, tmp_path / "part-00000.csv")


def test_without_deaths_the_rows_are_cut_evenly(tmp_path: Path) -> None:
    assert Journal(notes(tmp_path)).slices(5, 2) == [((0, 2), False), ((2, 4), False), ((4, 5), False)]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(num_rows=st.integers(1, 40), size=st.integers(1, 16), data=st.data())
def test_the_row_that_kills_is_found_and_all_others_are_scored(
    tmp_path: Path, num_rows: int, size: int, data: st.DataObject
) -> None:
    deadly = data.draw(st.integers(0, num_rows - 1))
    notes(tmp_path).unlink(missing_ok=True)
    for _ in range(100):  # one round is the life of one worker
        journal, scored, guilty, died = Journal(notes(tmp_path)), set[int](), set[int](), False
        for (start, stop), is_deadly in journal.slices(num_rows, size):
            if is_deadly:
                guilty |= set(range(start, stop))
                continue
            journal.begin((start, stop))
            if start <= deadly < stop:
                died = True
                break
            scored |= set(range(start, stop))
        if not died:
            break
    assert guilty == {deadly}
    assert scored == set(range(num_rows)) - {deadly}


def die_at(tmp_path: Path, part: Slice, num_rows: int = 4) -> None:
    """Leave the notes of a worker that dies as it scores a slice."""
    journal = Journal(notes(tmp_path))
    journal.slices(num_rows, 4)
    journal.begin(part)


def test_one_death_may_be_anybodys(tmp_path: Path) -> None:
    die_at(tmp_path, (0, 4))
    assert Journal(notes(tmp_path)).slices(4, 4) == [((0, 4), False)]
    for _ in range(LIMIT - 1):
        die_at(tmp_path, (0, 4))
    journal = Journal(notes(tmp_path))
    assert journal.slices(4, 4) == [((0, 2), False), ((2, 4), False)]
    assert journal.num_deaths == LIMIT


def test_deaths_at_a_row_are_none_of_the_row_that_stands_in_its_place_among_others(tmp_path: Path) -> None:
    for part in ((0, 4), (0, 4), (0, 2), (0, 1), (0, 1)):
        die_at(tmp_path, part)
    assert Journal(notes(tmp_path)).slices(4, 4)[0] == ((0, 1), True)
    assert Journal(notes(tmp_path)).slices(8, 4) == [((0, 4), False), ((4, 8), False)]


def test_a_death_while_a_shard_waits_is_none_of_its_own(tmp_path: Path) -> None:
    with Journal(notes(tmp_path)).at(Stage.READ):
        assert Journal(notes(tmp_path)).num_deaths == 1  # as it is read, that is what killed
    assert Journal(notes(tmp_path)).num_deaths == 0
    for _ in range(2):
        die_at(tmp_path, (0, 4))
    with Journal(notes(tmp_path)).at(Stage.WRITE):
        pass
    assert Journal(notes(tmp_path)).num_deaths == 2


def test_a_death_beside_others_only_says_that_there_was_one(tmp_path: Path) -> None:
    journal = Journal(notes(tmp_path))
    journal.is_alone = False
    journal.slices(4, 4)
    journal.begin((0, 4))
    journal = Journal(notes(tmp_path))
    assert journal.num_deaths == 1
    assert journal.slices(4, 4) == [((0, 4), False)]
    for _ in range(MOST_DEATHS_IN_VAIN):
        die_at(tmp_path, (0, 4))
    Journal(notes(tmp_path)).require_hope()
    die_at(tmp_path, (0, 4))
    with pytest.raises(ClusterError, match=f"but {MOST_DEATHS_IN_VAIN + 1} died on it"):
        Journal(notes(tmp_path)).require_hope()


def test_notes_that_were_lost_with_a_nodes_power_say_that_there_was_a_death(tmp_path: Path) -> None:
    for _ in range(2):
        die_at(tmp_path, (0, 4))
        notes(tmp_path).write_bytes(b"")
    journal = Journal(notes(tmp_path))
    assert journal.num_deaths == 1
    assert journal.slices(4, 4) == [((0, 4), False)]


def test_notes_that_cannot_be_removed_are_an_error_of_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(notes(tmp_path))
    journal.begin((0, 4))

    def refuse(path: Path, **_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(DataError, match=r"the output must be writable, but: .*Read-only"):
        journal.close()


def test_notes_say_how_many_rows_are_behind_a_worker(tmp_path: Path) -> None:
    journal = Journal(notes(tmp_path))
    journal.begin((0, 3))
    assert rows_under_way(tmp_path) == 0
    journal.begin((3, 5))
    assert rows_under_way(tmp_path) == 3
    journal.close()
    assert rows_under_way(tmp_path) == 0
    Journal(notes(tmp_path)).begin((0, 3))
    forget_all(tmp_path)
    assert Journal(notes(tmp_path)).num_deaths == 0


def test_notes_that_a_share_does_not_give_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        journal = Journal(journal_file(tmp_path, tmp_path / f"part-0000{number}.csv"))
        journal.begin((0, 3))
        journal.begin((3, 5))
    read = Path.read_bytes

    def stale(path: Path) -> bytes:
        if path.stem == "part-00001":
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", stale)
    assert rows_under_way(tmp_path) == 2 * 3

    def gone(*_: object) -> Iterator[Path]:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "glob", gone)
    assert rows_under_way(tmp_path) == 0
