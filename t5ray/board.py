"""The console of a search: a live table on a terminal, one line per epoch when piped."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from t5ray.counting import counted
from t5ray.report.words import seconds
from t5ray.terminal import console, say

STYLE_OF = {"RUNNING": "cyan", "COMPLETE": "green", "PRUNED": "dim", "FAIL": "red"}
OTHER_LINES = 7
"""Lines of the terminal that are no rows: the bar, the headings, the note on hidden rows, and a margin."""
FEWEST_ROWS = 4


class Trial(Protocol):
    """What the board shows of a trial, or of a run that confirms one."""

    @property
    def trial(self) -> int:
        """Its number."""

    @property
    def seed(self) -> int | None:
        """The fresh seed of a run that confirms the trial; None for the trial itself."""

    @property
    def state(self) -> str:
        """RUNNING, COMPLETE, PRUNED or FAIL."""

    @property
    def params(self) -> dict[str, Any]:
        """Searched parameter -> value."""

    @property
    def values(self) -> list[float]:
        """The objective after each epoch."""

    @property
    def best_value(self) -> float | None:
        """The best of them."""

    @property
    def busy_s(self) -> float:
        """Seconds of training and validation."""


Key = tuple[bool, int, int]
"""Orders trials by number, and behind them the runs that confirm some."""


class Board:
    """Keeps the trials' latest state and shows it."""

    def __init__(
        self,
        objective: str,
        num_trials: int,
        max_epochs: int,
        *,
        mode: str = "max",
        runs_again: Callable[[], int] = lambda: 0,
    ) -> None:
        self.objective, self.num_trials, self.max_epochs = objective, num_trials, max_epochs
        self.runs_again = runs_again
        """Counts the runs on fresh seeds that have not ended, those to come included."""
        self.better = max if mode == "max" else min
        self.trials: dict[Key, Trial] = {}
        self.is_live = False
        self._reached: dict[Key, tuple[str, int]] = {}
        """State and epochs that the last line about a trial told."""
        self._started = time.monotonic()
        self._epochs_before = 0
        """Epochs that an earlier session had run of the trials that go on now."""

    def update(self, trial: Trial) -> None:
        """Show a change of a trial."""
        key = (trial.seed is not None, trial.trial, trial.seed or 0)
        is_new = key not in self.trials
        if is_new:
            self._epochs_before += len(trial.values)
        self.trials[key] = trial
        reached = trial.state, len(trial.values)
        if not self.is_live and self._reached.get(key) != reached:  # else an epoch of before is told again
            self._reached[key] = reached
            self._line(trial, goes_on=is_new)

    def _line(self, trial: Trial, *, goes_on: bool) -> None:
        name = f"trial {trial.trial:<3}" if trial.seed is None else f"trial {trial.trial:<3} again on seed {trial.seed}"
        if trial.state != "RUNNING":
            best = "no value" if trial.best_value is None else f"{self.objective} {trial.best_value:.4f}"
            say(f"{name} {trial.state:<9} after {counted(len(trial.values), 'epoch')}, {best}")
        elif trial.values and goes_on:
            say(f"{name} goes on after epoch {len(trial.values)}/{self.max_epochs}")
        elif trial.values:
            say(f"{name} epoch {len(trial.values)}/{self.max_epochs}  {trial.values[-1]:.4f}")

    def view(self) -> Group:
        """Draw how far the search is, and its trials."""
        return Group(self.headline(), self.table())

    def headline(self) -> Table:
        """Draw a bar with trials, epochs, time and the time left, as far as it can be told."""
        searched = [t for t in self.trials.values() if t.seed is None]
        ended = sum(t.state != "RUNNING" for t in searched)
        epochs = sum(len(t.values) for t in self.trials.values())
        words = f"{ended} of {counted(self.num_trials, 'trial')}, {counted(epochs, 'epoch')}, {seconds(self.elapsed_s)}"
        if (left := self.left_s()) is not None:
            words += f", about {seconds(left)} left"
        if any(is_again for is_again, _, _ in self.trials):
            words += "; now training the best again on fresh seeds"
        line = Table.grid(padding=(0, 1))
        line.add_row(ProgressBar(total=max(1, self.num_trials), completed=ended, width=24), Text(words))
        return line

    @property
    def elapsed_s(self) -> float:
        """Seconds since the board was made."""
        return time.monotonic() - self._started

    def left_s(self) -> float | None:
        """Return the seconds that all missing runs take at the pace so far; None before the first trial has ended.

        Trials to come count as long as the ended ones were on average, runs on fresh seeds as full runs.
        """
        searched = [t for t in self.trials.values() if t.seed is None]
        lengths = [len(t.values) for t in searched if t.state != "RUNNING"]
        epochs = sum(len(t.values) for t in self.trials.values()) - self._epochs_before
        again = self.runs_again() * self.max_epochs
        if not lengths or epochs <= 0 or (len(lengths) >= self.num_trials and not again):
            return None
        trials = (self.num_trials - len(lengths)) * sum(lengths) / len(lengths) - self._running_epochs(again=False)
        missing = max(0.0, trials) + max(0, again - self._running_epochs(again=True))
        return missing * self.elapsed_s / epochs

    def _running_epochs(self, *, again: bool) -> int:
        running = (t for t in self.trials.values() if t.state == "RUNNING" and (t.seed is not None) == again)
        return sum(len(t.values) for t in running)

    def table(self) -> Table:
        """Draw every trial, or as many as the terminal has room for: running ones, the best, then the latest."""
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
        for column in ("trial", "state", "epoch", self.objective, "best", "time"):
            table.add_column(column, justify="left" if column == "state" else "right", no_wrap=True)
        table.add_column("settings")  # the only column that may be narrowed, and so is where others would be cut
        best = self.better((t.best_value for t in self.trials.values() if t.best_value is not None), default=None)
        keys = self._shown(best)
        for key in keys:
            self._add(table, self.trials[key], best)
        if len(keys) < len(self.trials):
            table.caption = f"not shown: {len(self.trials) - len(keys)} that have ended"
        return table

    def _shown(self, best: float | None) -> list[Key]:
        """Return what there is room for, in order."""
        room = max(FEWEST_ROWS, console.height - OTHER_LINES) if self.is_live else len(self.trials)

        def weight(key: Key) -> tuple[bool, bool, bool, Key]:
            trial = self.trials[key]
            return trial.state == "RUNNING", best is not None and trial.best_value == best, key == (False, 0, 0), key

        return sorted(sorted(self.trials, key=weight, reverse=True)[:room])

    def _add(self, table: Table, trial: Trial, best: float | None) -> None:
        shown = "" if trial.best_value is None else f"{trial.best_value:.4f}"
        table.add_row(
            str(trial.trial) if trial.seed is None else f"{trial.trial}, seed {trial.seed}",
            trial.state,
            f"{len(trial.values)}/{self.max_epochs}",
            f"{trial.values[-1]:.4f}" if trial.values else "",
            f"[bold]{shown}[/]" if shown and trial.best_value == best else shown,
            seconds(trial.busy_s),
            Text(short(trial.params), no_wrap=True, overflow="ellipsis"),
            style=STYLE_OF[trial.state],
        )


def short(params: Mapping[str, Any]) -> str:
    """Write settings on one line.

    Example:
        short({"learning_rate": 0.00031234, "batch_size": 16}) -> "learning_rate=0.000312 batch_size=16"
    """
    return " ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in params.items())


@contextmanager
def board(
    objective: str,
    num_trials: int,
    max_epochs: int,
    *,
    mode: str = "max",
    runs_again: Callable[[], int] = lambda: 0,
) -> Iterator[Board]:
    """Show a board while the block runs."""
    shown = Board(objective, num_trials, max_epochs, mode=mode, runs_again=runs_again)
    if not console.is_terminal:
        yield shown
        return
    shown.is_live = True
    with Live(get_renderable=shown.view, console=console, refresh_per_second=2, vertical_overflow="crop") as live:
        yield shown
        shown.is_live = False  # the last picture, which stays, has every trial
        live.vertical_overflow = "visible"
