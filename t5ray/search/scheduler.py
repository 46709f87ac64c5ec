"""Which trials are stopped early: ASHA or the median rule, with a memory that survives an interruption.

Comes in: epoch results of trials. Goes out: go on or stop. All that a rule must remember is in the ledger.

ASHA: Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning. Rungs stand at
`grace_epochs * reduction_factor ** k`; a trial goes on past a rung when it is among the best 1 in `reduction_factor`
of those that reached it before. Several brackets, the s-th of which leaves out the first s rungs: asynchronous
Hyperband. Median: Golovin et al. 2017, Google Vizier, section 3.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, exp, log
from statistics import median
from typing import Any, Protocol

import numpy as np
import ray.tune.schedulers

from t5ray.config import SchedulerConfig
from t5ray.search.ledger import Ledger

CONTINUE = str(ray.tune.schedulers.TrialScheduler.CONTINUE)
STOP = str(ray.tune.schedulers.TrialScheduler.STOP)


def rung_epochs(config: SchedulerConfig, max_epochs: int) -> list[int]:
    """Return the epochs after which trials of the first bracket may be stopped.

    Example:
        grace_epochs 1, reduction_factor 3, max_epochs 10 -> [1, 3, 9]
    """
    if config.name != "asha":
        return []
    rungs, epoch = [], float(config.grace_epochs)
    while epoch < max_epochs:
        rungs.append(ceil(epoch))
        epoch *= config.reduction_factor
    return [epoch for epoch in dict.fromkeys(rungs) if epoch < max_epochs]  # a small factor comes to some twice


def bracket_shares(config: SchedulerConfig, max_epochs: int) -> list[float]:
    """Return the share of trials that goes into each bracket: Ray's softmax over numbers of rungs.

    Example:
        3 brackets, grace_epochs 1, reduction_factor 3, max_epochs 9 (3, 2 and 1 rungs) -> [0.665, 0.245, 0.090]
    """
    if config.name != "asha":
        return [1.0]
    span = log(max_epochs / min(config.grace_epochs, max_epochs)) / log(config.reduction_factor)
    weights = [exp(max(0, int(span - bracket + 1))) for bracket in range(config.brackets)]
    return [weight / sum(weights) for weight in weights]


class Rule(Protocol):
    """Judges trials by their number."""

    def stops(self, trial: int, epoch: int, value: float) -> bool:
        """Say whether the trial must stop after this epoch, and remember the value."""

    def ended(self, trial: int, epoch: int, value: float) -> None:
        """Remember the last value of a trial that ended without being judged on it."""


def build_scheduler(config: SchedulerConfig, ledger: Ledger, max_epochs: int) -> "EpochScheduler":
    """Make the scheduler; what the ledger's trials have reached counts as it did before."""
    rule: Rule | None = None
    if config.name == "asha":
        rule = Asha(config, ledger, max_epochs)
    elif config.name == "median":
        rule = MedianRule(config, ledger)
    return EpochScheduler(rule, ledger)


class EpochScheduler(ray.tune.schedulers.FIFOScheduler):
    """Puts a rule between Tune and its trials.

    Failed trials and confirmation runs are none of the rule's business. A trial that was interrupted, or whose process
    died, tells its epochs again. It was judged on them before: it gets the answer that it got, not that of rungs that
    have filled since.
    """

    def __init__(self, rule: Rule | None, ledger: Ledger) -> None:
        """Judge by a rule, or not at all."""
        super().__init__()
        self.rule, self._ledger = rule, ledger
        self._judged = {record.trial: len(record.reports) for record in ledger.interrupted}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Say whether the trial goes on; that it does not is written into its record, which is saved with the epoch."""
        if self.rule is None or not _is_judged(trial, result):
            return CONTINUE
        number, epoch = int(trial.config["trial"]), int(result["epoch"])
        record = self._ledger.trials[number]
        if epoch <= self._judged.get(number, 0):
            return STOP if record.stopped_epoch == epoch else CONTINUE
        self._judged[number] = epoch  # a trial whose process dies tells its epochs again within the session, too
        if not self.rule.stops(number, epoch, result["value"]):
            return CONTINUE
        record.stopped_epoch = epoch
        return STOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Remember the last value of a trial that came to its end."""
        if self.rule is not None and _is_judged(trial, result):
            self.rule.ended(int(trial.config["trial"]), result["epoch"], result["value"])


def _is_judged(trial: Any, result: Mapping[str, Any]) -> bool:
    return "value" in result and trial.config.get("seed") is None


@dataclass(frozen=True)
class Numbered:
    """A trial under the name its values have in the rungs: its number, which outlives a session."""

    trial_id: str


class Asha(ray.tune.schedulers.ASHAScheduler):
    """Ray's ASHA over epochs, by number of trial, with rungs filled from the ledger."""

    def __init__(self, config: SchedulerConfig, ledger: Ledger, max_epochs: int) -> None:
        """Make empty rungs and fill them."""
        super().__init__(
            time_attr="epoch",
            metric="value",
            mode=ledger.mode,
            max_t=max_epochs,
            grace_period=min(config.grace_epochs, max_epochs),
            reduction_factor=config.reduction_factor,
            brackets=config.brackets,
        )
        self._shares = bracket_shares(config, max_epochs)
        for record in ledger.trials.values():
            self._remember(record.trial, record.values)

    def _remember(self, trial: int, values: Sequence[float]) -> None:
        for milestone, recorded in self.bracket_of(trial)._rungs:
            reached = [value for epoch, value in enumerate(values, start=1) if epoch >= milestone]
            if reached:
                recorded[str(trial)] = self._metric_op * reached[0]

    def bracket_of(self, trial: int) -> Any:
        """Return the bracket of a trial: drawn by its number alone, with the shares that Ray gives them."""
        return self._brackets[np.random.default_rng(trial).choice(len(self._shares), p=self._shares)]

    def stops(self, trial: int, epoch: int, value: float) -> bool:
        """Judge a trial at the rungs of its bracket."""
        decision = self.bracket_of(trial).on_result(Numbered(str(trial)), epoch, self._metric_op * value)
        return str(decision) == STOP

    def ended(self, trial: int, epoch: int, value: float) -> None:
        """Fill the rungs that the last epoch reached."""
        self.stops(trial, epoch, value)


class MedianRule:
    """Stop a trial whose best value so far is worse than the median of the other trials' means up to that epoch."""

    def __init__(self, config: SchedulerConfig, ledger: Ledger) -> None:
        """Judge by the ledger, which holds every epoch but the one that is being judged."""
        self._config, self._ledger = config, ledger
        self._sign = 1 if ledger.mode == "max" else -1

    def stops(self, trial: int, epoch: int, value: float) -> bool:
        """Judge a trial against those that have reached the epoch."""
        if epoch < self._config.grace_epochs:
            return False
        others = [
            self._sign * sum(record.values[:epoch]) / epoch
            for record in self._ledger.trials.values()
            if record.trial != trial and record.state != "FAIL" and len(record.values) >= epoch
        ]
        if len(others) < self._config.min_trials:
            return False
        own = [*self._ledger.trials[trial].values[: epoch - 1], value]
        return max(self._sign * v for v in own) < median(others)

    def ended(self, trial: int, epoch: int, value: float) -> None:
        """Remember nothing: the ledger does."""
