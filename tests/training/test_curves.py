"""What a run tells while it trains: the points that MLflow gets, and the text beside the bar."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import psutil
import pytest

from t5ray import terminal
from t5ray.data.tokens import TokenisedData
from t5ray.tracking import Tracker
from t5ray.training.curves import log_epoch
from t5ray.training.loop import HISTORY_POINTS
from t5ray.training.plan import Pulse, RunPlan
from tests.training.running import run

CURVES = {"loss", "learning_rate", "grad_norm", "tokens_per_s", "padding_share", "memory_bytes"}


@pytest.mark.parametrize(
    ("batch_size", "every", "steps"),
    [(16, None, range(1, 9)), (2, None, range(3, 64, 3)), (16, 3, range(3, 9, 3)), (2, 5, range(5, 64, 5))],
)
def test_mlflow_gets_every_curve_every_few_steps(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, batch_size: int, every: int | None, steps: range
) -> None:
    """128 rows: 8 steps are told one by one, of 64 every third, for an epoch has some 20 points; or as is asked."""
    update = {"max_epochs": 1, "batch_size": batch_size, "log_every_steps": every}
    config = plan.config.model_copy(update=update)
    (report,), _ = run(tiny_t5, data, replace(plan, config=config))
    tracker = mock.create_autospec(Tracker)
    log_epoch(tracker, "run", report, "exact_match")
    told = [(call.kwargs["step"], call.args[1]) for call in tracker.log_metrics.call_args_list]
    points = [(step, metrics) for step, metrics in told if "grad_norm" in metrics]
    assert [step for step, _ in points] == list(steps)
    assert len(points) <= 1.1 * HISTORY_POINTS
    for _, metrics in points:
        assert set(metrics) == CURVES
        assert all(metrics[name] > 0 for name in ("loss", "learning_rate", "grad_norm", "tokens_per_s"))
        assert 0 <= metrics["padding_share"] < 1
        assert 0 < metrics["memory_bytes"] < psutil.virtual_memory().total
    epoch, last = told[-1]
    assert epoch == 1
    assert set(last) > {"exact_match", "train_loss", "validation_loss", "best_exact_match", "epoch_padding_share"}
    assert not set(last) & CURVES  # a curve has one axis: steps, or epochs


def test_piped_training_says_loss_rate_speed_and_what_time_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 0.0, 90.0, 180.0])  # nine steps in 90 s, ten to go
    monkeypatch.setattr("t5ray.terminal.time.monotonic", lambda: next(clock))
    with terminal.progress("training", None) as advance:
        for step in (1, 10, 20):
            pulse = Pulse(step, 20, 1.23456, 3e-4, 12345.6)
            advance(pulse.step, pulse.shown, pulse.num_steps)
    said = "loss 1.235, learning rate 3.00e-04, 12,346 tokens/s"
    assert capsys.readouterr().out.splitlines() == [
        f"training: 1 of 20 {said}",
        f"training: 10 of 20 {said}, 0:01:40 left",
        f"training: 20 of 20 {said}",
    ]
