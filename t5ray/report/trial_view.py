"""One trial of search.json, ready to be shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from t5ray.report.charts import finite, is_number
from t5ray.report.words import number, setting

DEFAULT_TRIAL = 0
"""The trial that runs the settings as they are."""
STATES = {
    "COMPLETE": "ran all epochs",
    "PRUNED": "stopped early",
    "FAIL": "failed",
    "RUNNING": "cut off, resumable",
}


@dataclass(frozen=True, slots=True)
class TrialView:
    """What charts and table need of one trial."""

    number: int
    state: str
    is_stopped: bool
    """The scheduler stopped it. Of those that are PRUNED, the others were cut off when the time was up."""
    role: str
    """`winner`, `default` (where another trial won) or nothing."""
    reason: str
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
    def css(self) -> str:
        """Classes that style the trial's marks."""
        return f"{self.role} {self.state.lower()}".strip()


def view_trial(trial: Mapping[str, Any], winner: int | None) -> TrialView:
    """Read one entry of search.json's `trials`; `winner` is the number of the best trial."""
    number_, best_epoch, best_value = trial["trial"], trial.get("best_epoch"), finite(trial.get("best_value"))
    values = trial.get("values") or []
    at = "" if best_epoch is None else f" at epoch {best_epoch}"
    params = ", ".join(f"{name} {setting(value)}" for name, value in trial["params"].items())
    return TrialView(
        number=number_,
        state=trial["state"],
        is_stopped=trial["state"] == "PRUNED" and trial.get("stopped_epoch", True) is not None,
        role="winner" if number_ == winner else "default" if number_ == DEFAULT_TRIAL else "",
        reason=trial.get("reason") or "",
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
