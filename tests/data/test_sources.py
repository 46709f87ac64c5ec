import gzip
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import known_implementations

from t5ray.data.sources import find_sources
from t5ray.errors import DataError


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_folder_is_read_in_order_and_without_hidden_files(tmp_path: Path) -> None:
    _touch(tmp_path, "b.jsonl", "a.csv", "sub/c.parquet", ".d.csv", "_job.json", "_tmp/e.csv", "sub/.f/g.csv")
    sources, findings = find_sources(str(tmp_path))
    assert [(source.name, source.format) for source in sources] == [
        ("a.csv", "csv"),
        ("b.jsonl", "jsonl"),
        ("sub/c.parquet", "parquet"),
    ]
    assert findings == []


def test_folder_names_the_files_it_leaves_out(tmp_path: Path) -> None:
    _touch(tmp_path, "a.csv", "README.md", "b.parquet.gz")
    sources, findings = find_sources(str(tmp_path))
    assert [source.name for source in sources] == ["a.csv"]
    assert [line.split(":")[0] for line in findings] == ["README.md", "b.parquet.gz"]


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
    sources, _ = find_sources("memory://sources/*.csv")
    with sources[0].open() as file:
        assert file.read() == b"text\nhello\n"


def test_packed_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text\n"))
    (source,) = find_sources(str(tmp_path / "a.csv.gz"))[0]
    with source.open() as file:
        assert (source.format, file.read()) == ("csv", b"text\n")


@pytest.mark.parametrize("content", [b"plain text", gzip.compress(b"text\n" * 1000)[:-12]])
def test_broken_gzip(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv.gz").write_bytes(content)
    (source,) = find_sources(str(tmp_path / "a.csv.gz"))[0]
    with pytest.raises(DataError, match=r"a\.csv\.gz: the file must be readable to its end"), source.open() as file:
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
