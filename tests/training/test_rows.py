"""Rows are judged as the objective was: a mean and its interval speak of the same predictions."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from t5ray.data.tokens import TokenisedData
from t5ray.text.metrics import score
from t5ray.text.tasks import read_prediction
from t5ray.training import rows, validation
from t5ray.training.best import best_name
from t5ray.training.plan import RunPlan
from t5ray.training.rows import RowScores, judge_rows
from tests.training.conftest import plan_in
from tests.training.running import run


def judged(model: Path, data: TokenisedData, plan: RunPlan) -> tuple[dict[str, Any], RowScores]:
    """Return a run's last report, and the rows of its best weights."""
    *_, report = run(model, data, plan)[0]
    return report, judge_rows(plan, data, report["best_step"], torch.device("cpu"))


def test_the_rows_have_the_metric_of_the_report(tiny_t5: Path, data: TokenisedData, plan: RunPlan) -> None:
    report, found = judged(tiny_t5, data, replace(plan, config=plan.config.model_copy(update={"max_epochs": 8})))
    predictions = [read_prediction(plan.task, text) for text in found.predictions]
    values = score(plan.task.metrics, predictions, data.validation_references, plan.task.labels)
    assert values["exact_match"] == report["best_value"]


@pytest.mark.parametrize("left", [None, "older"], ids=["nothing here", "an older attempt here"])
def test_a_run_that_went_on_at_another_node_is_judged_by_the_weights_at_the_uri(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path, left: str | None
) -> None:
    """The best ones may be of before it moved."""
    plan = replace(plan, objective="validation_loss", mode="min")
    there = replace(plan, remote=f"memory://{tmp_path.name}/0")
    report, expected = judged(tiny_t5, data, plan)
    run(tiny_t5, data, there)
    moved = replace(there, folder=tmp_path / "another node")
    if left is not None:
        shutil.copytree(tiny_t5, moved.folder / best_name(report["best_step"]))
    assert judge_rows(moved, data, report["best_step"], torch.device("cpu")) == expected
    assert not list(moved.folder.glob(".*"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_their_losses_are_taken_at_the_precision_of_the_report(
    tiny_t5: Path, data: TokenisedData, tmp_path: Path, precision: str
) -> None:
    plan = replace(plan_in(tmp_path, precision=precision), objective="validation_loss", mode="min")
    report, found = judged(tiny_t5, data, plan)
    rounding = 1e-5 if precision == "fp32" else 2**-8  # two ways through the model, which round logits to bf16
    assert sum(found.losses) / sum(found.tokens) == pytest.approx(report["best_value"], rel=rounding)
    other = "bf16" if precision == "fp32" else "fp32"
    otherwise = replace(plan, config=plan.config.model_copy(update={"precision": other}))
    apart = judge_rows(otherwise, data, report["best_step"], torch.device("cpu"))
    assert apart.losses != found.losses


def test_their_predictions_too(
    tiny_t5: Path, data: TokenisedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for module in (validation, rows):
        real = module.predict_rows

        def noting(*given: Any, real: Any = real) -> Any:
            asked.append(given[-1])
            return real(*given)

        monkeypatch.setattr(module, "predict_rows", noting)
    judged(tiny_t5, data, plan_in(tmp_path, precision="bf16", max_epochs=1))
    assert asked == ["bf16", "bf16"]
