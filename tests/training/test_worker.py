"""A worker does job after job on one model: what a job did to it is gone before the next."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from t5ray.data.tokens import TokenisedData
from t5ray.model.loading import LoadedModel, load_model
from t5ray.training.group import Group
from t5ray.training.loop import fine_tune
from t5ray.training.plan import RunFailed, RunPlan
from t5ray.training.worker import WarmModel
from tests.training.running import curves, run

TECHNIQUES: dict[str, dict[str, Any]] = {
    "pure bf16": {"precision": "bf16_pure"},
    "frozen": {"freeze_embeddings": True, "freeze_layers": 1},
    "averaged": {"ema_decay": 0.9, "layer_decay": 0.5},
    "adapted": {"lora_rank": 4, "lora_targets": "all", "lora_dropout": 0.1},
    "checkpointed": {"gradient_checkpointing": True, "dropout": 0.3},
}


def train(loaded: LoadedModel, data: TokenisedData, plan: RunPlan) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = []

    def report(told: dict[str, Any]) -> bool:
        reports.append(told)
        return True

    fine_tune(loaded, data, plan, group=Group(), report=report, tick=lambda pulse: None)
    return reports


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_technique_leaves_no_trace(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path, technique: str
) -> None:
    short = plan.config.model_copy(update={"max_epochs": 1})
    plan = replace(plan, config=short)
    expected, weights = run(tiny_t5, data, replace(plan, folder=tmp_path / "fresh"))
    rough = replace(plan, config=short.model_copy(update=TECHNIQUES[technique]), folder=tmp_path / "other")
    warm = WarmModel(str(tiny_t5))
    other = train(warm.pristine(rough.config, Group()), data, rough)
    assert curves(other) != curves(expected)  # it does something
    loaded = warm.pristine(plan.config, Group())
    assert curves(train(loaded, data, replace(plan, folder=tmp_path / "warm"))) == curves(expected)
    again = loaded.model.state_dict()
    assert list(again) == list(weights)
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_a_technique_whose_run_fails_leaves_no_trace(tiny_t5: Path, data: TokenisedData, plan: RunPlan) -> None:
    warm = WarmModel(str(tiny_t5))
    bad = plan.config.model_copy(update={"freeze_layers": 9, "lora_rank": 2})
    with pytest.raises(RunFailed, match="`freeze_layers <= 2` must hold for this model, but got 9"):
        train(warm.pristine(bad, Group()), data, replace(plan, config=bad))
    model = warm.pristine(plan.config, Group()).model
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert list(model.state_dict()) == list(load_model(str(tiny_t5)).model.state_dict())
