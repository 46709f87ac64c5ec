"""What MLflow is sent of an epoch: the curves over its steps, and its metrics."""

from typing import Any

from t5ray.tracking import Tracker


def log_epoch(
    tracker: Tracker, run_id: str, report: dict[str, Any], objective: str, *, time_ms: int | None = None
) -> None:
    """Send an epoch's curves and metrics to the tracker; `time_ms` as in `Tracker.log_metrics`."""
    for point in report["history"]:
        values = {k: v for k, v in point.items() if k != "step"}
        tracker.log_metrics(run_id, values, step=int(point["step"]), time_ms=time_ms)
    epoch_metrics = {
        **report["metrics"],
        "validation_loss": report["validation_loss"],
        "train_loss": report["train_loss"],
        "epoch_tokens_per_s": report["tokens_per_s"],  # curves over steps have the plain names
        "epoch_padding_share": report["padding_share"],
        "hit_cap_share": report["hit_cap"],
        f"best_{objective}": report["best_value"],
    }
    tracker.log_metrics(run_id, epoch_metrics, step=report["epoch"], time_ms=time_ms)
