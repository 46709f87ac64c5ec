import os
from pathlib import Path

import fsspec
import pytest

from t5ray.errors import ClusterError
from t5ray.storage import (
    download_dir,
    free_bytes,
    is_uri,
    local_path,
    names_in,
    read_remote,
    replace_remote,
    upload_dir,
)


def test_uris_are_told_from_paths() -> None:
    assert [is_uri(path) for path in ("s3://b/x", "memory://x", "file:///x", "/x", "x/y", "C:x")] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert local_path("file:///a/b") == Path("/a/b")
    with pytest.raises(ClusterError, match="must be a folder of this machine"):
        local_path("s3://bucket/x")


@pytest.mark.parametrize("scheme", ["memory://t5ray-test", "file://{}", "{}"])
def test_a_folder_goes_up_and_comes_back(tmp_path: Path, scheme: str) -> None:
    target = scheme.format(tmp_path / "storage") + "/run/best"
    (tmp_path / "here" / "deep").mkdir(parents=True)
    (tmp_path / "here" / "a.txt").write_text("a")
    (tmp_path / "here" / "deep" / "b.txt").write_text("b")
    upload_dir(tmp_path / "here", target)
    download_dir(target, tmp_path / "back")
    assert (tmp_path / "back" / "a.txt").read_text() == "a"
    assert (tmp_path / "back" / "deep" / "b.txt").read_text() == "b"
    with fsspec.open(f"{target}/deep/b.txt") as file:
        assert file.read() == b"b"


@pytest.mark.parametrize("scheme", ["memory://t5ray-replaced", "{}"])
def test_a_folder_takes_the_place_of_another_and_its_key_comes_last(
    tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = scheme.format(tmp_path / "storage") + "/best"
    for folder, content in (("old", "1"), ("new", "2")):
        (tmp_path / folder / "deep").mkdir(parents=True)
        for name in ("config.json", "weights", "deep/words", f"of-{folder}"):
            (tmp_path / folder / name).write_text(content)
    replace_remote(tmp_path / "old", target, key="config.json")
    files, _ = fsspec.core.url_to_fs(target)
    put_file = files.put_file

    def break_at_weights(here: str, there: str, *args: object, **more: object) -> None:
        if there.endswith("/weights"):
            raise ConnectionResetError
        put_file(here, there, *args, **more)

    with monkeypatch.context() as broken:
        broken.setattr(files, "put_file", break_at_weights)
        with pytest.raises(ClusterError):
            replace_remote(tmp_path / "new", target, key="config.json")
    assert read_remote(f"{target}/config.json") is None
    assert read_remote(f"{target}/of-new") in (None, b"2")
    assert "of-old" not in names_in(target)
    replace_remote(tmp_path / "new", target, key="config.json")
    download_dir(target, tmp_path / "back")
    found = {path.relative_to(tmp_path / "back").as_posix(): path for path in (tmp_path / "back").rglob("*")}
    assert sorted(found) == ["config.json", "deep", "deep/words", "of-new", "weights"]
    assert {path.read_text() for path in found.values() if path.is_file()} == {"2"}


def test_a_folder_whose_removal_breaks_off_has_lost_its_key_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"memory://{tmp_path.name}/best"
    (tmp_path / "here").mkdir()
    for name in ("config.json", "card", "weights"):
        (tmp_path / "here" / name).write_text("1")
    replace_remote(tmp_path / "here", target, key="config.json")
    files = fsspec.filesystem("memory")
    rm = files.rm

    def break_off(path: str, recursive: bool = False, **more: object) -> None:
        if recursive:
            rm(f"{path}/card")
            raise ConnectionResetError
        rm(path, **more)

    with monkeypatch.context() as broken:
        broken.setattr(files, "rm", break_off)
        with pytest.raises(ClusterError):
            replace_remote(tmp_path / "here", target, key="config.json")
    assert names_in(target) == ["weights"]


def test_a_storage_that_does_not_answer_is_not_taken_for_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **more: object) -> None:
        raise PermissionError("SlowDown")

    files = fsspec.filesystem("memory")
    for name in ("cat_file", "info"):
        monkeypatch.setattr(files, name, refuse)
    with pytest.raises(ClusterError, match="SlowDown"):
        read_remote("memory://t5ray-slow/config.json")


def test_storage_that_refuses_is_a_cluster_error(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="the storage must be reachable and writable"):
        download_dir(str(tmp_path / "missing"), tmp_path / "back")
    with pytest.raises(ClusterError, match="nosuch://x: the storage must be reachable"):
        upload_dir(tmp_path, "nosuch://x")


def test_free_bytes_of_a_folder_to_come(tmp_path: Path) -> None:
    stat = os.statvfs(tmp_path)
    assert free_bytes(tmp_path / "not" / "yet") == pytest.approx(stat.f_bavail * stat.f_frsize, rel=0.05)
    assert free_bytes("s3://bucket") is None
