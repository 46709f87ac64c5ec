"""Early stopping: whether a metric has stood still for too long. Numbers in, a verdict out."""

from collections.abc import Sequence
from typing import Any, Literal

from t5ray.text.objectives import WATCHED
from t5ray.training.plan import RunPlan


def patience_is_over(
    values: Sequence[float], mode: Literal["max", "min"], *, patience: int, min_gain: float = 0.0
) -> bool:
    """Say whether the last `patience` values gained nothing over the best before them.

    Args:
        values: the metric at each evaluation, in order.
        min_gain: a value counts as better when it is better by more than this.
    Example:
        losses 0.45, 0.40, 0.42, patience 1 -> True (and False before the third)
    Source: Prechelt 1998, Early Stopping - But When?
    """
    sign = 1 if mode == "max" else -1
    best, waited = float("-inf"), 0
    for value in values:
        if sign * value > best + min_gain:
            best, waited = sign * value, 0
        else:
            waited += 1
    return waited >= patience


def should_stop(plan: RunPlan, evaluations: Sequence[dict[str, Any]]) -> bool:
    """Say whether a run with these evaluations ends early."""
    config = plan.config
    if config.early_stopping_patience is None:
        return False
    metric = config.early_stopping_metric or plan.objective
    mode: Literal["max", "min"] = "min" if metric in WATCHED else "max"
    values = [found[metric] if metric in WATCHED else found["metrics"][metric] for found in evaluations]
    return patience_is_over(
        values, mode, patience=config.early_stopping_patience, min_gain=config.early_stopping_min_gain
    )
