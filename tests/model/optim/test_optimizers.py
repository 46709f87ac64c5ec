"""Update rules against torch, transformers and values worked out by hand."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from transformers import T5ForConditionalGeneration, Trainer
from transformers.optimization import Adafactor

from t5ray.config import TrainingConfig
from t5ray.model.optim import build_optimizer, set_learning_rate
from t5ray.model.optim.optimizers import parameter_groups
from tests.tiny import tiny_config

Rule = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]


def config_of(**settings: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(settings)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "sgd"])
def test_weight_decay_shrinks_matrices_and_leaves_norms(optimizer: str) -> None:
    model = torch.nn.ModuleDict({"matrix": torch.nn.Linear(3, 3, bias=False), "norm": torch.nn.RMSNorm(3)})
    torch.nn.init.ones_(model["matrix"].weight)  # type: ignore[arg-type]
    built = build_optimizer(model, config_of(optimizer=optimizer, learning_rate=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    built.step()
    assert torch.allclose(model["matrix"].weight, torch.tensor(0.95))  # type: ignore[arg-type]
    assert torch.equal(model["norm"].weight, torch.ones(3))  # type: ignore[arg-type]


def test_what_decays_is_what_decays_in_transformers() -> None:
    model = T5ForConditionalGeneration(tiny_config(gated=True, tied=False))
    expected = {id(model.get_parameter(name)) for name in Trainer.get_decay_parameter_names(None, model)}
    decaying = [group for group in parameter_groups(model, config_of(weight_decay=0.5)) if group["weight_decay"]]
    assert {id(parameter) for group in decaying for parameter in group["params"]} == expected


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        (
            {"optimizer": "adamw", "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6},
            lambda ps: torch.optim.AdamW(ps, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
        ),
        (
            {"optimizer": "adam", "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6},
            lambda ps: torch.optim.Adam(ps, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
        ),
        (
            {"optimizer": "sgd", "momentum": 0.7},
            lambda ps: torch.optim.SGD(ps, lr=0.01, momentum=0.7, weight_decay=0.1),
        ),
        (
            {"optimizer": "adafactor"},
            lambda ps: Adafactor(ps, lr=0.01, scale_parameter=False, relative_step=False, weight_decay=0.1),
        ),
        (
            {"optimizer": "adafactor", "adafactor_scale_parameter": True},
            lambda ps: Adafactor(ps, lr=0.01, scale_parameter=True, relative_step=False, weight_decay=0.1),
        ),
    ],
)
def test_updates_are_those_of_the_rule_s_home(settings: dict[str, Any], rule: Rule) -> None:
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(4, 3, bias=False), torch.nn.Linear(4, 3, bias=False)
    theirs.load_state_dict(ours.state_dict())
    built = build_optimizer(ours, config_of(learning_rate=0.01, weight_decay=0.1, **settings))
    expected = rule(theirs.parameters())
    for _ in range(3):
        gradient = torch.randn(3, 4)
        ours.weight.grad, theirs.weight.grad = gradient.clone(), gradient.clone()
        built.step()
        expected.step()
    assert torch.allclose(ours.weight, theirs.weight, rtol=1e-5, atol=1e-7)


def test_l2_is_part_of_adam_s_gradient_and_apart_from_adamw_s() -> None:
    """With a zero gradient, L2 makes Adam's first step lr * sign(weight); AdamW shrinks by lr * decay."""
    for optimizer, expected in (("adam", 2.0 - 0.1), ("adamw", 2.0 * (1 - 0.1 * 0.5))):
        layer = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(layer.weight, 2.0)
        layer.weight.grad = torch.zeros(1, 1)
        build_optimizer(layer, config_of(optimizer=optimizer, learning_rate=0.1, weight_decay=0.5)).step()
        assert layer.weight.item() == pytest.approx(expected)


def test_set_learning_rate_reaches_every_group() -> None:
    model = T5ForConditionalGeneration(tiny_config())
    built = build_optimizer(model, TrainingConfig())
    set_learning_rate(built, 0.25)
    assert [group["lr"] for group in built.param_groups] == [0.25, 0.25]
