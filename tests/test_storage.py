import os
from pathlib import Path

import fsspec
import pytest

from t5ray.errors import ClusterError
from t5ray.storage import download_dir, free_bytes, is_uri, local_path, upload_dir


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


def test_storage_that_refuses_is_a_cluster_error(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="the storage must be reachable and writable"):
        download_dir(str(tmp_path / "missing"), tmp_path / "back")
    with pytest.raises(ClusterError, match="nosuch://x: the storage must be reachable"):
        upload_dir(tmp_path, "nosuch://x")


def test_free_bytes_of_a_folder_to_come(tmp_path: Path) -> None:
    stat = os.statvfs(tmp_path)
    assert free_bytes(tmp_path / "not" / "yet") == pytest.approx(stat.f_bavail * stat.f_frsize, rel=0.05)
    assert free_bytes("s3://bucket") is None
