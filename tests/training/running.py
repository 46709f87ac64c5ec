"""Runs of the loop without Ray."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from t5ray.data.tokens import TokenisedData
from t5ray.model.loading import load_model
from t5ray.training.group import Group
from t5ray.training.loop import fine_tune
from t5ray.training.plan import Pulse, RunPlan

Weights = dict[str, torch.Tensor]


class Together(Group):
    """One of several workers of one node, each in a thread; `meet` is passed by all at once."""

    def __init__(self, rank: int, meet: threading.Barrier, said: dict[int, Any]) -> None:
        super().__init__()
        self.rank, self.size, self.meet, self.said = rank, meet.parties, meet, said

    def gather(self, value: Any) -> list[Any]:
        self.meet.wait()
        self.said[self.rank] = value
        self.meet.wait()
        return [self.said[rank] for rank in range(self.size)]

    def broadcast(self, value: Any) -> Any:
        return self.gather(value)[0]

    def sum(self, values: Sequence[float]) -> list[float]:
        return [sum(parts) for parts in zip(*self.gather(list(values)), strict=True)]


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
