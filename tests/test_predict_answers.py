"""What predict and evaluate write of a model's answers, from flag to file; Ray's pool is left out."""

import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from t5ray.cluster import Cluster
from t5ray.config import DecodeConfig, TaskConfig
from t5ray.evaluate import main as evaluate
from t5ray.model.bundle import publish
from t5ray.model.card import BundleCard
from t5ray.model.engine import Engine
from t5ray.model.loading import load_model
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
        return Scorer(spec).outcomes(shards)

    here = Cluster(
        num_nodes=1, num_cpus=2, num_gpus=0, object_store_bytes=1 << 30, dashboard_url=None, started_here=True
    )
    monkeypatch.setattr("t5ray.scoring.job._outcomes", outcomes)
    monkeypatch.setattr("t5ray.cluster.connect", lambda address, **_: nullcontext(here))


def predict(
    model: Path, folder: Path, *more: str, task: str = "classify", code: int = 0, beside: dict[str, str] | None = None
) -> Path:
    rows = ({"text": text, **(beside or {})} for text in TEXTS)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
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


def test_answers_that_are_the_same_to_the_model_are_refused(
    tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(tiny_t5, tmp_path, "--set", "decode.answers=[up, 你好, 谢谢]", code=2)
    shown = " ".join(capsys.readouterr().err.split())
    assert "must tell answers apart, but '你好' and '谢谢' are the same tokens to it" in shown


@pytest.mark.parametrize("engine", ["torch", "ctranslate2"])
def test_inputs_longer_than_a_plain_model_was_trained_on_are_errors_where_asked_for(
    tiny_t5: Path, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(engine)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = shutil.copytree(tiny_t5, tmp_path / "model")
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": 17}))
    cap = ("--engine", engine, "--set", "decode.max_new_tokens=3", "--format", "jsonl")
    out = predict(model, tmp_path, "--on-long", "error", *cap, code=8)
    rows = [json.loads(line) for line in (out / "part-00000.jsonl").read_text().splitlines()]
    long = "the input must have at most 17 tokens, but has {}"  # a token a letter of "classify: …", and an end
    assert [row["error"] for row in rows] == [None, None, None, long.format(10 + len("42 is it") + 1)]
    predict(model, tmp_path, *cap, "--output", str(tmp_path / "whole"))


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


SAMPLES, BEAMS = {"do_sample": True, "temperature": 0.7}, {"num_beams": 4}


def stating(model: Path, folder: Path, own: dict[str, Any], *, bundle: bool) -> Path:
    """Make a model whose own settings of decoding these are."""
    if not bundle:
        file = shutil.copytree(model, folder) / "generation_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **own, "max_new_tokens": 3}))
        return folder
    task = TaskConfig(name="shout", inputs="shout: {text}", targets="{loud}", metrics=("exact_match",))
    decode = DecodeConfig.model_validate({**own, "max_new_tokens": 3})
    publish(load_model(str(model)), BundleCard(task=task, decode=decode, max_input_tokens=40), folder)
    return folder


@pytest.mark.parametrize("bundle", [False, True])
@pytest.mark.parametrize(
    ("own", "name", "value"),
    [
        (SAMPLES, "temperature", 0.5),
        (SAMPLES, "top_k", 5),
        (SAMPLES, "num_return_sequences", 3),
        (BEAMS, "num_return_sequences", 2),
    ],
)
def test_a_setting_that_fits_the_models_own_is_taken(
    tiny_t5: Path, tmp_path: Path, own: dict[str, Any], name: str, value: float, bundle: bool
) -> None:
    model = stating(tiny_t5, tmp_path / "model", own, bundle=bundle)
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "loud": "A", "label": "A"}\n')
    given = ["--model", model, "--set", f"decode.{name}={value}", *([] if bundle else ["--task", "classify"])]
    there = ("--input", tmp_path / "rows.jsonl", "--output", tmp_path / "out", "--format", "jsonl")
    assert main([*map(str, (*given, *there)), "--precision", "fp32"]) == 0
    decode = json.loads((tmp_path / "out" / "_job.json").read_text())["fingerprint"]["decode"]
    assert {key: decode[key] for key in (*own, name)} == {**own, name: value}
    texts = json.loads((tmp_path / "out" / "part-00000.jsonl").read_text()).get("predictions", ["one"])
    assert len(texts) == (value if name == "num_return_sequences" else 1)
    judged = ("--data", tmp_path / "rows.jsonl", "--output", tmp_path / "judged", "--tracking-uri", "none")
    assert evaluate([*map(str, (*given, *judged)), "--precision", "fp32"]) == 0


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("temperature=0.5", "decode: temperature needs do_sample: true, but it is false. The settings that are not"),
        ("temperature=-1", "--set decode.temperature: input should be greater than 0, but got -1"),
        ("num_return_sequences=5", "must be at most num_beams without sampling, but got 5 with num_beams 4"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(
    tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, problem: str
) -> None:
    model = stating(tiny_t5, tmp_path / "model", BEAMS, bundle=False)
    predict(model, tmp_path, "--set", f"decode.{name}", code=2)
    assert problem in " ".join(capsys.readouterr().err.split())


def make_bundle(model: Path, target: Path, temperature: float) -> Path:
    card = BundleCard(
        task=TaskConfig.model_validate(yaml.safe_load(TASK)),
        decode=DecodeConfig(max_new_tokens=4),
        max_input_tokens=40,
        temperature=temperature,
    )
    publish(load_model(str(model)), card, target)
    return target


def test_the_cards_temperature_is_that_of_its_labels_only(tiny_t5: Path, tmp_path: Path) -> None:
    bundle, texts = make_bundle(tiny_t5, tmp_path / "bundle", 5.0), [f"topic: {text}" for text in TEXTS]
    (one, *_), (cooled, *_) = (
        Engine(str(model), labels=LABELS).predict(texts, all_scores=True) for model in (tiny_t5, bundle)
    )
    before, after = (torch.tensor(list((found.label_scores or {}).values())) for found in (one, cooled))
    assert after.tolist() == pytest.approx(torch.softmax(before.log() / 5, dim=0).tolist(), rel=1e-3)
    others = [Engine(str(model), labels=("up", "down")).predict(texts, scores=True) for model in (tiny_t5, bundle)]
    assert others[0] == others[1]


def test_evaluate_says_how_far_probabilities_are_from_the_truth(tiny_t5: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tiny_t5, tmp_path / "bundle", 5.0)
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, [*LABELS, "news"], strict=True)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--model", bundle, "--data", tmp_path / "rows.jsonl", "--output", tmp_path / "judged", "--split", "all"]
    assert evaluate([*map(str, given), "--tracking-uri", "none", "--precision", "fp32"]) == 0
    found = json.loads((tmp_path / "judged" / "metrics.json").read_text())["calibration"]
    inputs = [f"topic: {text}" for text in TEXTS]
    for name, model in (("ece_before", tiny_t5), ("ece_after", bundle)):
        said = Engine(str(model), labels=LABELS).predict(inputs, scores=True)
        assert found[name] == pytest.approx(error_by_hand(said, [row["label"] for row in rows]), abs=1e-4)
    assert found["temperature"] == 5.0
    assert "before temperature 5.00)" in (tmp_path / "judged" / "report.html").read_text()


def error_by_hand(said: Any, labels: list[str]) -> float:
    bins: dict[int, list[float]] = {}
    for one, label in zip(said, labels, strict=True):
        bins.setdefault(int(np.ceil(one.score * 15)), []).append(one.score - (one.text == label))
    return sum(abs(sum(gaps)) for gaps in bins.values()) / len(labels)


def test_ctranslate2_runs_the_same_job(tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ctranslate2")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cap = ("--set", "decode.max_new_tokens=6", "--format", "jsonl", "--scores")
    found = {}
    for engine in ("torch", "ctranslate2"):
        folder = tmp_path / engine
        folder.mkdir()
        out = predict(tiny_t5, folder, "--engine", engine, *cap)
        found[engine] = [json.loads(line) for line in (out / "part-00000.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in found["ctranslate2"]] == [row["prediction"] for row in found["torch"]]
    for ours, theirs in zip(found["torch"], found["ctranslate2"], strict=True):
        assert theirs["score"] == pytest.approx(ours["score"], rel=1e-3)
    assert len(list((tmp_path / "cache" / "t5ray" / "ctranslate2").iterdir())) == 1


def test_the_engine_and_its_weights_belong_to_the_job(
    tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ctranslate2")
    predict(tiny_t5, tmp_path)
    predict(tiny_t5, tmp_path, "--engine", "ctranslate2", "--set", "engine_dtype=int8", code=2)
    shown = capsys.readouterr().err
    assert "engine ('torch' there, 'ctranslate2' here); engine_dtype ('float32' there, 'int8' here)" in shown
    predict(tiny_t5, tmp_path, "--engine", "ctranslate2", task=topics(tmp_path), code=2)
    assert "the answers are a closed set, which the engine torch scores" in capsys.readouterr().err
    monkeypatch.setattr("t5ray.model.ctranslate.is_installed", lambda: False)
    predict(tiny_t5, tmp_path, "--engine", "ctranslate2", code=2)
    assert "is not. In t5ray's repository: pip install -c constraints.txt '.[ctranslate2]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--set", "engine_dtype=int8"], "engine_dtype is of engine ctranslate2; torch takes --precision"),
        (["--engine", "ctranslate2", "--precision", "bf16"], "precision bf16 is of engine torch"),
    ],
)
def test_settings_of_the_other_engine_are_refused(
    tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    predict(tiny_t5, tmp_path, *given, code=2)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("beside", "is_shown"), [({"label": "sport"}, True), ({"labels": "sport"}, False)])
def test_judging_is_suggested_where_the_rows_have_references(
    tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], beside: dict[str, str], is_shown: bool
) -> None:
    out = predict(tiny_t5, tmp_path, "--set", "decode.max_new_tokens=3", beside=beside)
    shown = " ".join(capsys.readouterr().out.split())
    command = f"judge it python -m t5ray.evaluate --predictions {out} --output {out}-evaluation"
    assert ("judge it" in shown, command in shown) == (is_shown, is_shown)


def test_outputs_that_hit_the_cap_are_told_with_the_command_that_lifts_it(
    tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cap = ("--set", "decode.max_new_tokens=3")
    predict(tiny_t5, tmp_path, *cap)
    expected = Engine(str(tiny_t5), decode=DecodeConfig(max_new_tokens=3)).predict([f"classify: {t}" for t in TEXTS])
    share = sum(one.hit_cap for one in expected) / len(TEXTS)
    assert share > 0
    shown = capsys.readouterr().out
    assert f", {share:.1%} of outputs cut at decode.max_new_tokens: {tmp_path}/out" in shown
    (line,) = [line for line in shown.splitlines() if "let outputs be longer" in line]
    assert f"--output {tmp_path}/out-longer " in line
    assert line.endswith(" --set decode.max_new_tokens=6")  # the last --set wins
    predict(tiny_t5, tmp_path, "--output", str(tmp_path / "plain"))
    twice = 2 * (Engine(str(tiny_t5)).decode.max_new_tokens or 0)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "let outputs be longer" in line]
    assert line.endswith(f" --set decode.max_new_tokens={twice}")
    predict(tiny_t5, tmp_path, "--set", "decode.answers=[up, down]", "--output", str(tmp_path / "answers"))
    assert "of outputs cut" not in capsys.readouterr().out
