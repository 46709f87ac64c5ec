"""One trial of search.json, ready to be shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from t5ray.report.charts import finite, is_number
from t5ray.report.words import number, setting

DEFAULT_TRIAL = 0
"""The trial that runs the settings as they are."""
RAN_ALL, BY_PATIENCE, STOPPED = "ran all epochs", "ended by patience", "stopped early"
BY_TIME, CUT_OFF, FAILED = "cut off by the time budget", "cut off, resumable", "failed"
ENDS = (RAN_ALL, BY_PATIENCE, STOPPED, BY_TIME, FAILED, CUT_OFF)
"""How trials end, in words: patience is early stopping's, within a trial; the scheduler stops those that lag behind."""
UNTIL = {
    STOPPED: " before they were stopped",
    BY_TIME: " before the time was up",
    FAILED: " before they failed",
    CUT_OFF: " so far",
}
"""How the default settings ended -> what their value is."""


@dataclass(frozen=True, slots=True)
class TrialView:
    """What charts and table need of one trial."""

    number: int
    state: str
    end: str
    """One of `ENDS`."""
    role: str
    """`winner`, `default` (where another trial won) or nothing."""
    reason: str
    """Why it did not run to its end; empty where it did."""
    params: Mapping[str, Any]
    points: tuple[tuple[int, float], ...]
    """(epoch, objective) where the objective is finite."""
    epochs: int
    """Epochs that were trained."""
    best_epoch: int | None
    best_value: float | None
    train_s: float | None
    overhead_s: float | None
    run_id: str | None
    title: str
    """The trial in one line, shown where the pointer rests on it."""

    @property
    def until(self) -> str:
        """What its value is, as a clause on the default settings; empty where they came to their own end."""
        return UNTIL.get(self.end, "")

    @property
    def css(self) -> str:
        """Classes that style the trial's marks."""
        return f"{self.role} {self.state.lower()}".strip()


def view_trial(trial: Mapping[str, Any], winner: int | None, max_epochs: int) -> TrialView:
    """Read one entry of search.json's `trials`; `winner` is the number of the best trial."""
    number_, best_epoch, best_value = trial["trial"], trial.get("best_epoch"), finite(trial.get("best_value"))
    values = trial.get("values") or []
    end = _end(trial, max_epochs)
    at = "" if best_epoch is None else f" at epoch {best_epoch}"
    params = ", ".join(f"{name} {setting(value)}" for name, value in trial["params"].items())
    return TrialView(
        number=number_,
        state=trial["state"],
        end=end,
        role="winner" if number_ == winner else "default" if number_ == DEFAULT_TRIAL else "",
        reason=trial.get("reason") or _reason(end, len(values), max_epochs),
        params=trial["params"],
        points=tuple((epoch, value) for epoch, value in enumerate(values, start=1) if is_number(value)),
        epochs=len(values),
        best_epoch=best_epoch,
        best_value=best_value,
        train_s=trial.get("train_s"),
        overhead_s=trial.get("overhead_s"),
        run_id=trial.get("mlflow_run_id"),
        title=f"Trial {number_}, {trial['state']}: best {number(best_value)}{at}. {params}",
    )


def _end(trial: Mapping[str, Any], max_epochs: int) -> str:
    """Say how a trial ended. Of those that are PRUNED, some were cut off when the time was up."""
    if trial["state"] == "PRUNED":
        return STOPPED if trial.get("stopped_epoch", True) is not None else BY_TIME
    if trial["state"] == "COMPLETE":
        return RAN_ALL if len(trial.get("values") or []) >= max_epochs else BY_PATIENCE
    return FAILED if trial["state"] == "FAIL" else CUT_OFF


def _reason(end: str, epochs: int, max_epochs: int) -> str:
    """Say why a trial did not run to its end where search.json does not."""
    after = f"after epoch {epochs} of {max_epochs}" if epochs else "before the end of its first epoch"
    if end == BY_PATIENCE:
        return f"ended {after}: it had become no better for as many evaluations as its patience"
    return f"cut off {after}; --resume goes on with it" if end == CUT_OFF else ""
