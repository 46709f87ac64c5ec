"""References in the output of predict, whichever format it has: lists are lists, and text stays text."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t5ray.cluster import Cluster
from t5ray.config import EvaluateConfig, PredictConfig
from t5ray.scoring.inputs import Shard
from t5ray.scoring.job import Pool, run
from t5ray.scoring.labelled import read_predictions
from t5ray.scoring.scorer import Outcome, Scorer, ScorerSpec
from tests.scoring.doubles import ShoutingEngine
from tests.scoring.plans import planned

HERE = Cluster(1, 2.0, 0.0, 1 << 30, dashboard_url=None, started_here=True)
FORMATS = ("parquet", "jsonl", "csv")
ANSWERS = ["Paris", "paris city"]


def in_this_process(spec: ScorerSpec, shards: Iterable[Shard], pool: Pool) -> Iterator[Outcome]:
    scorer = Scorer(spec, load=ShoutingEngine)
    yield from (Outcome(**scorer(asdict(shard))) for shard in shards)


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
def test_what_is_scored_again_has_the_values_it_was_given(tiny_t5: Path, tmp_path: Path, part_format: str) -> None:
    scored = score(tiny_t5, json_lines(tmp_path / "rows.jsonl", ["Rome", ANSWERS]), tmp_path / "out", "parquet")
    bare = tmp_path / "again.parquet"
    parts = [pq.read_table(part).drop_columns(["prediction", "error"]) for part in sorted(scored.glob("part-*"))]
    pq.write_table(pa.concat_tables(parts), bare)
    assert references(score(tiny_t5, bare, tmp_path / "twice", part_format)) == [("Rome",), tuple(ANSWERS)]
