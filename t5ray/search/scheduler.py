"""Asynchronous successive halving (ASHA), with rungs that survive an interruption.

Source: Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning. Rungs stand at
`grace_epochs * reduction_factor ** k`; a trial goes on past a rung when it is among the best 1 in `reduction_factor`
of those that reached it before.
"""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Numbered:
    """A trial under the name its values have in the rungs: its number, which outlives a session."""

    trial_id: str

    @classmethod
    def of(cls, trial: Any) -> "Numbered":
        """Name a trial of Tune by its number."""
        return cls(str(trial.config["trial"]))


class Asha(ray.tune.schedulers.ASHAScheduler):
    """Ray's ASHA over epochs.

    Failed trials leave its rungs alone. An interrupted trial that tells its epochs again was judged on them before; it
    is not judged again by rungs that have filled since.
    """

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
        for record in ledger.trials.values():
            self._remember(record.trial, record.values)
        self._judged = {str(record.trial): len(record.values) for record in ledger.interrupted}

    def _remember(self, trial: int, values: list[float]) -> None:
        for milestone, recorded in self._brackets[0]._rungs:
            reached = [value for epoch, value in enumerate(values, start=1) if epoch >= milestone]
            if reached:
                recorded[str(trial)] = self._metric_op * reached[0]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Open the trial's books."""
        super().on_trial_add(tune_controller, Numbered.of(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Say whether the trial goes on."""
        named = Numbered.of(trial)
        if "value" in result and result["epoch"] <= self._judged.get(named.trial_id, 0):
            return str(self.CONTINUE)
        return str(super().on_trial_result(tune_controller, named, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Close the trial's books; a failed one has no value to record."""
        if "value" in result:
            super().on_trial_complete(tune_controller, Numbered.of(trial), result)
        else:
            self._trial_info.pop(Numbered.of(trial).trial_id, None)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Forget a trial whose process died for good."""
        self._trial_info.pop(Numbered.of(trial).trial_id, None)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Forget a trial that Tune dropped."""
        self._trial_info.pop(Numbered.of(trial).trial_id, None)
