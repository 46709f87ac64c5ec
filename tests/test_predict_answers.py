"""What the predict command writes of a model's answers, from flag to file; Ray's pool is left out."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from t5ray.cluster import Cluster
from t5ray.config import DecodeConfig
from t5ray.model.engine import Engine
from t5ray.predict import main
from t5ray.scoring.scorer import Outcome, Scorer

LABELS = ("sport", "sports", "news")
TEXTS = ["a", "a tale", "zz top", "42 is it"]
TASK = """
name: topics
inputs: "topic: {text}"
targets: "{label}"
metrics: [accuracy]
closed_labels: true
labels: [sport, sports, news]
"""


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcomes(spec: Any, shards: Any, pool: Any) -> Iterator[Outcome]:
        scorer = Scorer(spec)
        return (Outcome(**scorer(asdict(shard))) for shard in shards)

    here = Cluster(
        num_nodes=1, num_cpus=2, num_gpus=0, object_store_bytes=1 << 30, dashboard_url=None, started_here=True
    )
    monkeypatch.setattr("t5ray.scoring.job._outcomes", outcomes)
    monkeypatch.setattr("t5ray.cluster.connect", lambda address: nullcontext(here))


def predict(model: Path, folder: Path, *more: str, task: str = "classify", code: int = 0) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    given = ["--model", model, "--input", folder / "rows.jsonl", "--output", folder / "out", "--task", task]
    assert main([*map(str, given), "--precision", "fp32", *more]) == code
    return folder / "out"


def topics(folder: Path) -> str:
    (folder / "topics.yaml").write_text(TASK)
    return str(folder / "topics.yaml")


def test_a_plain_model_with_a_task_of_closed_labels_scores_them(tiny_t5: Path, tmp_path: Path) -> None:
    out = predict(tiny_t5, tmp_path, "--scores", "--all-scores", task=topics(tmp_path))
    table = pq.read_table(out / "part-00000.parquet")
    assert table.column_names == ["text", "prediction", "score", "scores", "error"]
    inputs = [f"topic: {text}" for text in TEXTS]
    expected = Engine(str(tiny_t5), labels=LABELS).predict(inputs, scores=True, all_scores=True)
    assert table["prediction"].to_pylist() == [one.text for one in expected]
    for scores, score, one in zip(
        table["scores"].to_pylist(maps_as_pydicts="strict"), table["score"].to_pylist(), expected, strict=True
    ):
        assert list(scores) == list(LABELS)
        assert scores == pytest.approx(dict(one.label_scores or {}), rel=1e-4)
        assert (sum(scores.values()), max(scores.values())) == pytest.approx((1.0, score))


def test_scores_of_all_labels_belong_to_the_job(
    tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = topics(tmp_path)
    predict(tiny_t5, tmp_path, task=task)
    predict(tiny_t5, tmp_path, "--all-scores", task=task, code=2)
    assert "all_scores (False there, True here)" in capsys.readouterr().err


def test_scores_of_all_labels_need_labels(tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(tiny_t5, tmp_path, "--all-scores", code=2)
    assert "all_scores: needs a task with closed labels, but classify with" in capsys.readouterr().err
    out = predict(tiny_t5, tmp_path, "--all-scores", "--set", "decode.answers=[up, down]", "--format", "jsonl")
    rows = [json.loads(line) for line in (out / "part-00000.jsonl").read_text().splitlines()]
    assert [sorted(row["scores"]) for row in rows] == [["down", "up"]] * len(TEXTS)


def test_several_texts_stand_beside_the_first(tiny_t5: Path, tmp_path: Path) -> None:
    sets = [f"decode.{name}=3" for name in ("num_beams", "num_return_sequences", "max_new_tokens")]
    out = predict(tiny_t5, tmp_path, *(word for item in sets for word in ("--set", item)), "--format", "jsonl")
    rows = [json.loads(line) for line in (out / "part-00000.jsonl").read_text().splitlines()]
    decode = DecodeConfig(num_beams=3, num_return_sequences=3, max_new_tokens=3)
    expected = Engine(str(tiny_t5), decode=decode).predict([f"classify: {text}" for text in TEXTS])
    assert list(rows[0]) == ["text", "prediction", "predictions", "error"]
    assert [row["predictions"] for row in rows] == [[text.strip() for text in one.texts] for one in expected]
    assert all(row["prediction"] == row["predictions"][0] for row in rows)


def test_a_setting_without_a_cap_takes_the_models_own(tiny_t5: Path, tmp_path: Path) -> None:
    out = predict(tiny_t5, tmp_path, "--set", "decode.repetition_penalty=1.5", "--format", "jsonl")
    assert all(json.loads(line)["error"] is None for line in (out / "part-00000.jsonl").read_text().splitlines())
