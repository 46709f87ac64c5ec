"""The console of a search: a live table on a terminal, one line per epoch when piped."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from rich.live import Live
from rich.table import Table

from t5ray.cli import console, say

STYLE_OF = {"RUNNING": "cyan", "COMPLETE": "green", "PRUNED": "dim", "FAIL": "red"}


class Trial(Protocol):
    """What the board shows of a trial."""

    @property
    def trial(self) -> int:
        """Its number."""

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


class Board:
    """Keeps the trials' latest state and shows it."""

    def __init__(self, objective: str, num_trials: int, max_epochs: int, *, mode: str = "max") -> None:
        self.objective, self.num_trials, self.max_epochs = objective, num_trials, max_epochs
        self.better = max if mode == "max" else min
        self.trials: dict[int, Trial] = {}
        self.live: Live | None = None
        self._started = time.monotonic()

    def update(self, trial: Trial) -> None:
        """Show a change of a trial."""
        self.trials[trial.trial] = trial
        if self.live is not None:
            self.live.update(self.table())
        else:
            self._line(trial)

    def _line(self, trial: Trial) -> None:
        if trial.state != "RUNNING":
            best = "no value" if trial.best_value is None else f"{self.objective} {trial.best_value:.4f}"
            say(f"trial {trial.trial:<3} {trial.state:<9} after {len(trial.values)} epochs, {best}")
        elif trial.values:
            say(f"trial {trial.trial:<3} epoch {len(trial.values)}/{self.max_epochs}  {trial.values[-1]:.4f}")

    def table(self) -> Table:
        """Draw every trial."""
        ended = sum(trial.state != "RUNNING" for trial in self.trials.values())
        elapsed = time.monotonic() - self._started
        table = Table(title=f"{ended} of {self.num_trials} trials, {elapsed:.0f} s", title_justify="left")
        for column in ("trial", "state", "epoch", self.objective, "best", "s", "settings"):
            table.add_column(column, justify="left" if column in ("state", "settings") else "right", no_wrap=True)
        best = self.better((t.best_value for t in self.trials.values() if t.best_value is not None), default=None)
        for number in sorted(self.trials):
            trial = self.trials[number]
            shown = "" if trial.best_value is None else f"{trial.best_value:.4f}"
            table.add_row(
                str(number),
                trial.state,
                f"{len(trial.values)}/{self.max_epochs}",
                f"{trial.values[-1]:.4f}" if trial.values else "",
                f"[bold]{shown}[/]" if trial.best_value == best else shown,
                f"{trial.busy_s:.0f}",
                short(trial.params),
                style=STYLE_OF[trial.state],
            )
        return table


def short(params: Mapping[str, Any]) -> str:
    """Write settings on one line.

    Example:
        short({"learning_rate": 0.00031234, "batch_size": 16}) -> "learning_rate=0.000312 batch_size=16"
    """
    return " ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in params.items())


@contextmanager
def board(objective: str, num_trials: int, max_epochs: int, *, mode: str = "max") -> Iterator[Board]:
    """Show a board while the block runs."""
    shown = Board(objective, num_trials, max_epochs, mode=mode)
    if not console.is_terminal:
        yield shown
        return
    with Live(shown.table(), console=console, refresh_per_second=2) as live:
        shown.live = live
        yield shown
