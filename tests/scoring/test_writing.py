import csv
import datetime
import decimal
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t5ray.scoring.reading import read_shard
from t5ray.scoring.scanning import scan
from t5ray.scoring.writing import Extras, Results, decode_results, encode

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
    written = pq.read_table(io.BytesIO(rewrite(tmp_path / "a.jsonl", "parquet", Results.blank(3, Extras()))))
    assert written.to_pydict() == {
        "i": [1, None, None],
        "l": [["x", "y"], None, None],
        "deep": ['{"k": [1]}', None, None],
        "mixed": [None, "1", '"1"'],
        "prediction": [None] * 3,
        "error": [None] * 3,
    }


@pytest.mark.parametrize("part_format", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize("item", ["1", "NaN"])
def test_a_value_that_nests_deep_passes_and_a_deeper_one_makes_a_bad_row(
    tmp_path: Path, item: str, part_format: str
) -> None:
    values = [f"{'[' * depth}{item}{']' * depth}" for depth in (255, 700)]
    (tmp_path / "a.jsonl").write_text("".join(f'{{"deep": {value}}}\n' for value in values))
    found = scan(str(tmp_path / "a.jsonl"), 10)
    rows = read_shard(found.files[0], found.shards[0], None)
    assert list(rows.problems) == [1]
    part = encode(part_format, rows, FINE, found.schema)
    text = str(pq.read_table(io.BytesIO(part))["deep"][0]) if part_format == "parquet" else part.decode()
    assert "[" * 255 in text
    assert "[" * 256 not in text


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


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_and_durations_become_iso_text_whatever_their_unit(tmp_path: Path, unit: str) -> None:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    values = [90_061 * per_second, 1, -per_second]
    times = pa.array([3_723 * per_second, 1, None], pa.time32(unit) if per_second < 10**6 else pa.time64(unit))
    pq.write_table(pa.table({"took": pa.array(values, pa.duration(unit)), "at": times}), tmp_path / "a.parquet")
    lines = rewrite(tmp_path / "a.parquet", "jsonl", Results(["x"] * 3, None, [None] * 3)).splitlines()
    tick = f"{1 / per_second:.9f}".rstrip("0").rstrip(".")
    assert [json.loads(line)["took"] for line in lines] == ["P1DT1H1M1S", f"P0DT0H0M{tick}S", "P-1DT23H59M59S"]
    found = [json.loads(line)["at"] for line in lines]
    assert [found[0][:8], float(found[1].rpartition(":")[2]), found[2]] == ["01:02:03", 1 / per_second, None]


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
    part = rewrite(tmp_path / "a.jsonl", part_format, results)
    assert decode_results(part_format, part, Extras(scores=True)) == results


def test_results_beside_a_long_cell_are_read_back_from_csv(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"t": "x" * 200_000}) + "\n")
    part = rewrite(tmp_path / "a.jsonl", "csv", Results(["p"], None, [None]))
    csv.field_size_limit(131_072)  # that of a fresh process
    assert decode_results("csv", part, Extras()) == Results(["p"], None, [None])


LABELLED = Results(["up", None], None, [None, "why"], None, [{"up": 0.75, 'do, "wn"': 1e-12}, None])
SEVERAL = Results(["a", None], [0.5, None], [None, "why"], [["a", 'b\n"c"'], None])


@pytest.mark.parametrize("part_format", ["parquet", "jsonl", "csv"])
def test_probabilities_and_several_texts_are_read_back(tmp_path: Path, part_format: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"t": "a"}\n' * 2)
    for results, extras in ((LABELLED, Extras(all_scores=True)), (SEVERAL, Extras(scores=True, texts=True))):
        part = rewrite(tmp_path / "a.jsonl", part_format, results)
        assert decode_results(part_format, part, extras) == results


def test_probabilities_are_a_map_an_object_or_json(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"t": "a"}\n' * 2)
    table = pq.read_table(io.BytesIO(rewrite(tmp_path / "a.jsonl", "parquet", LABELLED)))
    assert table.column_names == ["t", "prediction", "scores", "error"]
    assert table["scores"].to_pylist() == [[("up", 0.75), ('do, "wn"', 1e-12)], None]
    line = rewrite(tmp_path / "a.jsonl", "jsonl", LABELLED).splitlines()[0]
    assert json.loads(line)["scores"] == {"up": 0.75, 'do, "wn"': 1e-12}
    cells = list(csv.reader(io.StringIO(rewrite(tmp_path / "a.jsonl", "csv", LABELLED).decode(), newline="")))
    assert [json.loads(cells[1][2]), cells[2][2]] == [{"up": 0.75, 'do, "wn"': 1e-12}, ""]


def test_several_texts_are_a_list_beside_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"t": "a"}\n' * 2)
    table = pq.read_table(io.BytesIO(rewrite(tmp_path / "a.jsonl", "parquet", SEVERAL)))
    assert table.column_names == ["t", "prediction", "predictions", "score", "error"]
    assert table["predictions"].to_pylist() == [["a", 'b\n"c"'], None]


@pytest.mark.parametrize("part_format", ["parquet", "jsonl", "csv"])
def test_equal_results_give_equal_bytes(tmp_path: Path, part_format: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"t": "x", "n": [1]}\n{"t": "y"}\n')
    assert rewrite(tmp_path / "a.jsonl", part_format, FINE) == rewrite(tmp_path / "a.jsonl", part_format, FINE)


def in_one_schema(folder: Path) -> list[pa.Table]:
    """Write every file of a folder as a part."""
    found = scan(str(folder), 10)
    parts = []
    for shard in found.shards:
        rows = read_shard(found.files[shard.file], shard, None)
        parts.append(
            encode("parquet", rows, Results(["p"] * shard.num_rows, None, [None] * shard.num_rows), found.schema)
        )
    return [pq.read_table(io.BytesIO(part)) for part in parts]


def test_columns_that_other_files_have_are_null(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"n": pa.array([1], pa.int8()), "text": ["y"]}), tmp_path / "b.parquet")
    parts = in_one_schema(tmp_path)
    assert parts[0].schema.equals(parts[1].schema)
    assert pa.concat_tables(parts).select(["text", "n"]).to_pydict() == {"text": ["x", "y"], "n": [None, 1]}


REQUIRED = pa.field("n", pa.int64(), nullable=False)
INSIDE = pa.field("n", pa.struct([REQUIRED]))


@pytest.mark.parametrize(
    ("field", "value", "other"),
    [
        (REQUIRED, 1, None),
        (REQUIRED, 1, pa.field("n", pa.int64())),
        (REQUIRED, 1, pa.field("n", pa.null())),
        (INSIDE, {"n": 1}, pa.field("n", pa.struct([pa.field("n", pa.int64())]))),
    ],
)
@pytest.mark.parametrize("names", ["ab", "ba"])
def test_a_column_that_may_not_be_null_in_one_file_may_be_in_another(
    tmp_path: Path, field: pa.Field, value: Any, other: pa.Field | None, names: str
) -> None:
    text = pa.field("text", pa.string())
    table = pa.Table.from_pylist([{"text": "x", "n": value}], pa.schema([text, field]))
    pq.write_table(table, tmp_path / f"{names[0]}.parquet")
    schema = pa.schema([text] if other is None else [text, other])
    pq.write_table(pa.Table.from_pylist([{"text": "y", "n": None}], schema), tmp_path / f"{names[1]}.parquet")
    parts = in_one_schema(tmp_path)
    assert parts[0].schema.equals(parts[1].schema)
    found = dict(
        zip(pa.concat_tables(parts)["text"].to_pylist(), pa.concat_tables(parts)["n"].to_pylist(), strict=True)
    )
    assert found == {"x": value, "y": None}


nested = pa.struct([("k", pa.int16()), ("list", pa.list_(pa.string()))])
COLUMNS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): texts,
    pa.large_string(): texts,
    pa.binary(): st.binary(max_size=5),
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-128, 127),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),  # beyond 2**53, where floats have gaps
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.decimal128(20, 3): st.decimals(-(10**15), 10**15, places=3),
    pa.date32(): st.dates(),
    pa.timestamp("us", tz="Europe/Lisbon"): st.datetimes(
        datetime.datetime(1970, 1, 1), datetime.datetime(2100, 1, 1), timezones=st.just(datetime.UTC)
    ),
    pa.timestamp("ns"): st.integers(0, 2**62),
    pa.duration("ms"): st.integers(0, 10**9),
    nested: st.fixed_dictionaries(
        {"k": st.none() | st.integers(0, 9), "list": st.none() | st.lists(texts, max_size=2)}
    ),
    pa.list_(nested): st.lists(
        st.fixed_dictionaries({"k": st.none(), "list": st.lists(texts, max_size=2)}), max_size=2
    ),
    pa.map_(pa.string(), pa.int32()): st.lists(st.tuples(texts, st.integers(0, 9)), max_size=2),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Draw a table of some columns of any type, nulls included."""
    size = draw(st.integers(1, 12))
    kinds = draw(st.lists(st.sampled_from(list(COLUMNS)), min_size=1, max_size=5))
    names = draw(st.lists(texts, min_size=len(kinds), max_size=len(kinds), unique=True))
    values = [draw(st.lists(st.none() | COLUMNS[kind], min_size=size, max_size=size)) for kind in kinds]
    arrays = [pa.array(column, kind) for column, kind in zip(values, kinds, strict=True)]
    return pa.table(arrays, names=[f"column {name}" for name in names])


def all_parts(path: Path, part_format: str, shard_rows: int) -> tuple[list[bytes], list[str]]:
    """Write every shard of a file; each row's prediction is its place in the file."""
    found, parts, predictions = scan(str(path), shard_rows), [], []
    for shard in found.shards:
        rows = read_shard(found.files[shard.file], shard, None)
        said = [str(number) for number in range(shard.first_row, shard.first_row + shard.num_rows)]
        results = Results([*said], None, [None] * shard.num_rows)
        parts.append(encode(part_format, rows, results, found.schema))
        predictions += said
    return parts, predictions


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables(), shard_rows=st.integers(1, 13), group=st.integers(1, 13))
def test_whatever_a_table_holds_comes_out_unchanged_in_order_and_once(
    tmp_path: Path, table: pa.Table, shard_rows: int, group: int
) -> None:
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=group)
    parts, predictions = all_parts(tmp_path / "a.parquet", "parquet", shard_rows)
    written = pa.concat_tables(pq.read_table(io.BytesIO(part)) for part in parts)
    assert written.select(table.column_names).equals(pq.read_table(tmp_path / "a.parquet"))
    assert written["prediction"].to_pylist() == predictions
    assert len(predictions) == table.num_rows


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.dictionaries(texts.map("column {}".format), json_values, max_size=4), min_size=1, max_size=12),
    shard_rows=st.integers(1, 13),
)
def test_whatever_json_lines_hold_comes_out_unchanged_in_order_and_once(
    tmp_path: Path, rows: list[dict[str, Any]], shard_rows: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    parts, predictions = all_parts(path, "jsonl", shard_rows)
    written = [json.loads(line) for line in b"".join(parts).decode().removesuffix("\n").split("\n")]
    assert written == [{**row, "prediction": said, "error": None} for row, said in zip(rows, predictions, strict=True)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.none() | st.integers() | texts, min_size=1, max_size=12))
def test_what_no_column_type_can_hold_is_kept_as_json_text(tmp_path: Path, values: list[Any]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes("".join(json.dumps({"v": value}) + "\n" for value in values).encode())
    parts, _ = all_parts(path, "parquet", 5)
    written = pa.concat_tables(pq.read_table(io.BytesIO(part)) for part in parts)
    is_json = written.schema.field("v").metadata is not None
    assert [json.loads(v) if is_json and v is not None else v for v in written["v"].to_pylist()] == values


def test_csv_tells_null_from_the_empty_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": null, "b": "", "c": " "}\n')
    part = rewrite(tmp_path / "a.jsonl", "csv", Results([""], None, [None]))
    assert part == b'a,b,c,prediction,error\n,"", ,"",\n'
    read = pyarrow.csv.read_csv(
        io.BytesIO(part),
        convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False),
    )
    assert read.select(["b", "prediction"]).to_pylist() == [{"b": "", "prediction": ""}]
    assert read["a"].null_count == 1


def test_empty_cells_of_a_csv_stay_empty(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\nx,\n,y\n")
    part = rewrite(tmp_path / "a.csv", "csv", Results(["p", "q"], None, [None, None]))
    assert part.decode() == "a,b,prediction,error\nx,,p,\n,y,q,\n"


def test_numbers_that_json_has_not_are_strings(tmp_path: Path) -> None:
    table = pa.table({"a": [math.nan, math.inf], "b": [[-math.inf], [1.0]], "c": [decimal.Decimal("1.10")] * 2})
    pq.write_table(table, tmp_path / "a.parquet")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    lines = rewrite(tmp_path / "a.parquet", "jsonl", FINE).splitlines()
    assert [json.loads(line, parse_constant=refuse) for line in lines] == [
        {"a": "NaN", "b": ["-Infinity"], "c": "1.10", "prediction": "eins", "error": None},
        {"a": "Infinity", "b": [1.0], "c": "1.10", "prediction": "zwei", "error": None},
    ]


def test_a_process_that_ends_right_after_it_read_a_part_ends_well(tmp_path: Path) -> None:
    """A thread that lets go of a Python file while the interpreter ends aborts the process, about every second time."""
    pq.write_table(pa.table({"prediction": ["p"] * 5, "error": [None, "e", None, None, None]}), tmp_path / "part")
    script = (
        "import pathlib, sys\n"
        "from t5ray.scoring.writing import Extras, decode_results\n"
        "found = decode_results('parquet', pathlib.Path(sys.argv[1]).read_bytes(), Extras())\n"
        "assert found.errors[1] == 'e'\n"
    )
    ended = [subprocess.run([sys.executable, "-c", script, tmp_path / "part"], check=False) for _ in range(8)]
    assert [process.returncode for process in ended] == [0] * 8
