"""The rules of the optimizer benchmark by hand and against PyTorch's, and what its table chooses."""

from pathlib import Path

import pytest
import torch

from benchmarks.optimizers import Both, Lion, Muon, Outcome, best_rates, orthogonal, rule_for, table
from t5ray.config import TrainingConfig
from t5ray.model.loading import load_model


def weight_with(gradient: torch.Tensor) -> torch.nn.Parameter:
    weight = torch.nn.Parameter(torch.ones_like(gradient))
    weight.grad = gradient
    return weight


def test_lion_by_hand() -> None:
    """First step: the sign of 0.1 g; then of 0.9 m + 0.1 g with m = 0.01 of the first gradient."""
    weight = weight_with(torch.tensor([2.0, -1.0, 0.0]))
    lion = Lion([{"params": [weight], "weight_decay": 0.5}], 0.1)
    lion.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.85, 1.05, 0.95]))  # 1 - 0.1 * 0.5, then 0.1 against g
    weight.grad = torch.tensor([-0.1, -1.0, 0.0])  # 0.9 * 0.02 - 0.1 * 0.1 is above 0
    lion.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.95 * 0.85 - 0.1, 0.95 * 1.05 + 0.1, 0.95**2]))


@pytest.mark.parametrize("shape", [(8, 24), (24, 8)])
def test_muon_is_pytorch_s_but_for_bf16(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, theirs = (weight_with(torch.zeros(shape)) for _ in range(2))
    rules = (
        Muon([{"params": [ours], "weight_decay": 0.1}], 0.1),
        torch.optim.Muon([theirs], 0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        gradient = torch.randn(shape)
        for weight, rule in zip((ours, theirs), rules, strict=True):
            weight.grad = gradient.clone()
            rule.step()
    assert (theirs - 1).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-3)


def test_singular_values_come_near_one() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(16, 40)))
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3


def test_muon_takes_hidden_matrices_only(tiny_t5: Path) -> None:
    model = load_model(str(tiny_t5)).model
    both = rule_for("muon")(model, TrainingConfig())
    assert isinstance(both, Both)
    names = {id(weight): name for name, weight in model.named_parameters()}
    muon, adamw = ({names[id(group["params"][0])] for group in rule.param_groups} for rule in both.rules)
    assert muon | adamw == set(names.values())
    assert not any("norm" in name or "bias" in name or "shared" in name for name in muon)
    assert "encoder.block.0.layer.0.SelfAttention.q.weight" in muon
    assert {group["weight_decay"] for group in both.rules[0].param_groups} == {TrainingConfig().weight_decay}


def outcome(rule: str, rate: float, seed: int, loss: float) -> Outcome:
    return Outcome({}, rule, rate, seed, train_loss=1.0, validation_loss=loss, value=0.5, step_s=0.25)


def test_each_rule_speaks_with_its_best_rate() -> None:
    runs = [
        *(outcome("adamw", 1e-3, seed, loss) for seed, loss in enumerate([0.4, 0.6])),
        *(outcome("adamw", 3e-3, seed, loss) for seed, loss in enumerate([0.3, 0.9])),
        outcome("lion", 1e-4, 0, 0.7),
    ]
    assert [[run.rate for run in found] for found in best_rates(runs)] == [[1e-3, 1e-3], [1e-4]]
    assert list(table(runs))[2] == (
        "| adamw | 0.001 | 0.500 (0.400, 0.600) | 1.000 (1.000, 1.000) | 0.500 (0.500, 0.500) | 0.25 |"
    )
