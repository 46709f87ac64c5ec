"""Learning rates against transformers, torch and values worked out by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR, StepLR
from transformers import optimization

from t5ray.config import TrainingConfig
from t5ray.model.optim import learning_rate_at

EPOCHS, PER_EPOCH = 4, 5
STEPS = EPOCHS * PER_EPOCH


def rates(**settings: Any) -> list[float]:
    config = TrainingConfig.model_validate({"learning_rate": 1.0, "max_epochs": EPOCHS, **settings})
    return [learning_rate_at(step, PER_EPOCH, config) for step in range(STEPS)]


def theirs(make: Callable[[torch.optim.Optimizer], Any], steps: int = STEPS) -> list[float]:
    """Learning rates of a scheduler of torch, starting at 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_linear_rises_over_the_warmup_and_falls_to_zero() -> None:
    config = TrainingConfig(learning_rate=1.0, schedule="linear", warmup_share=0.2, max_epochs=1)
    expected = [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert [learning_rate_at(step, 10, config) for step in range(10)] == pytest.approx(expected)


def test_constant_stays() -> None:
    assert rates(schedule="constant", warmup_share=0.2) == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 17)


def test_a_warmup_in_steps_wins_over_one_in_shares() -> None:
    assert rates(warmup_steps=4, warmup_share=0.5, schedule="constant") == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 17)


@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({"schedule": "constant"}, optimization.get_constant_schedule_with_warmup),
        ({"schedule": "linear"}, lambda o, w: optimization.get_linear_schedule_with_warmup(o, w, STEPS)),
        ({"schedule": "cosine"}, lambda o, w: optimization.get_cosine_schedule_with_warmup(o, w, STEPS)),
        ({"schedule": "inverse_sqrt"}, optimization.get_inverse_sqrt_schedule),
        (
            {"schedule": "polynomial", "decay_power": 2.0, "final_rate_share": 0.1},
            lambda o, w: optimization.get_polynomial_decay_schedule_with_warmup(o, w, STEPS, lr_end=0.1, power=2.0),
        ),
        (
            {"schedule": "cosine", "final_rate_share": 0.1},
            lambda o, w: optimization.get_cosine_with_min_lr_schedule_with_warmup(o, w, STEPS, min_lr_rate=0.1),
        ),
    ],
)
def test_after_the_warmup_rates_are_those_of_transformers(
    settings: dict[str, Any], make: Callable[[torch.optim.Optimizer, int], Any], warmup: int
) -> None:
    found, expected = rates(**settings, warmup_steps=warmup), theirs(lambda o: make(o, warmup), STEPS)
    assert found[warmup:] == pytest.approx(expected[warmup:])
    assert found[:warmup] == pytest.approx([(step + 1) / 4 for step in range(warmup)])  # no step is wasted at rate 0


def test_exponential_decays_from_the_first_epoch_on() -> None:
    config = TrainingConfig(learning_rate=5e-5, schedule="exponential", decay_rate=0.95, warmup_share=0.0)
    per_epoch = [[learning_rate_at(7 * epoch + step, 7, config) for step in range(7)] for epoch in range(3)]
    for found, expected in zip(per_epoch, (4.75e-5, 4.5125e-5, 4.286875e-5), strict=True):
        assert found == pytest.approx([expected] * 7, rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "make", "ahead"),
    [
        ({"schedule": "step", "decay_rate": 0.1}, lambda o: StepLR(o, step_size=2, gamma=0.1), 0),
        ({"schedule": "exponential", "decay_rate": 0.9}, lambda o: ExponentialLR(o, gamma=0.9), 1),
    ],
)
def test_decays_by_epoch_are_those_of_torch(
    settings: dict[str, Any], make: Callable[[torch.optim.Optimizer], Any], ahead: int
) -> None:
    expected = theirs(make, EPOCHS + ahead)[ahead:]  # torch's exponential leaves its first epoch at the peak
    found = rates(**settings, decay_epochs=2, warmup_share=0.0)
    assert found == pytest.approx([rate for rate in expected for _ in range(PER_EPOCH)])


@pytest.mark.parametrize("warmup_init", [False, True])
def test_relative_steps_are_those_of_adafactor_itself(warmup_init: bool) -> None:
    theirs = optimization.Adafactor(
        [torch.nn.Parameter(torch.ones(3))], relative_step=True, warmup_init=warmup_init, scale_parameter=False
    )
    flags = {"adafactor_relative_step": True, "adafactor_warmup_init": warmup_init}
    settings = {"optimizer": "adafactor", "schedule": "constant", "warmup_share": 0.0, "max_epochs": 1, **flags}
    config = TrainingConfig.model_validate(settings)
    for step in (1, 2, 100, 9_999, 10_001, 50_000, 1_000_000):
        expected = theirs._get_lr(theirs.param_groups[0], {"step": step})
        assert learning_rate_at(step - 1, 10**6, config) == pytest.approx(expected)
