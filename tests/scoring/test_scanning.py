import csv
import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t5ray.errors import DataError
from t5ray.scoring.inputs import Shard, list_sources, recall, remembered, stamp_of
from t5ray.scoring.scanning import scan


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_json_lines_are_cut_where_records_begin(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n\n{"a": 22}\n{"a": 3}\n')
    found = scan(str(path), shard_rows=2)
    assert found.shards == (Shard(0, 0, 0, 2, 0, 20), Shard(1, 0, 2, 1, 20, 29))
    assert found.num_rows == 3


def test_csv_records_with_line_breaks_in_cells_are_not_cut_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,n\n"one\ntwo",1\nthree,2\n"four, ""4""\n",3\n')
    found = scan(str(path), shard_rows=1)
    assert [(shard.start, shard.stop) for shard in found.shards] == [(7, 19), (19, 27), (27, 44)]
    assert found.files[0].header == b"text,n\n"
    assert found.schema.names == ["text", "n"]


def test_files_are_read_in_the_order_of_their_names_and_never_share_a_shard(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", '{"a": 1}\n{"a": 2}\n{"a": 3}\n')
    write(tmp_path / "a.jsonl", '{"a": 9}\n')
    found = scan(str(tmp_path), shard_rows=2)
    assert [(found.files[s.file].source.name, s.first_row, s.num_rows) for s in found.shards] == [
        ("a.jsonl", 0, 1),
        ("b.jsonl", 0, 2),
        ("b.jsonl", 2, 1),
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a.parquet"])
def test_the_digest_is_that_of_the_content(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.table({"text": ["x"]}), path)
    else:
        write(path, "text\n1\n" if name.endswith("csv") else '{"text": "x"}\n')
    assert scan(str(path), 10).digests == [[name, hashlib.sha256(path.read_bytes()).hexdigest()]]


def test_the_types_of_json_columns_are_learnt_from_all_rows(tmp_path: Path) -> None:
    rows = [
        {"i": 1, "f": 1, "s": "x", "b": True, "l": ["x"], "mixed": 1, "deep": {"k": 1}, "none": None, "huge": 2**70},
        {"i": None, "f": 1.5, "s": None, "b": False, "l": [], "mixed": "1", "deep": {}, "none": None, "late": 2**60},
    ]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    schema = scan(str(path), 10).schema
    assert {field.name: str(field.type) for field in schema} == {
        "i": "int64",
        "f": "double",
        "s": "string",
        "b": "bool",
        "l": "list<item: string>",
        "mixed": "string",
        "deep": "string",
        "none": "string",
        "huge": "string",
        "late": "int64",
    }
    assert {field.name: field.metadata for field in schema if field.metadata} == {
        "f": {b"integers": b"true"},
        "mixed": {b"json": b"true"},
        "deep": {b"json": b"true"},
        "huge": {b"json": b"true"},
    }


def test_whole_numbers_that_a_float_cannot_hold_are_not_rounded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", f'{{"n": {2**60 + 1}}}\n{{"n": 0.5}}\n')
    field = scan(str(path), 10).schema.field("n")
    assert (str(field.type), field.metadata) == ("string", {b"json": b"true"})


@pytest.mark.parametrize(
    ("values", "kind", "is_marked"),
    [
        ([1, 2.0], "double", True),
        ([0, 0.0, 0.37], "double", True),
        ([0.0, 0.37, 1e300], "double", False),
        ([[1], [2.0, None]], "list<item: double>", True),
        ([[1, 0.0, 0.5]], "list<item: double>", True),
        ([[1.0], []], "list<item: double>", False),
    ],
)
def test_numbers_of_both_kinds_are_floats(tmp_path: Path, values: list[Any], kind: str, is_marked: bool) -> None:
    path = write(tmp_path / "a.jsonl", "".join(json.dumps({"v": value}) + "\n" for value in values))
    field = scan(str(path), 10).schema.field("v")
    assert (str(field.type), field.metadata) == (kind, {b"integers": b"true"} if is_marked else None)


def test_parquet_files_may_lack_columns_but_not_change_types(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"], "n": pa.array([1], pa.int32())}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["y"]}), tmp_path / "b.parquet")
    assert scan(str(tmp_path), 10).schema.names == ["text", "n"]
    pq.write_table(pa.table({"text": [1]}), tmp_path / "c.parquet")
    told = (
        r"c\.parquet: its columns must have the types of the files before it, but: .*Field text has .* string vs int64"
    )
    with pytest.raises(DataError, match=rf"^{told}\. Cast the column to one type in all files\.$"):
        scan(str(tmp_path), 10)


def test_what_is_no_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing is there"):
        scan(str(tmp_path / "missing.jsonl"), 10)
    with pytest.raises(DataError, match="must hold rows, but holds none"):
        scan(str(write(tmp_path / "a.csv", "text\n")), 10)
    write(tmp_path / "b.jsonl", '{"text": "x"}\n')
    with pytest.raises(DataError, match="all files must be of one format, but found csv, jsonl"):
        scan(str(tmp_path), 10)
    with pytest.raises(DataError, match="must be Parquet"):
        scan(str(write(tmp_path / "c.parquet", "no parquet")), 10)


def test_a_broken_csv_line_counts_as_a_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text\n"one" two\nthree\n')
    assert scan(str(path), 10).num_rows == 2
    with path.open(newline="") as file, pytest.raises(csv.Error):
        list(csv.reader(file, strict=True))


def test_a_quote_that_swallows_the_rest_of_a_file_is_refused_with_its_line(tmp_path: Path) -> None:
    lines = ["id,text", "1,a", '2,"b', *(f"{number},row {number}" for number in range(3, 3000))]
    path = write(tmp_path / "a.csv", "\n".join(lines) + "\n")
    message = (
        r"a\.csv:3: a quote that opens must be closed, but .* never is, so that the 2,997 lines after it would belong"
    )
    with pytest.raises(DataError, match=message):
        scan(str(path), 10)
    write(path, 'id,text\n1,a\n\n2,"b\n\n3,c\n\n')
    with pytest.raises(DataError, match=r"a\.csv:4: .* so that the 1 line after it would belong to that row"):
        scan(str(path), 10)


@pytest.mark.parametrize("blank", ["", "\n\n", " \n\t\n", "\r\n\r\n"])
def test_a_file_that_was_cut_in_its_last_line_has_one_bad_row(tmp_path: Path, blank: str) -> None:
    path = write(tmp_path / "a.csv", f'id,text\n1,a\n2,"b\n{blank}')
    assert scan(str(path), 10).num_rows == 2


def test_a_carriage_return_alone_ends_a_csv_line(tmp_path: Path) -> None:
    found = scan(str(write(tmp_path / "a.csv", "text,n\rone,1\rtwo,2\n\r\nthree,3")), shard_rows=1)
    assert [(shard.start, shard.stop) for shard in found.shards] == [(7, 13), (13, 21), (21, 28)]


def test_a_missing_text_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.txt"):
        scan(str(tmp_path / "missing.txt"), 10)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", b"text,r\xe9sum\xe9\nx,y\n"), ("a.jsonl", b'{"text": "x"}\n{"text": "x", "r\\udce9": 1}\n')],
)
def test_a_column_whose_name_is_no_text_is_a_data_error(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(DataError, match=rf"{name}: the names of columns must be UTF-8 text, but one is 'r\\udce9"):
        scan(str(write(tmp_path / name, content)), 10)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet"])
def test_columns_of_one_name_are_refused_before_anything_runs(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pq.write_table(pa.table([["x"], ["y"]], names=["text", "text"]), tmp_path / name)
    else:
        write(tmp_path / name, "text,n,text\nx,1,y\n".replace(",", "," if name == "a.csv" else "\t"))
    with pytest.raises(DataError, match=rf"{name}: each column must have a name of its own, but 'text' stands there"):
        scan(str(tmp_path / name), 10)


def test_lines_of_text_are_found_in_folders_globs_and_packed(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "a.txt", "one\ntwo\n")
    write(tmp_path / "deep" / "b.txt.gz", gzip.compress(b"three\n"))
    for path in (tmp_path, tmp_path / "deep" / "*.txt*", tmp_path / "*" / "?.txt*"):
        found = scan(str(path), 10)
        assert [file.num_rows for file in found.files] == [2, 1]
        assert found.schema.names == ["text"]


def test_files_at_any_uri_are_scanned(tmp_path: Path) -> None:
    with fsspec.open("memory://scan/a.jsonl", "wb") as file:
        file.write(b'{"text": "x"}\n')
    found = scan("memory://scan/*.jsonl", 10)
    assert (found.num_rows, found.files[0].stamp[:9]) == (1, "14 bytes,")


def test_a_scan_is_remembered_while_no_file_changes(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "text,n\nx,1\ny,2\nz,3\n")
    write(tmp_path / "b.csv", "text\nw\n")
    found = scan(str(tmp_path), 2)
    record = json.loads(json.dumps(remembered(found)))
    assert recall(record, list_sources(str(tmp_path))[0]) == found
    assert recall(record, list_sources(str(tmp_path / "*.csv"))[0]) == found
    assert recall(record, list_sources(str(tmp_path / "a.csv"))[0]) is None
    write(tmp_path / "b.csv", "text\nv\n")
    assert recall(record, list_sources(str(tmp_path))[0]) is None


def test_the_stamp_says_size_and_time(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "abc\n")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    (source,) = list_sources(str(path)).sources
    assert stamp_of(source) == "4 bytes, changed 2023-11-14T22:13:20+00:00"
    path.chmod(0o600)
    assert stamp_of(source) == "4 bytes, changed 2023-11-14T22:13:20+00:00"
