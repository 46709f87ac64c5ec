import bz2
import csv
import datetime
import gzip
import io
import json
import lzma
import struct
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t5ray.data.sources import Source
from t5ray.errors import DataError
from t5ray.scoring.inputs import list_sources
from t5ray.scoring.reading import MOST_QUOTED, RangeReader, ShardRows, read_shard
from t5ray.scoring.scanning import scan

in_one_folder = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
sizes = st.integers(1, 9)


def read_all(path: Path | str, shard_rows: int) -> list[ShardRows]:
    found = scan(str(path), shard_rows)
    return [read_shard(found.files[shard.file], shard, None) for shard in found.shards]


def records(path: Path, shard_rows: int) -> list[dict[str, Any]]:
    return [record for rows in read_all(path, shard_rows) for record in rows.records]


@in_one_folder
@given(rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=20), size=sizes, end=st.sampled_from(["\n", "\r\n"]))
def test_every_csv_row_is_read_once_and_in_order(
    tmp_path: Path, rows: list[tuple[str, str]], size: int, end: str
) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerow(["text", "other"])
        writer.writerows(rows)
    assert records(path, size) == [{"text": text, "other": other} for text, other in rows]


@in_one_folder
@given(
    rows=st.lists(st.dictionaries(texts, st.none() | st.booleans() | st.integers() | texts), min_size=1, max_size=20),
    size=sizes,
    blanks=st.sampled_from(["\n", "\n\n", "\n  \n", "\r\n"]),
)
def test_every_json_line_is_read_once_and_in_order(
    tmp_path: Path, rows: list[dict[str, Any]], size: int, blanks: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(blanks.join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
    assert records(path, size) == rows
    lines = [line for part in read_all(path, size) for line in part.lines or []]
    assert [json.loads(line) for line in lines] == rows


@in_one_folder
@given(num_rows=st.integers(1, 40), size=sizes, group=st.integers(1, 17))
def test_every_parquet_row_is_read_once_and_in_order(tmp_path: Path, num_rows: int, size: int, group: int) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"n": pa.array(range(num_rows), pa.int16()), "text": [str(n) for n in range(num_rows)]})
    pq.write_table(table, path, row_group_size=group)
    parts = read_all(path, size)
    assert pa.concat_tables(rows.table for rows in parts).equals(table)
    assert [len(rows.records) for rows in parts] == [min(size, num_rows - at) for at in range(0, num_rows, size)]


@in_one_folder
@given(rows=st.lists(texts.map(lambda text: text.replace("\n", "").rstrip("\r")), min_size=1, max_size=20), size=sizes)
def test_every_line_of_text_is_a_row_empty_ones_too(tmp_path: Path, rows: list[str], size: int) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("".join(line + "\n" for line in rows).encode())
    expected = rows if not rows[0].startswith("\ufeff") else [rows[0][1:], *rows[1:]]
    assert records(path, size) == [{"text": line} for line in expected]


def test_the_last_line_of_text_needs_no_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\ntwo")
    assert records(path, 2) == [{"text": "one"}, {"text": ""}, {"text": "two"}]


MARK = "\ufeff".encode()
PIECES = {
    "a.jsonl": (b'{"a": 1}', MARK, MARK + b'{"a": 2}', MARK + MARK, b"", b" ", b"\r", b"[3]", b'{"b": "\xff"}'),
    "a.txt": (b"one", MARK, MARK + b"two", b"", b"\r", b"\xff"),
    "a.csv": (b"text", b"one", MARK, MARK + b"two", b"", b"\r", b"a,b", b"\xff", b'"three\nfour"'),
}


@pytest.mark.parametrize("name", PIECES)
@in_one_folder
@given(data=st.data(), size=sizes)
def test_rows_do_not_depend_on_the_size_of_shards(tmp_path: Path, name: str, data: st.DataObject, size: int) -> None:
    path = tmp_path / name
    lines = data.draw(st.lists(st.sampled_from(PIECES[name]), min_size=1, max_size=12))
    path.write_bytes(b"\n".join([b"text" if name == "a.csv" else b'{"c": 0}', *lines, b"end"]))
    (whole,) = read_all(path, 100)
    parts = read_all(path, size)
    assert [record for rows in parts for record in rows.records] == whole.records
    found = [rows.problems.get(row) for rows in parts for row in range(len(rows.records))]
    assert found == [whole.problems.get(row) for row in range(len(whole.records))]


def test_a_mark_is_a_files_start_or_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(MARK + b'{"n": 0}\n{"n": 1}\n' + MARK + b'{"n": 2}\n' + MARK + b"\n")  # two files end to end
    for size in (1, 2, 3, 4):
        parts = read_all(path, size)
        assert [record for rows in parts for record in rows.records] == [{"n": 0}, {"n": 1}, {}, {}]
        reasons = [reason for rows in parts for reason in rows.problems.values()]
        assert [reason.partition(": ")[0] for reason in reasons] == ["a.jsonl row 3", "a.jsonl row 4"]
        assert all("Unexpected UTF-8 BOM" in reason for reason in reasons)


def test_packed_lines_and_json_lists_are_cut_too(tmp_path: Path) -> None:
    rows = [{"n": n} for n in range(7)]
    for name, pack in (("a.jsonl.gz", gzip.compress), ("a.jsonl.bz2", bz2.compress), ("a.jsonl.xz", lzma.compress)):
        packed = tmp_path / name
        packed.write_bytes(pack("".join(json.dumps(row) + "\n" for row in rows).encode()))
        assert records(packed, 3) == rows
    whole = tmp_path / "a.json"
    whole.write_text(json.dumps(rows, indent=1))
    assert records(whole, 3) == rows


def test_rows_that_cannot_be_read_keep_their_place(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n": 0}\n{"n": 1\n{"n": 2}\n[3]\n{"t": "\xff"}\n')
    first, second, third = read_all(path, 2)
    assert [rows.records for rows in (first, second, third)] == [[{"n": 0}, {}], [{"n": 2}, {}], [{}]]
    assert first.problems.keys() == {1}
    assert first.problems[1].startswith("a.jsonl row 2: a line must be one JSON object")
    assert first.problems[1].endswith('. It reads: {"n": 1')
    assert second.problems[1] == "a.jsonl row 4: a row must be a JSON object, but is a list. It reads: [3]"
    expected = r"""a.jsonl row 5: text must be UTF-8, but holds byte 0xff. It reads: {"t": "\xff"}"""
    assert third.problems[0] == expected


def test_what_an_unreadable_row_reads_has_a_bound(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * MOST_QUOTED + b"\xff\n")
    (rows,) = read_all(tmp_path / "a.txt", 10)
    assert rows.problems[0].endswith(
        f"holds byte 0xff. It reads: {'x' * MOST_QUOTED}... ({MOST_QUOTED + 4} characters)"
    )


def test_a_ragged_csv_line_is_a_problem_of_its_own_row_only(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,n\none,1\ntwo\nthree,3\n")
    (rows,) = read_all(path, 10)
    assert rows.records == [{"text": "one", "n": "1"}, {}, {"text": "three", "n": "3"}]
    assert rows.problems == {1: "a.csv row 2: a line must have 2 cells, as the header has, but has 1. It reads: two"}


def test_tabs_part_cells_and_commas_do_not(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b'text\tn\none, two\t1\n"a\ttab"\t2\nthree\n')
    first, second = read_all(path, 2)
    assert first.records == [{"text": "one, two", "n": "1"}, {"text": "a\ttab", "n": "2"}]
    assert second.problems == {
        0: "a.tsv row 3: a line must have 2 cells, as the header has, but has 1. It reads: three"
    }


def test_cells_of_parquet_that_have_no_value_are_problems_of_their_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = pa.StringArray.from_buffers(3, pa.py_buffer(struct.pack("4i", 0, 1, 3, 4)), pa.py_buffer(b"a\xffbc"))
    days = pa.array([0, 0, 2**31 - 1], pa.int32()).view(pa.date32())
    pq.write_table(pa.table({"text": texts, "day": days}), path)
    (rows,) = read_all(path, 10)
    day = datetime.date(1970, 1, 1)
    assert rows.records[:2] == [{"text": "a", "day": day}, {"text": "\\xffb", "day": day}]
    assert rows.records[2]["text"] == "c"
    assert rows.problems.keys() == {1, 2}
    assert rows.problems[1] == "a.parquet row 2: `text` must be UTF-8 text, but holds byte 0xff"
    assert rows.problems[2].startswith("a.parquet row 3: `day` must hold a value that can be read, but its date32[day]")
    found = scan(str(path), 10)
    named = read_shard(found.files[0], found.shards[0], ["text"])
    assert named.problems.keys() == {1}  # of the columns that are needed
    assert named.table is not None
    assert named.table["day"].cast(pa.int32()).to_pylist() == [0, 0, 2**31 - 1]


def test_parquet_values_are_made_of_the_asked_columns_only(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x"], "image": [b"\0" * 10]}), path)
    found = scan(str(path), 10)
    rows = read_shard(found.files[0], found.shards[0], ["text", "absent"])
    assert rows.records == [{"text": "x"}]
    assert rows.table is not None
    assert rows.table.column_names == ["text", "image"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_an_input_that_changes_meanwhile_is_noticed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name

    def write(text: str) -> None:
        buffer = io.BytesIO()
        pq.write_table(pa.table({"text": [text]}), buffer)
        path.write_bytes(buffer.getvalue() if name.endswith("parquet") else f'{{"text": "{text}"}}\n'.encode())

    write("before")
    found = scan(str(path), 10)
    write("afters")
    with pytest.raises(DataError, match=f"{name}: the input must not change while it is scored, but it did"):
        read_shard(found.files[0], found.shards[0], None)
    path.unlink()
    with pytest.raises(DataError, match=f"{name}: the file must be readable to its end, but reading failed: .*No such"):
        read_shard(found.files[0], found.shards[0], None)


def test_a_packed_file_is_unpacked_once_for_shards_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"".join(b"line %d\n" % number for number in range(20))))
    found, opened, real = scan(str(path), 5), list[str](), Source.open

    def counted(source: Source) -> Any:
        opened.append(source.name)
        return real(source)

    monkeypatch.setattr(Source, "open", counted)
    ranges, read = RangeReader(), []
    for place in (0, 1, 3, 2):  # a repeated task goes back
        read += read_shard(found.files[0], found.shards[place], None, ranges).records[:1]
    assert [record["text"] for record in read] == ["line 0", "line 5", "line 15", "line 10"]
    assert opened == ["a.txt.gz"] * 2


class Whole(SimpleHTTPRequestHandler):
    """Gives files as a whole only, as the server of Python's own does."""

    def log_message(self, *args: Any) -> None: ...


class WholeAndSaysSo(Whole):
    """Also says that it does."""

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "none")
        super().end_headers()


@pytest.fixture(params=[Whole, WholeAndSaysSo])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where `tmp_path` is served, without parts of files."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(request.param, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_server_that_gives_no_parts_of_files_is_told(tmp_path: Path, address: str, name: str) -> None:
    rows = [{"text": str(number)} for number in range(9)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.csv").write_text("\n".join(["text", *(row["text"] for row in rows)]))
    told = rf"^{name}: the server must let parts of a file be read, but: [^.]*\. Download the file first\.$"
    with pytest.raises(DataError, match=told):
        read_all(f"{address}/{name}", 4)


def test_a_packed_file_beyond_the_first_block_of_a_server_without_parts_is_told(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"0123\n" * 9))
    (source,) = list_sources(f"{address}/a.txt.gz").sources
    ranges = RangeReader()
    assert ranges.read(source, 5, 10) == b"0123\n"

    def read(size: int) -> bytes:
        raise ValueError("The HTTP server doesn't appear to support range requests.")

    monkeypatch.setattr(ranges._file, "read", read)
    with pytest.raises(DataError, match="the server must let parts of a file be read"):
        ranges.read(source, 10, 15)
    assert ranges.read(source, 10, 15) == b"0123\n"
