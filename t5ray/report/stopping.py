"""What stopping early saved, and how many trials each epoch still had."""

from collections.abc import Sequence
from dataclasses import dataclass

from t5ray.report.charts import Scale, Tick
from t5ray.report.trial_view import STOPPED, TrialView

LEFT, RIGHT, TOP, BOTTOM = 46, 860, 22, 150
MOST_LABELS = 24
"""Up to this many bars carry their number."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One epoch."""

    epoch: int
    x: float
    width: float
    y: float
    num_trained: int
    """Trials that trained it."""
    num_stopped: int
    """Trials that were stopped after it."""
    is_rung: bool


@dataclass(frozen=True, slots=True)
class Stopping:
    """What stopping early saved."""

    max_epochs: int
    """Epochs of a full run."""
    run: int
    """Epochs that were trained over all trials."""
    saved: int
    """Epochs that the stopped trials would still have had."""
    num_stopped: int
    saved_s: float
    """Seconds of training that these epochs would have taken, at the mean of those that were run."""
    rungs: Sequence[int]
    bars: list[Bar]
    ticks: list[Tick]

    @property
    def saved_share(self) -> float:
        """Share of all epochs, had no trial been stopped."""
        return self.saved / max(1, self.run + self.saved)

    @property
    def has_labels(self) -> bool:
        """Tell whether there is room for numbers on the bars."""
        return len(self.bars) <= MOST_LABELS


def view_stopping(trials: Sequence[TrialView], max_epochs: int, rungs: Sequence[int]) -> Stopping:
    """Count epochs run and saved."""
    stopped = [trial for trial in trials if trial.end == STOPPED]
    run, saved = sum(trial.epochs for trial in trials), sum(max(0, max_epochs - trial.epochs) for trial in stopped)
    train_s = sum(trial.train_s or 0.0 for trial in trials)
    y = Scale(0, max(1, len(trials)), BOTTOM, TOP)
    return Stopping(
        max_epochs=max_epochs,
        run=run,
        saved=saved,
        num_stopped=len(stopped),
        saved_s=saved * train_s / max(1, run),
        rungs=rungs,
        bars=[_bar(epoch, trials, max_epochs, y, epoch in rungs) for epoch in range(1, max_epochs + 1)],
        ticks=[tick for tick in y.ticks(3) if float(tick.label).is_integer()],
    )


def _bar(epoch: int, trials: Sequence[TrialView], max_epochs: int, y: Scale, is_rung: bool) -> Bar:
    step = (RIGHT - LEFT) / max_epochs
    trained = sum(trial.epochs >= epoch for trial in trials)
    stopped = sum(trial.epochs == epoch and trial.end == STOPPED for trial in trials)
    gap = min(8.0, 0.2 * step)
    return Bar(
        epoch,
        round(LEFT + (epoch - 1) * step + gap / 2, 1),
        round(step - gap, 1),
        y(trained),
        trained,
        stopped,
        is_rung,
    )
