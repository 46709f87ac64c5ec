import csv
import datetime
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t5ray.scoring.inputs import scan
from t5ray.scoring.reading import read_shard
from t5ray.scoring.writing import Results, decode_results, encode

FINE = Results(["eins", "zwei"], None, [None, None])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def rewrite(path: Path, part_format: str, results: Results) -> bytes:
    """Read all rows of a file as one shard and write them as one part."""
    found = scan(str(path), 1000)
    rows = read_shard(found.files[0], found.shards[0], None)
    return encode(part_format, rows, results, found.schema)


def test_parquet_columns_keep_type_value_and_metadata(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": ["a", None],
            "n": pa.array([1, 2], pa.int8()),
            "at": pa.array([0, 1], pa.timestamp("us", tz="UTC")),
            "price": pa.array(["1.10", "2.00"]).cast(pa.decimal128(6, 2)),
            "tags": pa.array([["x"], []], pa.list_(pa.large_string())),
            "kind": pa.array(["k", "k"]).dictionary_encode(),
        }
    ).replace_schema_metadata({"origin": "test"})
    pq.write_table(table, tmp_path / "a.parquet")
    written = pq.read_table(io.BytesIO(rewrite(tmp_path / "a.parquet", "parquet", FINE)))
    assert written.select(table.column_names).equals(table)
    assert written.schema.metadata[b"origin"] == b"test"
    assert written.column_names[6:] == ["prediction", "error"]
    assert written["prediction"].to_pylist() == ["eins", "zwei"]
    assert str(written.schema.field("error").type) == "string"


def test_json_lines_are_passed_on_to_the_letter(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        b'\xef\xbb\xbf{"n": 1.10, "big": 123456789012345678901, "u": "\\u00e9"} \r\n{}\n'
    )
    results = Results(["é", None], [0.5, None], [None, "broken"])
    assert rewrite(tmp_path / "a.jsonl", "jsonl", results).decode() == (
        '{"n": 1.10, "big": 123456789012345678901, "u": "\\u00e9", "prediction": "é", "score": 0.5, "error": null}\n'
        '{"prediction": null, "score": null, "error": "broken"}\n'
    )


def test_json_columns_get_types_in_parquet(tmp_path: Path) -> None:
    rows = [{"i": 1, "l": ["x", "y"], "deep": {"k": [1]}}, {"i": None, "mixed": 1, "deep": None}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"mixed": "1"}\n')
    written = pq.read_table(io.BytesIO(rewrite(tmp_path / "a.jsonl", "parquet", Results.blank(3, scores=False))))
    assert written.to_pydict() == {
        "i": [1, None, None],
        "l": [["x", "y"], None, None],
        "deep": ['{"k": [1]}', None, None],
        "mixed": [None, "1", '"1"'],
        "prediction": [None] * 3,
        "error": [None] * 3,
    }


def test_parquet_values_become_json_that_says_the_same(tmp_path: Path) -> None:
    table = pa.table({"n": [1], "day": [datetime.date(2021, 3, 3)], "raw": [b"\x00"], "tags": [["a", None]]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert json.loads(rewrite(tmp_path / "a.parquet", "jsonl", Results(["x"], None, [None]))) == {
        "n": 1,
        "day": "2021-03-03",
        "raw": "AA==",
        "tags": ["a", None],
        "prediction": "x",
        "error": None,
    }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=10))
def test_csv_cells_survive_whatever_they_hold(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("text", "n"), *rows])
    part = rewrite(path, "csv", Results([text for text, _ in rows], None, [None] * len(rows)))
    read = list(csv.reader(io.StringIO(part.decode(), newline=""), strict=True))
    assert read[0] == ["text", "n", "prediction", "error"]
    assert read[1:] == [[text, other, text, ""] for text, other in rows]


def test_csv_tells_values_of_other_formats_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1.5, "b": true, "l": ["a"], "none": null, "s": "x"}\n')
    part = rewrite(tmp_path / "a.jsonl", "csv", Results(["p"], None, [None]))
    assert list(csv.reader(io.StringIO(part.decode()))) == [
        ["n", "b", "l", "none", "s", "prediction", "error"],
        ["1.5", "true", '["a"]', "", "x", "p", ""],
    ]


def test_half_a_surrogate_pair_does_not_stop_a_part(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud800x"}\n')
    results = Results(["p"], None, [None])
    assert pq.read_table(io.BytesIO(rewrite(tmp_path / "a.jsonl", "parquet", results)))["text"].to_pylist() == ["?x"]
    assert rewrite(tmp_path / "a.jsonl", "csv", results).decode().splitlines()[1] == "?x,p,"
    assert b'"\\ud800x"' in rewrite(tmp_path / "a.jsonl", "jsonl", results)


@pytest.mark.parametrize("part_format", ["parquet", "jsonl", "csv"])
def test_results_are_read_back(tmp_path: Path, part_format: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"t": "a\\rb"}\n' * 3)
    results = Results(["one\ntwo", "", None], [0.25, 1e-12, None], [None, None, 'why, "then"\n'])
    assert decode_results(part_format, rewrite(tmp_path / "a.jsonl", part_format, results), scores=True) == results


@pytest.mark.parametrize("part_format", ["parquet", "jsonl", "csv"])
def test_equal_results_give_equal_bytes(tmp_path: Path, part_format: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"t": "x", "n": [1]}\n{"t": "y"}\n')
    assert rewrite(tmp_path / "a.jsonl", part_format, FINE) == rewrite(tmp_path / "a.jsonl", part_format, FINE)


def test_columns_that_other_files_have_are_null(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"n": pa.array([1], pa.int8()), "text": ["y"]}), tmp_path / "b.parquet")
    found = scan(str(tmp_path), 10)
    parts: list[Any] = [
        pq.read_table(
            io.BytesIO(
                encode(
                    "parquet",
                    read_shard(found.files[shard.file], shard, None),
                    Results(["p"], None, [None]),
                    found.schema,
                )
            )
        )
        for shard in found.shards
    ]
    assert parts[0].schema.equals(parts[1].schema)
    assert pa.concat_tables(parts).select(["text", "n"]).to_pydict() == {"text": ["x", "y"], "n": [None, 1]}
