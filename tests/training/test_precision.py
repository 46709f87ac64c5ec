"""Both kinds of bf16 hold the loss of fp32; pure bf16 needs its fp32 weights for it, and keeps nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from t5ray.config import TrainingConfig
from t5ray.data.batches import epoch_steps, token_budget
from t5ray.data.tokens import TokenisedData
from t5ray.model.loading import load_model
from t5ray.model.optim import build_optimizer
from t5ray.training.group import Group
from t5ray.training.loop import fine_tune
from t5ray.training.plan import RunPlan
from t5ray.training.probe import ProbeSpec, measure
from t5ray.training.step import EpochSums, optimizer_step
from t5ray.training.trainee import made_ready
from tests.training.conftest import plan_in
from tests.training.running import go_on, run
from tests.training.running import kept as kept_in

TOLERANCE = 0.03
"""Relative difference of mean losses: three times that of runs in fp32 whose weights begin 2^-9 of a value apart."""
GENTLE: dict[str, Any] = {"dropout": 0.0, "learning_rate": 5e-4}
"""The tiny model is harsh (random weights, gradients of norm 30): at 3e-3 such runs end 10 % apart."""


@pytest.fixture(scope="module")
def fp32(tiny_t5: Path, data: TokenisedData, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    plan = plan_in(tmp_path_factory.mktemp("fp32"), **GENTLE)
    return run(tiny_t5, data, plan)[0]


@pytest.mark.parametrize("precision", ["bf16", "bf16_pure"])
def test_losses_are_those_of_fp32(
    tiny_t5: Path, data: TokenisedData, tmp_path: Path, fp32: list[dict[str, Any]], precision: str
) -> None:
    reports, weights = run(tiny_t5, data, plan_in(tmp_path, **GENTLE, precision=precision))
    for one, expected in zip(reports, fp32, strict=True):
        assert one["train_loss"] == pytest.approx(expected["train_loss"], rel=TOLERANCE)
        assert one["train_loss"] != expected["train_loss"]
        assert one["validation_loss"] == pytest.approx(expected["validation_loss"], rel=TOLERANCE)
    assert fp32[-1]["train_loss"] < 0.6 * fp32[0]["train_loss"]  # there is something to hold
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def losses(
    forward: torch.nn.Module, optimizer: torch.optim.Optimizer, data: TokenisedData, config: TrainingConfig
) -> list[float]:
    cut: dict[str, Any] = {"batch_size": 32, "limit": token_budget(16_384)}
    steps = [step for epoch in range(1, 6) for step in epoch_steps(data.train, **cut, seed=0, epoch=epoch)]
    return [optimizer_step(forward, optimizer, data.train, step, config, Group(), EpochSums())[0] for step in steps]


def test_without_fp32_weights_small_updates_are_lost(tiny_t5: Path, data: TokenisedData) -> None:
    """Adam's steps of 1e-4 are less than half the distance (2^-9 of their value) of bf16 numbers above 0.05."""
    config = TrainingConfig(precision="bf16_pure", dropout=0.0, learning_rate=1e-4, weight_decay=0.0)
    with made_ready(load_model(str(tiny_t5)), config, Group()) as trainee:
        kept = losses(trainee.forward, trainee.optimizer, data, config)
    alone = load_model(str(tiny_t5)).model.to(torch.bfloat16)
    lost = losses(alone, build_optimizer(alone, config), data, config)
    assert kept[0] == pytest.approx(lost[0])
    assert kept[-1] < 0.75 * kept[0]
    assert kept[0] - min(lost[-3:]) < (kept[0] - kept[-1]) / 2


EVERYTHING: dict[str, Any] = {"lora_rank": 2, "ema_decay": 0.5, "freeze_layers": 1, "gradient_checkpointing": True}


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adafactor"}, EVERYTHING], ids=["adamw", "adafactor", "all"])
def test_what_is_kept_is_fp32_and_the_model_is_as_it_came(
    tiny_t5: Path, data: TokenisedData, tmp_path: Path, settings: dict[str, Any]
) -> None:
    loaded = load_model(str(tiny_t5))
    before = {name: (parameter, parameter.detach().clone()) for name, parameter in loaded.model.named_parameters()}
    plan = plan_in(tmp_path, precision="bf16_pure", max_epochs=1, **settings)
    fine_tune(loaded, data, plan, group=Group(), report=go_on, tick=lambda pulse: None)
    after = dict(loaded.model.named_parameters())
    assert all(after[name] is parameter for name, (parameter, _) in before.items())  # the very objects, tied as before
    assert all(parameter.requires_grad and parameter.grad is None for parameter in after.values())
    kept = load_file(kept_in(tmp_path) / "model.safetensors")
    assert {weight.dtype for weight in kept.values()} == {torch.float32}
    changed = {name for name, (_, old) in before.items() if not torch.equal(kept.get(name, old), old)}
    assert any("block.1" in name for name in changed)
    assert changed == set(before) or settings == EVERYTHING
    assert not any("block.0" in name for name in changed) or settings != EVERYTHING
    matrices = [weight for weight in kept.values() if weight.ndim == 2]
    assert not any(torch.equal(w, w.to(torch.bfloat16).float()) for w in matrices)  # frozen ones neither


def test_a_probe_measures_it(tiny_t5: Path, data: TokenisedData, plan: RunPlan) -> None:
    config = plan.config.model_copy(update={"precision": "bf16_pure", "lora_rank": 2})
    assert measure(ProbeSpec(str(tiny_t5), config, plan.task, plan.decode, 1, 1), data).step_s > 0


def test_shards_have_no_pure_bf16() -> None:
    with pytest.raises(ValidationError, match=r"parallel=fsdp has no precision=bf16_pure: .* Use bf16"):
        TrainingConfig(parallel="fsdp", precision="bf16_pure")
