"""How an update clips."""

import math
from pathlib import Path

import pytest
import torch

from t5ray.config import TrainingConfig
from t5ray.model.loading import load_model
from t5ray.model.optim import build_optimizer
from t5ray.training.step import update


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "adafactor"])
@pytest.mark.parametrize("most", [0.01, 1e6, None])
def test_the_update_is_that_of_a_clipped_gradient(tiny_t5: Path, optimizer: str, most: float | None) -> None:
    """Held to PyTorch's own clipping, then the same rule."""
    config = TrainingConfig.model_validate({"optimizer": optimizer, "max_grad_norm": most, "learning_rate": 1e-3})
    ours, theirs = (load_model(str(tiny_t5)).model for _ in range(2))
    built = [build_optimizer(model, config) for model in (ours, theirs)]
    for number in range(3):
        for model in (ours, theirs):
            torch.manual_seed(number)
            for weight in model.parameters():
                weight.grad = torch.randn_like(weight)
        expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), most or math.inf)
        assert update(ours, built[0], most or math.inf) == pytest.approx(float(expected), rel=1e-6)
        built[1].step()
    assert "grad_scale" not in vars(built[0])
    for name, weight in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], weight, rtol=1e-5, atol=1e-6)
