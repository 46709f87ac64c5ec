import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec import AbstractFileSystem
from fsspec.registry import known_implementations

from t5ray.data.sources import find_sources
from t5ray.errors import DataError


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_folder_is_read_in_order_and_without_hidden_files(tmp_path: Path) -> None:
    _touch(tmp_path, "b.jsonl", "a.csv", "sub/c.parquet", ".d.csv", "_job.json", "_tmp/e.csv", "sub/.f/g.csv")
    sources, findings, _ = find_sources(str(tmp_path))
    assert [(source.name, source.format) for source in sources] == [
        ("a.csv", "csv"),
        ("b.jsonl", "jsonl"),
        ("sub/c.parquet", "parquet"),
    ]
    assert findings == []


def test_folder_names_the_files_it_leaves_out(tmp_path: Path) -> None:
    _touch(tmp_path, "a.csv", "README.md", "b.parquet.gz")
    sources, findings, _ = find_sources(str(tmp_path))
    assert [source.name for source in sources] == ["a.csv"]
    assert [line.split(":")[0] for line in findings] == ["README.md", "b.parquet.gz"]


def test_links_to_folders_are_followed_once_and_never_round_in_circles(tmp_path: Path) -> None:
    _touch(tmp_path, "in/a.csv", "in/sub/b.csv", "far/c.csv", "far/d.md", "in/.e.csv")
    targets = {"far": "../far", "far2": "../far", "round": ".", "sub2": "sub", "up": "..", ".hid": "../far", "off": "x"}
    for name, target in targets.items():
        (tmp_path / "in" / name).symlink_to(target)
    (tmp_path / "far" / "back").symlink_to("../in")
    sources, findings, _ = find_sources(str(tmp_path / "in"))
    assert [source.name for source in sources] == ["a.csv", "far/c.csv", "sub/b.csv"]
    assert [line.split(":")[0] for line in findings] == ["far/back", "far/d.md", "far2", "off", "round", "sub2", "up"]
    assert findings[2] == "far2: was not read, as it is a link to a folder that is read already, or holds one that is."
    sources, findings, _ = find_sources(str(tmp_path / "in" / "s*"))
    assert ([source.name for source in sources], len(findings)) == (["sub/b.csv"], 1)


def test_links_within_hidden_folders_are_not_followed_and_hidden_folders_do_not_count_as_read(tmp_path: Path) -> None:
    _touch(tmp_path, "in/.releases/1/a.csv", "far/b.csv", "in/.hid/c.csv", "up/_x/in/d.csv", "up/e.csv")
    links = {"in/current": ".releases/1", "in/.hid/l": "../../far", "in/vis": "../far", "up/_x/in/up": "../.."}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    for path in ("in", "in/*", "in/**"):
        sources, findings, _ = find_sources(f"{tmp_path}/{path}")
        assert ([source.name for source in sources], findings) == (["current/a.csv", "vis/b.csv"], [])
    sources, findings, _ = find_sources(f"{tmp_path}/up/_x/in")
    assert ([source.name for source in sources], findings) == (["d.csv", "up/e.csv"], [])


def test_what_names_of_folders_say_is_no_column_and_that_is_told(tmp_path: Path) -> None:
    _touch(tmp_path, "year=2024/a.csv", "year=2025/b.csv")
    for path in (f"{tmp_path}", f"{tmp_path}/*/*.csv"):
        sources, findings, _ = find_sources(path)
        assert len(sources) == 2
        said = "what the names of folders say, such as `year=2024`, is not read as a column."
        assert findings == [f"{path}: {said}"]
    assert find_sources(str(tmp_path / "year=2024"))[1] == []


def test_a_name_that_is_no_utf8_is_told_as_text(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.csv")).write_bytes(b"text\n")
    (tmp_path / os.fsdecode(b"caf\xe9.md")).write_bytes(b"")
    (source,), (finding,), _ = find_sources(str(tmp_path))
    assert (source.name, finding[:10]) == ("caf\\xe9.csv", "caf\\xe9.md")
    with source.open() as file:
        assert file.read() == b"text\n"


@pytest.mark.parametrize("name", ["a::b.csv", "a::b/c.csv"])
def test_a_name_with_colons_is_no_chain_of_addresses(tmp_path: Path, name: str) -> None:
    _touch(tmp_path, name)
    assert len(find_sources(str(tmp_path / name))[0]) == 1
    assert len(find_sources(f"{tmp_path}/a::b*")[0]) == 1


def test_hidden_parents_of_the_folder_do_not_matter(tmp_path: Path) -> None:
    _touch(tmp_path, "_work/.x/a.csv")
    assert [source.name for source in find_sources(str(tmp_path / "_work" / ".x"))[0]] == ["a.csv"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.csv", ["a.csv", "b.csv"]),
        ("**/*.csv", ["a.csv", "b.csv", "sub/c.csv"]),
        ("[ab].csv", ["a.csv", "b.csv"]),
        ("s*", ["sub/c.csv", "sub/d.jsonl"]),
    ],
)
def test_glob(tmp_path: Path, pattern: str, names: list[str]) -> None:
    _touch(tmp_path, "a.csv", "b.csv", "_c.csv", "sub/c.csv", "sub/d.jsonl")
    assert [source.name for source in find_sources(f"{tmp_path}/{pattern}")[0]] == names


def test_file_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    _touch(tmp_path, "rows[1].csv")
    assert [source.name for source in find_sources(f"{tmp_path}/rows[1].csv")[0]] == ["rows[1].csv"]


def test_uri(tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    files.pipe("/sources/a.csv", b"text\nhello\n")
    sources, _, _ = find_sources("memory://sources/*.csv")
    with sources[0].open() as file:
        assert file.read() == b"text\nhello\n"


class AnyAddress(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Has a file at each address."""

    protocol = ("http", "https")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return {"name": path, "size": 1, "type": "file"}


def test_the_query_of_an_address_is_no_part_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda path: (AnyAddress(), path))
    signed = "https://host/rows/a.csv.gz?X-Signature=a/b.parquet&X-Expires=9"
    ((source,), _, _) = find_sources(signed)
    assert (source.name, source.path, source.format, source.packing) == ("a.csv.gz", signed, "csv", ".gz")
    with pytest.raises(DataError, match=r"^https://host/rows: the name of a file of rows must end in one of \.csv,"):
        find_sources("https://host/rows?X-Signature=abc")
    assert find_sources("https://host/get?file=rows.csv").sources[0].format == "csv"


PACKED: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("packing", PACKED)
def test_packed_file(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"a.csv.{packing}"
    path.write_bytes(PACKED[packing](b"text\n"))
    (source,) = find_sources(str(path))[0]
    with source.open() as file:
        assert (source.format, file.read()) == ("csv", b"text\n")


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("is_cut", [False, True])
def test_broken_packed_file(tmp_path: Path, packing: str, is_cut: bool) -> None:
    path = tmp_path / f"a.csv.{packing}"
    path.write_bytes(PACKED[packing](b"text\n" * 1000)[:-12] if is_cut else b"plain text")
    (source,) = find_sources(str(path))[0]
    with (
        pytest.raises(DataError, match=rf"a\.csv\.{packing}: the file must be readable to its end"),
        source.open() as file,
    ):
        file.read()


def test_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    _touch(tmp_path, "topics.jsonl")
    with pytest.raises(DataError, match=r"topic\.jsonl: .*nothing is there\. Did you mean `topics\.jsonl`\?"):
        find_sources(str(tmp_path / "topic.jsonl"))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing is there"):
        find_sources(str(tmp_path / "no" / "such" / "file.csv"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("*.csv", r"\*\.csv: the pattern must match a file of rows, but matches none"),
        ("empty", "the folder must hold a file of rows"),
        ("notes.txt", r"notes\.txt: the name of a file of rows must end in one of \.csv, \.tsv"),
        ("*.txt", r"notes\.txt: the name of a file of rows must end"),
    ],
)
def test_nothing_to_read(tmp_path: Path, path: str, message: str) -> None:
    _touch(tmp_path, "notes.txt", "empty/_SUCCESS")
    with pytest.raises(DataError, match=message):
        find_sources(f"{tmp_path}/{path}")


def test_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = {"class": "no_such_module.Files", "err": "Install warpfs"}
    monkeypatch.setitem(known_implementations, "warpdrive", driver)
    with pytest.raises(DataError, match=r"needs a driver that is not installed: Install warpfs\. Install it with pip"):
        find_sources("warpdrive://bucket/rows.csv")


def test_driver_that_raises_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoCredentialsError(Exception):
        """Like botocore's, of no common base."""

    class Files(fsspec.AbstractFileSystem):  # type: ignore[misc]
        def info(self, path: str, **options: object) -> dict[str, object]:
            raise NoCredentialsError("Unable to locate credentials")

        def isfile(self, path: str) -> bool:
            return bool(self.info(path))

    fsspec.register_implementation("vault", Files, clobber=True)
    with pytest.raises(DataError, match="that can be reached, but: Unable to locate credentials"):
        find_sources("vault://bucket/rows.csv")


def test_unknown_protocol() -> None:
    with pytest.raises(DataError, match=r"warp://a\.csv: the data must be at .* that can be reached, but: Protocol"):
        find_sources("warp://a.csv")
