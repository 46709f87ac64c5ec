"""What the report of a search shows, from the mapping that search.json holds (DESIGN §4 has its keys)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t5ray.report.charts import finite
from t5ray.report.page import render
from t5ray.report.search_charts import learning_curves, slices
from t5ray.report.trial_view import STATES, TrialView, view_trial
from t5ray.report.words import setting


def render_search(search: Mapping[str, Any]) -> str:
    """Return report.html for the content of search.json.

    Args:
        search: `name`, `task`, `model`, `data`, `max_epochs` and `test` may be missing; `best` may be None.
    """
    best, default_value = search.get("best"), finite((search.get("default") or {}).get("value"))
    winner = None if best is None else best["trial"]
    trials = [view_trial(trial, winner) for trial in search["trials"]]
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    by_role = {trial.role: trial for trial in trials}
    longest = max((trial.epochs for trial in trials), default=0)
    return render(
        "search.html",
        title=search.get("name") or "Hyperparameter search",
        search=search,
        facts={name: search[name] for name in ("task", "model", "data") if search.get(name)},
        best=best,
        winner=by_role.get("winner"),
        default=by_role.get("default"),
        default_value=default_value,
        gain=_gain(best, default_value, search["mode"]),
        test=search.get("test") or {},
        trials=trials,
        states=[(state, sum(t.state == state for t in trials), words) for state, words in STATES.items()],
        parameters=names,
        curves=learning_curves(trials),
        slices=slices(trials, names),
        constant=_constant(trials, names),
        stopping=_stopping(trials, search.get("max_epochs") or longest),
        times=_times(search, trials),
    )


def _gain(best: Mapping[str, Any] | None, default: float | None, mode: str) -> float | None:
    """Return how much better the winner is than the default settings; negative where it is worse."""
    if best is None or default is None:
        return None
    difference = float(best["value"]) - default
    return difference if mode == "max" else -difference


def _constant(trials: Sequence[TrialView], names: Sequence[str]) -> dict[str, str]:
    """Return the parameters that had one value in all trials."""
    values = {name: {setting(trial.params[name]) for trial in trials if name in trial.params} for name in names}
    return {name: found.pop() for name, found in values.items() if len(found) == 1}


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

    @property
    def saved_share(self) -> float:
        """Share of all epochs, had no trial been stopped."""
        return self.saved / max(1, self.run + self.saved)


def _stopping(trials: Sequence[TrialView], max_epochs: int) -> Stopping:
    stopped = [trial for trial in trials if trial.state == "PRUNED"]
    return Stopping(
        max_epochs=max_epochs,
        run=sum(trial.epochs for trial in trials),
        saved=sum(max(0, max_epochs - trial.epochs) for trial in stopped),
        num_stopped=len(stopped),
    )


@dataclass(frozen=True, slots=True)
class Times:
    """Where the seconds went."""

    wall_s: float | None
    train_s: float
    """Training and validation, summed over trials: more than the wall time where trials ran side by side."""
    overhead_s: float
    overhead_per_trial_s: float

    @property
    def train_share(self) -> float:
        """Share of the trials' time that trained and validated."""
        return self.train_s / max(1e-9, self.train_s + self.overhead_s)


def _times(search: Mapping[str, Any], trials: Sequence[TrialView]) -> Times:
    overhead_s = search.get("overhead_s")
    if overhead_s is None:
        overhead_s = sum(trial.overhead_s or 0.0 for trial in trials)
    return Times(
        wall_s=search.get("wall_s"),
        train_s=sum(trial.train_s or 0.0 for trial in trials),
        overhead_s=overhead_s,
        overhead_per_trial_s=overhead_s / max(1, len(trials)),
    )
