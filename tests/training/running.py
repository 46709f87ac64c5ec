"""Runs of the loop without Ray."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from t5ray.data.tokens import TokenisedData
from t5ray.model.loading import load_model
from t5ray.training.group import Group
from t5ray.training.loop import fine_tune
from t5ray.training.plan import Pulse, RunPlan

Weights = dict[str, torch.Tensor]


def go_on(_: dict[str, Any]) -> bool:
    return True


def run(
    model: Path,
    data: TokenisedData,
    plan: RunPlan,
    report: Callable[[dict[str, Any]], bool | None] = go_on,
    tick: Callable[[Pulse], None] = lambda pulse: None,
) -> tuple[list[dict[str, Any]], Weights]:
    torch.manual_seed(99)  # what the process did before must not matter
    loaded = load_model(str(model))
    reports: list[dict[str, Any]] = []

    def note(epoch_report: dict[str, Any]) -> bool | None:
        reports.append(epoch_report)
        return report(epoch_report)

    fine_tune(loaded, data, plan, group=Group(), report=note, tick=tick)
    return reports, {k: v.clone() for k, v in loaded.model.state_dict().items()}


def kept(folder: Path) -> Path:
    """The directory of the best weights, where a run has left no others."""
    (found,) = folder.glob("best-*")
    return found


def curves(reports: list[dict[str, Any]]) -> list[tuple[float, float, float]]:
    return [(r["train_loss"], r["validation_loss"], r["value"]) for r in reports]
