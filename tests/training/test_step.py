"""One optimizer step: how it clips, what it counts, what it refuses to go on with."""

import math
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from t5ray.config import TrainingConfig
from t5ray.data.tokens import TokenisedData
from t5ray.model.loading import load_model
from t5ray.model.optim import build_optimizer
from t5ray.training import step
from t5ray.training.group import Group
from t5ray.training.loop import fine_tune
from t5ray.training.plan import RunFailed, RunPlan
from t5ray.training.step import EpochSums, accumulate, total_norm, update
from tests.training.running import go_on, run


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
        assert update(ours, built[0], most or math.inf) == pytest.approx(float(expected), rel=1e-5)
        built[1].step()
    assert "grad_scale" not in vars(built[0])
    for name, weight in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], weight, rtol=1e-5, atol=1e-6)


def test_the_norm_of_large_gradients() -> None:
    """Held to numpy in fp64: of a head's size, where a plain fp32 sum loses digits, and of other layouts."""
    torch.manual_seed(0)
    gradients = [torch.randn(32_128, 512) * 1e-3, torch.randn(3, 5).T, torch.randn(7)]
    expected = math.sqrt(sum(float((gradient.double().numpy() ** 2).sum()) for gradient in gradients))
    assert float(total_norm(gradients)) == pytest.approx(expected, rel=1e-4)
    halves = [gradient.bfloat16() for gradient in gradients]
    assert float(total_norm(halves)) == pytest.approx(expected, rel=2**-7)
    assert float(total_norm([])) == 0


@pytest.mark.parametrize("number", [1, 9])
def test_a_gradient_that_is_not_finite_is_named_at_its_own_step(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, number: int
) -> None:
    """An epoch has eight steps, and each has one micro-batch: the ninth gradient is the second epoch's first."""
    loaded, gradients = load_model(str(tiny_t5)), count(1)
    loaded.model.shared.weight.register_hook(lambda gradient: gradient * (math.inf if next(gradients) == number else 1))
    with pytest.raises(RunFailed, match=rf"the gradient must be finite, but its norm is (nan|inf) at step {number}$"):
        fine_tune(loaded, data, plan, group=Group(), report=go_on, tick=lambda _: None)


@pytest.mark.parametrize("number", [1, 9])
def test_a_loss_that_is_not_finite_is_named_at_its_own_step(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    steps = count(1)
    monkeypatch.setattr(step, "accumulate", lambda *given: math.nan if next(steps) == number else accumulate(*given))
    with pytest.raises(RunFailed, match=f"the loss must be finite, but is nan at step {number}$"):
        run(tiny_t5, data, plan)


def test_rows_without_weight_are_not_counted(tiny_t5: Path, data: TokenisedData, plan: RunPlan) -> None:
    """An idle worker forwards one to join the reduction."""
    model, sums = load_model(str(tiny_t5)).model, EpochSums()
    assert accumulate(model, data.train, [[0]], [0.0], plan.config, Group(), sums) == 0
    assert (sums.real_tokens, sums.padded_tokens) == (0, 0)
    accumulate(model, data.train, [[0], [1]], [1.0, 0.0], plan.config, Group(), sums)
    assert sums.real_tokens == data.train.input_lengths[0] + data.train.label_lengths[0]


def one_step(plan: RunPlan, rows: int, **settings: object) -> RunPlan:
    """All rows in one step, then the end; nothing but these settings acts."""
    values = {"batch_size": rows, "max_epochs": 1, "dropout": 0.0, **settings}
    return replace(plan, config=plan.config.model_copy(update=values))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_run_s_loss_is_smoothed_as_pytorch_smooths_it(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, smoothing: float
) -> None:
    rows, model = data.train, load_model(str(tiny_t5)).model.eval()
    total = tokens = 0.0
    for i in range(len(rows)):
        ids = torch.tensor(rows.input_ids[rows.input_offsets[i] : rows.input_offsets[i + 1]].astype("int64"))[None]
        labels = torch.tensor(rows.labels[rows.label_offsets[i] : rows.label_offsets[i + 1]].astype("int64"))[None]
        with torch.no_grad():
            logits = model(input_ids=ids, labels=labels).logits[0]
        total += cross_entropy(logits, labels[0], label_smoothing=smoothing, reduction="sum").item()
        tokens += labels.numel()
    (report,), _ = run(tiny_t5, data, one_step(plan, len(rows), label_smoothing=smoothing))
    assert report["train_loss"] == pytest.approx(total / tokens, rel=1e-5)


def test_the_run_clips_its_gradients(tiny_t5: Path, data: TokenisedData, plan: RunPlan) -> None:
    """The first step of plain SGD is the learning rate times the gradient, here far longer than is let through."""
    settings = {"optimizer": "sgd", "schedule": "constant", "learning_rate": 0.5, "weight_decay": 0.0}
    before = dict(load_model(str(tiny_t5)).model.named_parameters())
    (report,), after = run(tiny_t5, data, one_step(plan, len(data.train), max_grad_norm=0.01, **settings))
    assert report["history"][0]["grad_norm"] > 0.1
    moved = math.sqrt(sum(float((after[name] - weight).square().sum()) for name, weight in before.items()))
    assert moved == pytest.approx(0.5 * 0.01, rel=1e-3)
