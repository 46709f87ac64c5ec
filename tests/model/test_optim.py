"""Optimizers and schedules against values worked out by hand."""

import pytest
import torch

from t5ray.config import TrainingConfig
from t5ray.model.optim import build_optimizer, learning_rate_at, set_learning_rate


def rates(schedule: str, steps: int, warmup_share: float) -> list[float]:
    config = TrainingConfig.model_validate({"learning_rate": 1.0, "schedule": schedule, "warmup_share": warmup_share})
    return [learning_rate_at(step, steps, config) for step in range(steps)]


def test_linear_rises_over_the_warmup_and_falls_to_zero() -> None:
    expected = [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert rates("linear", 10, 0.2) == pytest.approx(expected)


def test_cosine_is_half_way_down_in_the_middle() -> None:
    assert rates("cosine", 4, 0.0) == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_constant_stays() -> None:
    assert rates("constant", 5, 0.2) == pytest.approx([1.0] * 5)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_weight_decay_shrinks_matrices_and_leaves_norms(optimizer: str) -> None:
    model = torch.nn.ModuleDict({"matrix": torch.nn.Linear(3, 3, bias=False), "norm": torch.nn.RMSNorm(3)})
    torch.nn.init.ones_(model["matrix"].weight)  # type: ignore[arg-type]
    config = TrainingConfig.model_validate({"optimizer": optimizer, "learning_rate": 0.1, "weight_decay": 0.5})
    built = build_optimizer(model, config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    built.step()
    assert torch.allclose(model["matrix"].weight, torch.tensor(0.95))  # type: ignore[arg-type]
    assert torch.equal(model["norm"].weight, torch.ones(3))  # type: ignore[arg-type]


def test_set_learning_rate_reaches_every_group() -> None:
    built = build_optimizer(torch.nn.Linear(2, 2), TrainingConfig())
    set_learning_rate(built, 0.25)
    assert [group["lr"] for group in built.param_groups] == [0.25, 0.25]
