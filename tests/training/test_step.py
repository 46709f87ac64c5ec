"""A step that exceeds the GPU's memory is done again in smaller parts, with the same result; how updates clip."""

import math
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from t5ray.config import TrainingConfig
from t5ray.data.batches import epoch_steps
from t5ray.data.tokens import TokenisedData
from t5ray.model.loading import load_model
from t5ray.model.numeric import set_dropout
from t5ray.model.optim import build_optimizer
from t5ray.model.packed import summed_loss
from t5ray.training import step as module
from t5ray.training.group import Group
from t5ray.training.plan import RunPlan
from t5ray.training.step import EpochSums, optimizer_step, update


def one_step(tiny_t5: Path, data: TokenisedData, plan: RunPlan, most: int) -> tuple[float, float, EpochSums, Any]:
    """Make one step of 16 rows on a device that holds `most` rows at once."""
    model = load_model(str(tiny_t5)).model.train()
    set_dropout(model, 0.0)
    real = summed_loss

    def limited(forward: Any, input_ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        loss = real(forward, input_ids, *rest)
        if len(input_ids) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return loss

    step = next(
        epoch_steps(data.train, batch_size=16, micro_batch_size=None, micro_batch_tokens=10_000, seed=0, epoch=1)
    )
    sums = EpochSums()
    with mock.patch.object(module, "summed_loss", limited):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        loss, norm = optimizer_step(model, optimizer, data.train, step, plan.config, Group(), sums)
    return loss, norm, sums, model.state_dict()


def test_out_of_memory_halves_the_micro_batch(tiny_t5: Path, data: TokenisedData, plan: RunPlan) -> None:
    loss, norm, whole, weights = one_step(tiny_t5, data, plan, most=16)
    assert whole.most_rows is None
    again, norm_again, parts, weights_again = one_step(tiny_t5, data, plan, most=5)
    assert parts.most_rows == 4
    assert (again, norm_again) == pytest.approx((loss, norm), rel=1e-5)
    assert parts.real_tokens == whole.real_tokens  # the failed attempts are not counted
    for name, weight in weights.items():
        torch.testing.assert_close(weights_again[name], weight)


def test_a_row_that_does_not_fit_is_an_error(tiny_t5: Path, data: TokenisedData, plan: RunPlan) -> None:
    with pytest.raises(torch.cuda.OutOfMemoryError):
        one_step(tiny_t5, data, plan, most=0)


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
