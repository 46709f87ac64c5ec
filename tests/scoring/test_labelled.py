"""References in the output of predict, whichever format it has: lists are lists, and text stays text."""

import csv
import datetime
import decimal
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t5ray.cluster import Cluster
from t5ray.config import DataConfig, EvaluateConfig, PredictConfig
from t5ray.data.rows import Problems, read_rows
from t5ray.errors import DataError
from t5ray.scoring.inputs import Shard
from t5ray.scoring.job import run
from t5ray.scoring.labelled import read_predictions
from t5ray.scoring.pool import Pool
from t5ray.scoring.scorer import Outcome, Scorer, ScorerSpec
from t5ray.text.tasks import BUILT_IN
from tests.scoring.doubles import ShoutingEngine
from tests.scoring.plans import planned

HERE = Cluster(1, 2.0, 0.0, 1 << 30, dashboard_url=None, started_here=True)
FORMATS = ("parquet", "jsonl", "csv")
ANSWERS = ["Paris", "paris city"]


def in_this_process(spec: ScorerSpec, shards: Iterable[Shard], pool: Pool) -> Iterator[Outcome]:
    return Scorer(spec, load=ShoutingEngine).outcomes(tuple(shards))


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t5ray.scoring.job._outcomes", in_this_process)


def score(model: Path, rows: Path, output: Path, part_format: str) -> Path:
    given = {"model": str(model), "input": str(rows), "output": str(output), "format": part_format, "shard_rows": 1}
    run(planned(PredictConfig.model_validate({**given, "task": "answer"})), HERE, lambda done, note="": None)
    return output


def references(predictions: Path) -> list[tuple[str, ...]]:
    given = {"predictions": str(predictions), "output": str(predictions) + "-evaluation", "task": "answer"}
    labelled, _ = read_predictions(EvaluateConfig.model_validate(given))
    return [tuple(texts) for texts in labelled.references]


def references_in(data: Path) -> list[tuple[str, ...]]:
    """Return what a model is judged by on the data themselves."""
    rows = read_rows(DataConfig(path=str(data)), BUILT_IN["answer"], Problems(str(data), may_skip=False))
    return [example.references for example in rows.examples]


def rows_with(answers: Iterable[Any]) -> list[dict[str, Any]]:
    return [{"context": "c", "question": "q", "answer": answer} for answer in answers]


def json_lines(path: Path, answers: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_with(answers)))
    return path


@pytest.mark.parametrize("part_format", FORMATS)
@pytest.mark.parametrize("answers", [[ANSWERS, ["Rome"]], ["Rome", ANSWERS], [1889, ANSWERS, "1e3"]])
def test_references_of_json_lines_are_those_that_were_given(
    tiny_t5: Path, tmp_path: Path, answers: list[Any], part_format: str
) -> None:
    scored = score(tiny_t5, json_lines(tmp_path / "rows.jsonl", answers), tmp_path / "out", part_format)
    expected = [tuple(answer) if isinstance(answer, list) else (str(answer),) for answer in answers]
    assert references(scored) == expected


@pytest.mark.parametrize("part_format", FORMATS)
def test_references_of_parquet_lists_are_those_that_were_given(tiny_t5: Path, tmp_path: Path, part_format: str) -> None:
    pq.write_table(pa.Table.from_pylist(rows_with([ANSWERS, ["Rome"]])), tmp_path / "rows.parquet")
    scored = score(tiny_t5, tmp_path / "rows.parquet", tmp_path / "out", part_format)
    assert references(scored) == [tuple(ANSWERS), ("Rome",)]


@pytest.mark.parametrize("part_format", FORMATS)
@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([True, False], ["True", "False"]),
        ([4, 4.5, 10**15], ["4", "4.5", "1000000000000000"]),
        ([4, 1e300, 4.5], ["4", "1e+300", "4.5"]),
        ([4.0, 4.5, 1e300, -0.0], ["4.0", "4.5", "1e+300", "-0.0"]),
        ([2**60 + 1, 0.5], ["1152921504606846977", "0.5"]),
        ([True, "true", 1, "Rome"], ["True", "true", "1", "Rome"]),
        ([True, '"Rome"', "12", "null"], ["True", '"Rome"', "12", "null"]),
        (["[1]", ["[1]"], "1e3"], ["[1]", "[1]", "1e3"]),
        ([[4], [4.5]], ["4", "4.5"]),
        ([[True], [False]], ["True", "False"]),
    ],
)
def test_references_of_json_lines_are_rendered_as_in_the_input(
    tiny_t5: Path, tmp_path: Path, answers: list[Any], expected: list[str], part_format: str
) -> None:
    rows = json_lines(tmp_path / "rows.jsonl", answers)
    assert references_in(rows) == [(text,) for text in expected]
    assert references(score(tiny_t5, rows, tmp_path / "out", part_format)) == [(text,) for text in expected]


@pytest.mark.parametrize("part_format", FORMATS)
@pytest.mark.parametrize("answers", [[4, 4.0, 4.5], [[4], [4.0], [4.5]]])
def test_whole_floats_among_integers_are_integers_in_parquet_alone(
    tiny_t5: Path, tmp_path: Path, answers: list[Any], part_format: str
) -> None:
    scored = score(tiny_t5, json_lines(tmp_path / "rows.jsonl", answers), tmp_path / "out", part_format)
    assert references(scored) == [("4",), ("4" if part_format == "parquet" else "4.0",), ("4.5",)]


def test_lists_in_cells_are_read_where_an_older_record_names_their_columns(tiny_t5: Path, tmp_path: Path) -> None:
    rows = json_lines(tmp_path / "rows.jsonl", [ANSWERS, "Rome", "12"])
    record = score(tiny_t5, rows, tmp_path / "out", "csv") / "_job.json"
    job = {name: value for name, value in json.loads(record.read_text()).items() if name != "schema"}
    record.write_text(json.dumps({**job, "columns_with_parts": ["answer"]}))
    assert references(tmp_path / "out") == [tuple(ANSWERS), ("Rome",), ("12",)]
    record.write_text(json.dumps(job))
    assert references(tmp_path / "out") == [(json.dumps(ANSWERS),), ("Rome",), ("12",)]


NOON = datetime.datetime(2020, 1, 1, 12)


@pytest.mark.parametrize("part_format", FORMATS)
@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([NOON], pa.timestamp("us")), "2020-01-01 12:00:00"),
        (pa.array([NOON], pa.timestamp("s", "America/Sao_Paulo")), "2020-01-01 09:00:00-03:00"),
        (pa.array([1], pa.timestamp("ns")), "1970-01-01 00:00:00.000000001"),
        (pa.array([NOON.date()], pa.date32()), "2020-01-01"),
        (pa.array([NOON.time()], pa.time64("us")), "12:00:00"),
        (pa.array([1], pa.time64("ns")), "00:00:00.000000001"),
        (pa.array([decimal.Decimal("1.10")], pa.decimal128(6, 2)), "1.10"),
        (pa.array([True]), "True"),
        (pa.array([math.inf]), "inf"),
        (pa.array([0.1], pa.float32()), "0.10000000149011612"),
        (pa.array(["Rome"]).dictionary_encode(), "Rome"),
        (pa.array([[NOON]], pa.list_(pa.timestamp("us"))), "2020-01-01 12:00:00"),
        (pa.array([[NOON]], pa.list_(pa.timestamp("us"), 1)), "2020-01-01 12:00:00"),
    ],
)
def test_references_of_parquet_are_rendered_as_in_the_input(
    tiny_t5: Path, tmp_path: Path, column: pa.Array, expected: str, part_format: str
) -> None:
    pq.write_table(pa.table({"context": ["c"], "question": ["q"], "answer": column}), tmp_path / "rows.parquet")
    assert references_in(tmp_path / "rows.parquet") == [(expected,)]
    assert references(score(tiny_t5, tmp_path / "rows.parquet", tmp_path / "out", part_format)) == [(expected,)]


@pytest.mark.parametrize("part_format", FORMATS)
def test_other_columns_are_shown_as_in_the_input_and_a_missing_reference_is_missing(
    tiny_t5: Path, tmp_path: Path, part_format: str
) -> None:
    values = {"at": [NOON, None], "part": [{"at": NOON, "n": 1}, None], "n": [1, None], "answer": [4.5, math.nan]}
    pq.write_table(pa.table({"context": ["c"] * 2, "question": ["q"] * 2, **values}), tmp_path / "rows.parquet")
    scored = score(tiny_t5, tmp_path / "rows.parquet", tmp_path / "out", part_format)
    with pytest.raises(DataError, match="`answer` must hold text, but is null"):
        references(scored)
    given = {"predictions": str(scored), "output": "o", "task": "answer", "skip_bad_rows": True}
    labelled, _ = read_predictions(EvaluateConfig.model_validate(given))
    assert [{name: record[name] for name in values} for record in labelled.records] == [
        {"at": NOON, "part": {"at": NOON, "n": 1}, "n": 1, "answer": 4.5}
    ]


@pytest.mark.parametrize("part_format", FORMATS)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_text_that_looks_like_a_list_stays_text(tiny_t5: Path, tmp_path: Path, kind: str, part_format: str) -> None:
    rows, path = rows_with(["[1, 2]", '["a"]', "Rome"]), tmp_path / f"rows.{kind}"
    if kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "jsonl":
        json_lines(path, (row["answer"] for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert references(score(tiny_t5, path, tmp_path / "out", part_format)) == [("[1, 2]",), ('["a"]',), ("Rome",)]


@pytest.mark.parametrize("part_format", FORMATS)
@pytest.mark.parametrize(
    ("answers", "expected"), [(["Rome", ANSWERS], [("Rome",), tuple(ANSWERS)]), ([4, 4.5], [("4",), ("4.5",)])]
)
def test_what_is_scored_again_has_the_values_it_was_given(
    tiny_t5: Path, tmp_path: Path, part_format: str, answers: list[Any], expected: list[tuple[str, ...]]
) -> None:
    rows = json_lines(tmp_path / "rows.jsonl", answers)
    scored = score(tiny_t5, rows, tmp_path / "out", "parquet")
    bare = tmp_path / "again.parquet"
    parts = [pq.read_table(part).drop_columns(["prediction", "error"]) for part in sorted(scored.glob("part-*"))]
    pq.write_table(pa.concat_tables(parts), bare)
    assert references(score(tiny_t5, bare, tmp_path / "twice", part_format)) == expected
