"""Asynchronous successive halving (ASHA), with rungs that survive an interruption.

Source: Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning. Rungs stand at
`grace_epochs * reduction_factor ** k`; a trial goes on past a rung when it is among the best 1 in `reduction_factor`
of those that reached it before.
"""

from typing import Any

import ray.tune.schedulers

from t5ray.config import SchedulerConfig
from t5ray.search.ledger import Ledger


def rung_epochs(config: SchedulerConfig, max_epochs: int) -> list[int]:
    """Return the epochs after which trials may be stopped.

    Example:
        grace_epochs 1, reduction_factor 3, max_epochs 10 -> [1, 3, 9]
    """
    if config.name == "none":
        return []
    rungs, epoch = [], float(config.grace_epochs)
    while epoch < max_epochs:
        rungs.append(int(epoch))
        epoch *= config.reduction_factor
    return rungs


def build_scheduler(config: SchedulerConfig, ledger: Ledger, max_epochs: int) -> ray.tune.schedulers.TrialScheduler:
    """Make the scheduler; values of trials that have ended fill the rungs as they did before."""
    if config.name == "none":
        return ray.tune.schedulers.FIFOScheduler()
    return Asha(config, ledger, max_epochs)


class Asha(ray.tune.schedulers.ASHAScheduler):
    """Ray's ASHA over epochs; failed trials leave its rungs alone."""

    def __init__(self, config: SchedulerConfig, ledger: Ledger, max_epochs: int) -> None:
        """Make empty rungs and fill them from the ledger."""
        super().__init__(
            time_attr="epoch",
            metric="value",
            mode=ledger.mode,
            max_t=max_epochs,
            grace_period=min(config.grace_epochs, max_epochs),
            reduction_factor=config.reduction_factor,
        )
        for record in ledger.ended:
            self._remember(record.trial, record.values)

    def _remember(self, trial: int, values: list[float]) -> None:
        for milestone, recorded in self._brackets[0]._rungs:
            reached = [value for epoch, value in enumerate(values, start=1) if epoch >= milestone]
            if reached:
                recorded[f"before-{trial}"] = self._metric_op * reached[0]

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Close the trial's books; a failed one has no value to record."""
        if "value" in result:
            super().on_trial_complete(tune_controller, trial, result)
        else:
            self._trial_info.pop(trial.trial_id, None)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Forget a trial whose process died for good."""
        self._trial_info.pop(trial.trial_id, None)
