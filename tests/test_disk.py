"""Folders that appear whole: what is on the disk when they get their names, and who wins where two arrive."""

import os
from pathlib import Path

import pytest

from t5ray.disk import publish_dir


def make(folder: Path, content: str) -> Path:
    (folder / "inner").mkdir(parents=True)
    (folder / "config.json").write_text(content)
    (folder / "inner" / "weights").write_text(content)
    return folder


def test_all_of_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, target, synced = make(tmp_path / "made", "a"), tmp_path / "target", list[tuple[Path, bool]]()
    fsync = os.fsync

    def noted(opened: int) -> None:
        synced.append((Path(os.readlink(f"/proc/self/fd/{opened}")), target.exists()))
        fsync(opened)

    monkeypatch.setattr(os, "fsync", noted)
    publish_dir(made, target)
    everything = [made, made / "config.json", made / "inner", made / "inner" / "weights"]
    assert sorted(synced[:-1]) == [(path, False) for path in sorted(everything)]
    assert synced[-1] == (tmp_path, True)
    assert (target / "inner" / "weights").read_text() == "a"
    assert list(tmp_path.iterdir()) == [target]


def test_the_folder_that_came_first_stays(tmp_path: Path) -> None:
    target = make(tmp_path / "target", "first")
    publish_dir(make(tmp_path / "made", "second"), target)
    assert (target / "config.json").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_a_place_that_cannot_be_had_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        publish_dir(make(tmp_path / "made", "a"), tmp_path / "none" / "target")
