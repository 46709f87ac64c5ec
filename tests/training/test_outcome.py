import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from t5ray.config import ResourcesConfig, RunConfig
from t5ray.errors import ConfigError
from t5ray.model.loading import load_model
from t5ray.sessions import require_same
from t5ray.text.calibration import fit_temperature
from t5ray.training.best import best_name
from t5ray.training.outcome import _device, identity_of, judge_on_test, publish_best
from t5ray.training.prepare import prepare
from tests.tiny import make_tiny_t5


def test_the_bundle_of_a_classifier_carries_the_temperature_of_its_labels(tmp_path: Path, tiny_t5: Path) -> None:
    rows = [f"Is {word} a fruit,{'yes' if word in 'aikmu' else 'no'}" for word in "abcdefghijklmnopqrstuvwxyz"]
    splits = ["train"] * 8 + ["validation"] * 14 + ["test"] * 4
    lines = [f"{row},{split}\n" for row, split in zip(rows, splits, strict=True)]
    (tmp_path / "rows.csv").write_text("text,label,split\n" + "".join(lines))
    given = {"data": {"path": str(tmp_path / "rows.csv")}, "task": "classify", "model": str(tiny_t5), "name": "run"}
    prepared = prepare(RunConfig.model_validate(given), tmp_path / "cache")
    shutil.copytree(tiny_t5, tmp_path / "state" / best_name(8))

    report = {"metrics": {}, "validation_loss": 1.0, "best_step": 8}
    publish_best(prepared, {}, report, tmp_path / "state", tmp_path / "best")
    card = json.loads((tmp_path / "best" / "t5ray.json").read_text())

    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5), AutoTokenizer.from_pretrained(tiny_t5)

    def log_probability(text: str, label: str) -> float:
        target = tokenizer(label, return_tensors="pt").input_ids
        loss = model(**tokenizer(f"classify: {text}", return_tensors="pt"), labels=target).loss
        return float(-loss * target.shape[1])

    validation = [row.split(",") for row in rows[8:22]]
    scores = np.array([[log_probability(text, label) for label in ("no", "yes")] for text, _ in validation])
    truths = np.array([("no", "yes").index(label) for _, label in validation])
    assert card["temperature"] == pytest.approx(fit_temperature(scores, truths), rel=1e-3)
    assert card["temperature"] != 1.0


def test_a_run_is_told_from_one_whose_model_task_or_lengths_became_others(words: Path, tmp_path: Path) -> None:
    make_tiny_t5(tmp_path / "t5", seed=0)
    given = {"data": {"path": str(words)}, "task": "classify", "model": str(tmp_path / "t5")}

    def identity(**data: int) -> dict[str, str]:
        config = RunConfig.model_validate({**given, "data": {**given["data"], **data}})  # type: ignore[dict-item]
        return identity_of(prepare(config, tmp_path / "cache"))

    before = identity()
    for name in ("notes.txt", "all_results.json", "README.md", "trainer_state.json"):
        (tmp_path / "t5" / name).write_text("of no model")
    assert identity() == before
    with pytest.raises(ConfigError, match=r"these differ: data\.max_input_tokens: was \d+, now 5\."):
        require_same(before, identity(max_input_tokens=5), "runs/x")
    other_task = {**before, "task": before["task"].replace('"accuracy"', '"macro_f1"', 1)}
    with pytest.raises(ConfigError, match=r"these differ: task\.metrics: was "):
        require_same(before, other_task, "runs/x")
    make_tiny_t5(tmp_path / "t5", seed=1)
    with pytest.raises(
        ConfigError, match=r"these differ: commit of the model, or digest of its files: was \w{12}, now \w{12}\."
    ):
        require_same(before, identity(), "runs/x")


def test_a_model_is_judged_on_a_gpu_only_where_it_was_trained_on_one(
    words: Path, tiny_t5: Path, tmp_path: Path, gpu_in_sight: None
) -> None:
    given = {"data": {"path": str(words)}, "task": "classify", "model": str(tiny_t5)}
    prepared = prepare(RunConfig.model_validate(given), tmp_path / "cache")
    loaded = load_model(str(tiny_t5))
    assert 0 <= judge_on_test(prepared, loaded)["accuracy"] <= 1
    assert loaded.model.device.type == "cpu"
    with_gpu = prepared.config.model_copy(update={"resources": ResourcesConfig(gpus_per_worker=1)})
    assert _device(replace(prepared, config=with_gpu)).type == "cuda"
