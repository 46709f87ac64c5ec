import gzip
import json
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5ray.data.formats import BadRow, Row, read_source
from t5ray.data.sources import find_sources
from t5ray.errors import DataError


def _read(path: Path) -> list[Row | BadRow]:
    (source,), _, _ = find_sources(str(path))
    return list(read_source(source))


def _write(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_csv(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.csv", b'text,label\r\n"one, ""two""\r\nlines",1\r\n\r\n,x\r\n')
    assert _read(path) == [
        Row("a.csv:2", {"text": 'one, "two"\r\nlines', "label": "1"}),
        Row("a.csv:5", {"text": "", "label": "x"}),
    ]


def test_tsv(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.tsv", b"text\tlabel\none, two\t1\n")
    assert _read(path) == [Row("a.tsv:2", {"text": "one, two", "label": "1"})]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text\nä\n"),
        ("a.tsv", "text\nä\n"),
        ("a.jsonl", '{"text": "ä"}\n'),
        ("a.ndjson", '{"text": "ä"}'),
        ("a.json", '[{"text": "ä"}]'),
        ("a.json", '{"text": "ä"}\n'),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("packed", [False, True])
def test_byte_order_mark_and_gzip(tmp_path: Path, name: str, content: str, mark: bytes, packed: bool) -> None:
    data = mark + content.encode()
    path = _write(tmp_path, name + ".gz", gzip.compress(data)) if packed else _write(tmp_path, name, data)
    (row,) = _read(path)
    assert isinstance(row, Row)
    assert row.values == {"text": "ä"}


def test_csv_cell_longer_than_the_modules_limit(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.csv", b"text\n" + b"x" * 200_000 + b"\n")
    (row,) = _read(path)
    assert isinstance(row, Row)
    assert len(row.values["text"]) == 200_000


def test_csv_problems_have_their_line_and_reading_goes_on(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.csv", b'text,label\na,1\nb\nc,2,3\n"d"x,4\ne\xff,5\nf,6\n"g,7\nh,8\n')
    rows = _read(path)
    assert [(row.place, getattr(row, "reason", "")) for row in rows] == [
        ("a.csv:2", ""),
        ("a.csv:3", "a line must have 2 cells, as the header has, but has 1"),
        ("a.csv:4", "a line must have 2 cells, as the header has, but has 3"),
        ("a.csv:5", "quotes must enclose whole cells and be doubled inside them, but: ',' expected after '\"'"),
        ("a.csv:6", "text must be UTF-8, but holds byte 0xff"),
        ("a.csv:7", ""),
        (
            "a.csv:8",
            "quotes must enclose whole cells and be doubled inside them, but: unexpected end of data, in 2 lines "
            "that a quote makes one row",
        ),
    ]
    raw = [row.raw for row in rows if isinstance(row, BadRow)]
    assert raw == [b"b", b"c,2,3", b'"d"x,4', b"e\xff,5", b'"g,7\nh,8']


def test_lines_that_a_stray_quote_joins_are_counted(tmp_path: Path) -> None:
    lines = ["text,label", '"a,1', "b,2", 'c",3,4', "d,5", '"e,6', 'f"g,7']
    rows = _read(_write(tmp_path, "a.csv", "\n".join(lines).encode()))
    assert [row.reason for row in rows if isinstance(row, BadRow)] == [
        "a line must have 2 cells, as the header has, but has 3, in 3 lines that a quote makes one row",
        "quotes must enclose whole cells and be doubled inside them, but: ',' expected after '\"', in 2 lines that "
        "a quote makes one row",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,text\na,b\n", r"a\.csv:1: each column must have a name of its own, but 'text' stands there twice"),
        ("text,label\na,b\n".encode("utf-16"), r"a\.csv:1: text must be UTF-8, but holds byte 0xff"),
        (b'"text,label\na,b\n', r"a\.csv:1: the first line must name the columns, but it cannot be read"),
    ],
)
def test_csv_header_problems(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _read(_write(tmp_path, "a.csv", content))


def test_jsonl_keeps_types(tmp_path: Path) -> None:
    path = _write(
        tmp_path, "a.jsonl", '{"a": 1, "b": 0.5, "c": null, "d": ["x"], "e": "\u2028"}\n\n{"a": true}'.encode()
    )
    assert _read(path) == [
        Row("a.jsonl:1", {"a": 1, "b": 0.5, "c": None, "d": ["x"], "e": "\u2028"}),
        Row("a.jsonl:3", {"a": True}),
    ]


def test_jsonl_problems_have_their_line_and_reading_goes_on(tmp_path: Path) -> None:
    lines = [
        b'{"a": 1}',
        b'{"a": 1',
        b'{"a" 1}',
        b"[1]",
        b'"x"',
        b"7",
        b"null",
        b'{"a": "\xe4"}',
        b"[" * 100_000,
        b"{}",
    ]
    rows = _read(_write(tmp_path, "a.jsonl", b"\n".join(lines)))
    assert [row.place for row in rows] == [f"a.jsonl:{number}" for number in range(1, 11)]
    reasons = [row.reason for row in rows if isinstance(row, BadRow)]
    assert reasons[:7] == [
        "a line must be one JSON object, but does not parse: Expecting ',' delimiter at column 8",
        "a line must be one JSON object, but does not parse: Expecting ':' delimiter at column 6",
        "a row must be a JSON object, but is a list",
        "a row must be a JSON object, but is a string",
        "a row must be a JSON object, but is a number",
        "a row must be a JSON object, but is null",
        "text must be UTF-8, but holds byte 0xe4",
    ]
    assert reasons[7].startswith("a line must be one JSON object, but does not parse: ")
    assert [row.raw for row in rows if isinstance(row, BadRow)] == lines[1:-1]


@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"k": ', "}")])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_value_that_nests_too_deep_makes_a_bad_row(tmp_path: Path, name: str, start: str, end: str) -> None:
    values = [f"{start * depth}1{end * depth}" for depth in (255, 256, 500, 700)]  # in a row, which is one more
    lines = [f'{{"v": {value}}}' for value in [*values, '"' + "[" * 300 + '"', "[" + "[], " * 300 + "1]"]]
    content = "[" + ", ".join(lines) + "]" if name.endswith("json") else "\n".join(lines)
    rows = _read(_write(tmp_path, name, content.encode()))
    assert [isinstance(row, BadRow) for row in rows] == [False, True, True, True, False, False]
    assert isinstance(rows[1], BadRow)
    assert rows[1].reason == "lists and objects must be inside each other at most 256 deep, but are deeper"


def test_json_list(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.json", b' [{"a": 1},\n 2, {"a": 3}]')
    assert _read(path) == [
        Row("a.json row 1", {"a": 1}),
        BadRow("a.json row 2", "a row must be a JSON object, but is a number", b"2"),
        Row("a.json row 3", {"a": 3}),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"a": 1},\n{"a" 2}]', r"a\.json:2: .*does not parse: Expecting ':' delimiter at column 6"),
        (b'[{"a": 1},\n{"a": "\xff"}]', r"a\.json:2: text must be UTF-8, but holds byte 0xff"),
    ],
)
def test_json_list_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _read(_write(tmp_path, "a.json", content))


def test_parquet_keeps_types(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"a": 1, "b": "x", "c": ["y", "z"]}, {"a": None, "b": "", "c": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert _read(tmp_path / "a.parquet") == [Row("a.parquet row 1", rows[0]), Row("a.parquet row 2", rows[1])]


def test_file_that_is_no_parquet(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.parquet: the file must be Parquet, but could not be read"):
        _read(_write(tmp_path, "a.parquet", b"text,label\n" * 10))


def test_parquet_that_was_cut_in_the_middle(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": ["x" * 1000] * 100}), tmp_path / "a.parquet")
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[4:60] = b"\0" * 56
    with pytest.raises(DataError, match=r"a\.parquet: the file must be Parquet"):
        _read(_write(tmp_path, "b_a.parquet", bytes(data)))


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.lists(st.text()), max_size=3)))
def test_jsonl_round_trip(tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    assert [getattr(row, "values", None) for row in _read(path)] == records


def test_a_parquet_cell_without_a_value_makes_a_bad_row(tmp_path: Path) -> None:
    texts = pa.StringArray.from_buffers(2, pa.py_buffer(struct.pack("3i", 0, 1, 2)), pa.py_buffer(b"\xffb"))
    pq.write_table(pa.table({"text": texts, "n": [1, 2]}), tmp_path / "a.parquet")
    assert _read(tmp_path / "a.parquet") == [
        BadRow("a.parquet row 1", "`text` must be UTF-8 text, but holds byte 0xff"),
        Row("a.parquet row 2", {"text": "b", "n": 2}),
    ]
