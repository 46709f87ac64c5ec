import json
import os
import re
from pathlib import Path

import pytest

from t5ray.errors import ConfigError, DataError
from t5ray.scoring.ledger import Entry, Ledger, read_job, write_atomically
from tests.scoring.conftest import Remount


def test_parts_sort_in_input_order_however_many_there_are(tmp_path: Path) -> None:
    names = [Ledger(tmp_path, "csv", 123_457).part(index).name for index in (0, 9, 99_999, 100_000, 123_456)]
    assert names == sorted(names)
    assert Ledger(tmp_path, "csv", 3).part(2).name == "part-00002.csv"


def test_a_shard_is_finished_when_its_entry_is_there_and_its_part(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "out", "jsonl", 3)
    ledger.open()
    ledger.commit(0, b"{}\n", Entry(rows=1))
    ledger.commit(1, b"{}\n", Entry(rows=1, errors=1))
    write_atomically(ledger.part(2), b"{}\n")
    ledger.part(1).unlink()
    assert ledger.finished() == {0: Entry(rows=1)}


def test_the_record_of_a_job_ends_with_a_line_break(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "csv", 1)
    ledger.write_job({"state": "done"})
    assert (tmp_path / "_job.json").read_text() == '{\n "state": "done"\n}\n'


def test_entries_add_up() -> None:
    whole, ten = (1, 2, 3, 4, 5, 6, 7), (10, 20, 30, 40, 50, 60, 70)
    assert Entry(*whole, 0.5) + Entry(*ten, 1.0) == Entry(11, 22, 33, 44, 55, 66, 77, 1.5)


def test_an_entry_that_says_nothing_of_earlier_attempts_is_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "csv", 2)
    ledger.open()
    ledger.part(0).touch()
    ledger.entry_file(0).write_text('{"rows": 3, "errors": 1, "seconds": 2.5}')
    ledger.commit(1, b"", Entry(rows=3, earlier=((1.0, 2.0), (4.5, 5.0))))
    assert ledger.finished() == {0: Entry(rows=3, errors=1, seconds=2.5), 1: Entry(3, earlier=((1.0, 2.0), (4.5, 5.0)))}


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "part-00000.csv"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("part-00000.csv", b"old")]
    ledger = Ledger(tmp_path, "csv", 1)
    ledger.open()
    with pytest.raises(DataError, match=r"the output must be writable, but: .*No space left .*run the same command"):
        ledger.commit(0, b"new", Entry())


def test_taking_the_folder_removes_what_a_killed_writer_left(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "csv", 1)
    ledger.open()
    ledger.commit(0, b"x", Entry(rows=1))
    (tmp_path / ".part-00001.csv.0123abcd.tmp").write_bytes(b"half")
    (tmp_path / "_ledger" / ".part-00001.json.0123abcd.tmp").write_bytes(b"half")
    with ledger.held():
        assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
            "_ledger",
            "_ledger/part-00000.json",
            "_lock",
            "part-00000.csv",
        ]


def test_two_commands_never_work_on_one_folder(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "csv", 1)
    with ledger.held(), pytest.raises(ConfigError, match="one command at a time may work on an output, but another"):
        ledger.held().__enter__()
    with ledger.held():
        pass  # it is free again


def test_a_part_its_entry_and_their_names_are_synced_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path, "csv", 1)
    ledger.open()
    events, fsync, replace = list[str](), os.fsync, Path.replace

    def sync(file: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{file}")).name
        events.append("sync " + re.sub(r"\.[0-9a-f]{8}\.tmp$", "", name))
        fsync(file)

    def rename(old: Path, new: Path) -> Path:
        events.append(f"rename to {new.name}")
        return replace(old, new)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", rename)
    ledger.commit(0, b"x", Entry(rows=1))
    assert events == [
        "sync .part-00000.csv",
        "rename to part-00000.csv",
        f"sync {tmp_path.name}",
        "sync .part-00000.json",
        "rename to part-00000.json",
        "sync _ledger",
    ]
    events.clear()
    ledger.commit(0, b"y", Entry(rows=1))
    assert events[:2] == ["sync _ledger", "sync .part-00000.csv"]  # the old counts are gone before the part they count


def test_the_job_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "csv", 1)
    assert read_job(tmp_path) is None
    ledger.write_job({"state": "running", "task": {"name": "Übung"}})
    assert json.loads((tmp_path / "_job.json").read_text(encoding="utf-8")) == read_job(tmp_path)
    (tmp_path / "_job.json").write_text("{")
    with pytest.raises(DataError, match=r"_job\.json: must be what a scoring job wrote"):
        read_job(tmp_path)


def test_a_file_where_the_folder_should_be_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="the output must be writable"):
        Ledger(tmp_path / "out", "csv", 1).open()


def test_a_full_disk_is_told_and_what_is_finished_stays(small_disk: tuple[Path, Remount]) -> None:
    disk, remount = small_disk
    ledger = Ledger(disk / "out", "csv", 5)
    ledger.open()
    for index in range(2):
        ledger.commit(index, b"x" * 20_000, Entry(rows=1))
    with pytest.raises(DataError, match=r"out: the output must be writable, but: .*No space left.*free space"):
        ledger.commit(2, b"x" * 20_000, Entry(rows=1))
    assert ledger.finished().keys() == {0, 1}
    remount("size=1m")
    with ledger.held():
        for index in range(2, 5):
            ledger.commit(index, b"x" * 20_000, Entry(rows=1))
    assert len(ledger.finished()) == 5
    assert [path.stat().st_size for path in sorted((disk / "out").glob("*part*"))] == [20_000] * 5


def test_an_output_that_cannot_be_written_is_told_before_anything_runs(small_disk: tuple[Path, Remount]) -> None:
    disk, remount = small_disk
    ledger = Ledger(disk / "out", "csv", 1)
    ledger.open()
    remount("ro")
    with pytest.raises(DataError, match=r"out: the output must be writable, but: .*Read-only file system"):
        ledger.open()
