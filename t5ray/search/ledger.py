"""What is known of every trial, kept on disk after every report: what `--resume` and `search.json` are made of."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from t5ray.errors import DataError
from t5ray.model.card import write_text

State = Literal["RUNNING", "COMPLETE", "PRUNED", "FAIL"]
HEARD_MS = "heard_ms"
"""When an epoch was first heard of, in milliseconds since 1970: told again, it is the same point of its curves."""


@dataclass
class TrialRecord:
    """One trial."""

    trial: int
    """Optuna's number of the trial, counted from 0, which runs the defaults."""
    params: dict[str, Any]
    """Searched parameter -> value."""
    state: State = "RUNNING"
    reason: str | None = None
    """Why it was stopped or failed."""
    reports: list[dict[str, Any]] = field(default_factory=list)
    """Epoch reports, as the training loop sent them, with `heard_ms`: when, in milliseconds since 1970."""
    stopped_epoch: int | None = None
    """Epoch after which the scheduler said stop: remembered with the epoch, so that a resumed search says it again."""
    seed: int | None = None
    """Fresh seed of a run that confirms the trial; None for the trial itself."""
    overhead_s: float = 0.0
    """Seconds between its slot being free and its end in which it neither trained nor validated."""
    mlflow_run_id: str | None = None
    mark: str = ""
    """What no run of another search, or of other parameters, has: see `Ledger.mark`."""

    @property
    def key(self) -> str:
        """Name of the run's folder.

        Example:
            trial 3, marked 5f2a90c1 -> "3.5f2a90c1"; its run on seed 1001, marked 0b77d3e4 -> "3-seed1001.0b77d3e4"
        """
        name = str(self.trial) if self.seed is None else f"{self.trial}-seed{self.seed}"
        return f"{name}.{self.mark}" if self.mark else name

    @property
    def values(self) -> list[float]:
        """The objective after each epoch."""
        return [report["value"] for report in self.reports]

    @property
    def best_epoch(self) -> int | None:
        """Epoch with the best objective, counted from 1."""
        return self.reports[-1]["best_epoch"] if self.reports else None

    @property
    def best_value(self) -> float | None:
        """The objective of that epoch."""
        return self.reports[-1]["best_value"] if self.reports else None

    @property
    def was_cut(self) -> bool:
        """Whether the time budget, and not the scheduler, ended it: that says nothing about its parameters."""
        return self.state == "PRUNED" and self.stopped_epoch is None

    @property
    def busy_s(self) -> float:
        """Seconds of training and validation."""
        return float(sum(report["train_s"] + report["validate_s"] for report in self.reports))

    def public(self) -> dict[str, Any]:
        """Return the trial as search.json shows it."""
        return {
            "trial": self.trial,
            "state": self.state,
            "reason": self.reason,
            "params": self.params,
            "values": self.values,
            "stopped_epoch": self.stopped_epoch,
            "best_epoch": self.best_epoch,
            "best_value": self.best_value,
            "train_s": round(self.busy_s, 3),
            "overhead_s": round(self.overhead_s, 3),
            "mlflow_run_id": self.mlflow_run_id,
        }


@dataclass
class Ledger:
    """Every trial of a search, and what the search as a whole must remember."""

    path: Path
    mode: Literal["max", "min"] = "max"
    """Whether a larger objective is better."""
    identity: dict[str, str] = field(default_factory=dict)
    """What must not change between sessions: objective, data, model, search space, training settings."""
    key: str = ""
    """What no other search has; chosen before anybody hears of this one."""
    study_run_id: str | None = None
    """MLflow run of the study."""
    runs_url: str = ""
    """What a run's id is appended to for a link to its page in MLflow."""
    wall_s: float = 0.0
    """Seconds spent in sessions before this one."""
    finished: bool = False
    target: int = 0
    """Trials in all that the search is to run, extensions included."""
    most_trials: int | None = None
    """Trials that there can be besides those that the time budget cut off. None: no limit."""
    cpus_per_worker: int = 0
    """CPUs, and torch threads, that its workers have had; 0: none has begun."""
    budget_from_s: float = 0.0
    """`wall_s` at which the time budget began."""
    warm_points: list[dict[str, Any]] | None = None
    """Points of an earlier search that run first; None: not looked up yet."""
    confirm: dict[str, Any] | None = None
    """What training the best again on fresh seeds found, as search.json shows it."""
    has_leader: bool = False
    """Whether a confirmed candidate's weights have taken the place of the best trial's; no later trial undoes that."""
    confirm_seeds: list[int] = field(default_factory=list)
    """Fresh seeds of the runs that confirm the best; empty: no confirmation."""
    confirm_runs: list[TrialRecord] = field(default_factory=list)
    """Those runs, in the order in which they began."""
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    _lines: dict[str, tuple[object, str]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Key of a record that has ended -> a version of it, and its line."""

    @classmethod
    def load(cls, path: Path) -> "Ledger":
        """Read a ledger back.

        Raises:
            DataError: the file is missing or broken.
        """
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            trials = {record["trial"]: TrialRecord(**record) for record in saved.pop("trials")}
            runs = [TrialRecord(**record) for record in saved.pop("confirm_runs")]
            if "most" in saved:  # an older ledger, with another name of it, and none of `has_leader`
                saved |= {"grid_points": saved.pop("most"), "has_leader": saved["confirm"] is not None}
            if "grid_points" in saved:  # so it was called until it was not of grids alone
                saved["most_trials"] = saved.pop("grid_points")
            return cls(path=path, trials=trials, confirm_runs=runs, **saved)
        except (OSError, ValueError, TypeError, KeyError) as exc:
            raise DataError(f"{path}: must hold the saved state of a search, but cannot be read: {exc}.") from exc

    def save(self) -> None:
        """Write the ledger, whole or not at all: one line per trial, of which only those that changed are made anew."""
        head = {k: v for k, v in vars(self).items() if k not in ("path", "trials", "confirm_runs", "_lines")}
        runs = ",\n".join(map(self._line, self.confirm_runs))
        trials = ",\n".join(self._line(self.trials[number]) for number in sorted(self.trials))
        books = f'"confirm_runs": [\n{runs}],\n"trials": [\n{trials}]'
        write_text(self.path, f"{_json(head)[:-1]},\n{books}}}\n")

    def _line(self, record: TrialRecord) -> str:
        """Return a record as JSON. One that has ended is written again and again, but hardly ever changes."""
        if record.state == "RUNNING":
            return _json(asdict(record))
        last = record.reports[-1].get("best_step") if record.reports else None
        version = (record.state, record.reason, record.overhead_s, record.mlflow_run_id, len(record.reports), last)
        known, line = self._lines.get(record.key, (None, ""))
        if known != version:
            line = _json(asdict(record))
            self._lines[record.key] = (version, line)
        return line

    def confirm_run(self, trial: int, seed: int) -> TrialRecord:
        """Return the run of a trial on a fresh seed."""
        return next(run for run in self.confirm_runs if (run.trial, run.seed) == (trial, seed))

    def mark(self, record: TrialRecord) -> None:
        """Let the run's folder have a name of its own: what others saved, its loop never finds.

        A driver that is lost may leave checkpoints of which the ledger that a resumed search goes on with does not
        know: its next trial has the same number, but other parameters, and so another folder.
        """
        origin = [self.key, record.trial, record.seed, record.params]
        record.mark = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:8]

    def rank(self, record: TrialRecord) -> tuple[float, int]:
        """Return a key that sorts scored trials from the best to the worst; the earlier one first at a tie."""
        sign = -1 if self.mode == "max" else 1
        return sign * float(record.best_value or 0.0), record.trial

    def wanted(self, num_trials: int, extend: int | None) -> int:
        """Return how many trials are asked for in all; a later session never asks for fewer.

        Args:
            extend: trials to add to what there are, or were to be.
        """
        return max(num_trials if not extend else 0, self.target, len(self.trials)) + (extend or 0)

    def settle_target(self, wanted: int, most_trials: int | None = None) -> int:
        """Note and return how many trials there are to be.

        Args:
            wanted: see `wanted`.
            most_trials: as the ledger notes it.
        """
        self.most_trials = most_trials
        self.target = wanted if most_trials is None else min(wanted, most_trials + self.num_cut)
        return self.target

    @property
    def num_cut(self) -> int:
        """Trials that the time budget cut off."""
        return sum(record.was_cut for record in self.trials.values())

    @property
    def num_to_come(self) -> int:
        """Trials that have not ended."""
        return max(self.target - len(self.ended), 0)

    @property
    def is_exhausted(self) -> bool:
        """Whether there is no trial left to run."""
        return self.most_trials is not None and len(self.ended) - self.num_cut >= self.most_trials

    @property
    def ended(self) -> list[TrialRecord]:
        """Trials that will not go on."""
        return [record for _, record in sorted(self.trials.items()) if record.state != "RUNNING"]

    @property
    def interrupted(self) -> list[TrialRecord]:
        """Trials that were running when the search was cut off."""
        return [record for _, record in sorted(self.trials.items()) if record.state == "RUNNING"]

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the best checkpointed epoch; the earlier one at a tie. Running trials do not count yet."""
        scored = [r for r in self.ended if r.best_value is not None and r.state != "FAIL"]
        return min(scored, key=self.rank, default=None)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
