"""Tune's events, turned into the ledger, MLflow runs, deleted losers and a line on the console. Runs in the driver."""

import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import ray.cloudpickle
import ray.exceptions
import ray.tune

from t5ray.errors import ClusterError, StorageError
from t5ray.model.card import write_json
from t5ray.redaction import hide_secrets
from t5ray.search.confirm import standing
from t5ray.search.ledger import HEARD_MS, Ledger, TrialRecord
from t5ray.search.searcher import verdict
from t5ray.search.workspace import Workspace
from t5ray.tracking import Tracker
from t5ray.training.curves import log_epoch
from t5ray.training.plan import EpochReport

MLFLOW_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
REPORT_FIELDS = tuple(field.name for field in fields(EpochReport))
LONGEST_CAUSE = 500
RAYS_GUESSES = "Some common causes include"
"""Begins what Ray says of every process that died, memory among it, whatever this one died of."""
Announce = Callable[[TrialRecord], None]


class Observer(ray.tune.Callback):
    """Keeps the books of a search: the one writer of its ledger and of its MLflow runs."""

    def __init__(
        self,
        ledger: Ledger,
        tracker: Tracker,
        *,
        workspace: Workspace,
        objective: str,
        max_epochs: int,
        slots: int,
        announce: Announce,
        tell_end: Announce,
    ) -> None:
        """Begin to observe.

        Args:
            workspace: where checkpoints are, so that losers' can be deleted.
            slots: trials at a time.
            announce: called after every change of a trial.
            tell_end: called with a trial of whose end nobody else tells the sampler.
        """
        self.ledger, self.tracker, self.announce, self.tell_end = ledger, tracker, announce, tell_end
        self.workspace, self.objective, self.max_epochs = workspace, objective, max_epochs
        now = time.monotonic()
        self.away = ""
        """Why the search cannot go on, where a worker could not reach the storage."""
        self._started = now
        self._wall_before = ledger.wall_s
        self._slot_free = [now] * slots
        self._dropped = set[str]()
        self._origin: dict[str, float] = {}
        # a kill may have come between an epoch's place in the books and its event: the last one is logged again
        self._logged = {r.key: len(r.reports) - 1 for r in (*ledger.trials.values(), *ledger.confirm_runs)}

    def __getstate__(self) -> dict[str, Any]:
        """Leave Tune nothing to save: its own restore, which pickles callbacks, is not used."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Open the trial's MLflow run and its books."""
        record = self._record(trial)
        if record.key not in self._origin:  # a trial whose process died starts again in the books it has
            began = self._slot_free.pop(0) if self._slot_free else time.monotonic()
            self._origin[record.key] = began - record.busy_s - record.overhead_s  # an earlier session's count on
        if record.mlflow_run_id is None:
            confirms = {} if record.seed is None else {"t5ray.confirm_seed": str(record.seed)}
            run_id = self.tracker.start_run(
                f"trial {record.trial}" if record.seed is None else f"trial {record.trial}, seed {record.seed}",
                parent=self.ledger.study_run_id,
                params=record.params,
                tags={"t5ray.trial": str(record.trial), **confirms},
            )
            record.mlflow_run_id = run_id or None
        else:
            self.tracker.reopen_run(record.mlflow_run_id)
        self._save(record)
        with suppress(ClusterError):  # a storage that is away for a moment: the trial's end makes up
            self.workspace.upload_state()  # --resume elsewhere is to know of the trial from here on

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note an epoch.

        Raises:
            StorageError: a worker says so. That ends Tune's run; the trial stays open, for --resume to go on with.
        """
        record = self._record(trial)
        if "away" in result:
            self.away = result["away"]
            raise StorageError(self.away)
        if "value" not in result:
            record.reason = result.get("failure")
            return
        if "rows" in result:
            write_json(self.workspace.rows_of(record.key), result.pop("rows"))
        if int(result["epoch"]) > len(record.reports):
            trial.run_metadata.num_failures = 0  # it has come further: each epoch may cost as many processes
        self._note(record, {name: result[name] for name in REPORT_FIELDS})

    def _note(self, record: TrialRecord, report: dict[str, Any]) -> None:
        epoch = int(report["epoch"])
        known = record.reports[epoch - 1] if epoch <= len(record.reports) else {}
        report[HEARD_MS] = known.get(HEARD_MS, time.time_ns() // 1_000_000)
        record.reports[epoch - 1 :] = [report, *record.reports[epoch:]]  # told again: the same
        self._save(record)
        if self._logged.get(record.key, 0) < epoch:
            self._logged[record.key] = epoch
            if record.mlflow_run_id is not None:
                log_epoch(self.tracker, record.mlflow_run_id, report, self.objective, time_ms=report[HEARD_MS])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Close the books of a trial that ended by itself or was stopped."""
        record = self._record(trial)
        record.state = verdict(trial.last_result, error=False)  # type: ignore[assignment]
        if record.state == "PRUNED":
            reached = f"epoch {len(record.reports)} of {self.max_epochs}"
            record.reason = f"stopped after {reached}: too far behind the trials before it"
        self._close(record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Close the books of a trial whose process died for good."""
        record = self._record(trial)
        record.state = "FAIL"
        record.reason = hide_secrets(_cause(trial))
        self._close(record)
        self.tell_end(record)

    def cut_off(self, reason: str) -> None:
        """Close the books of trials that are running still: Tune drops them without a word when time is up.

        What has no value yet stays open, for --resume to go on with: trials before the end of their first epoch, and
        runs that confirm, half of which confirms nothing. So do trials of which it is unknown what they have kept.
        """
        for record in self.ledger.interrupted:
            if record.reports and self._is_told(record):
                record.state = "PRUNED"
                record.reason = f"cut off after epoch {len(record.reports)} of {self.max_epochs}: {reason}"
                self._close(record)
                self.tell_end(record)
        for record in (*self.ledger.interrupted, *self.ledger.confirm_runs):
            if record.state == "RUNNING":
                self._save(record)
                if record.mlflow_run_id is not None:
                    self.tracker.end_run(record.mlflow_run_id, "KILLED")

    def _is_told(self, record: TrialRecord) -> bool:
        """Say whether the books tell of the weights that a trial has kept, once they were brought up to them."""
        try:
            report = self.workspace.catch_up(record)
        except ClusterError:
            return False
        if report is not None:
            self._note(record, report)
        return True

    def _record(self, trial: Any) -> TrialRecord:
        number, seed = trial.config["trial"], trial.config.get("seed")
        return self.ledger.trials[number] if seed is None else self.ledger.confirm_run(number, seed)

    def _close(self, record: TrialRecord) -> None:
        self._count_overhead(record)
        self._origin.pop(record.key, None)
        self._slot_free.append(time.monotonic())
        if record.mlflow_run_id is not None:
            tags = {"t5ray.state": record.state, **({"t5ray.reason": record.reason} if record.reason else {})}
            self.tracker.end_run(
                record.mlflow_run_id,
                MLFLOW_STATUS[record.state],  # type: ignore[arg-type]
                tags=tags,
            )
        self.ledger.has_leader = standing(self.ledger).leader is not None  # in the books before any weights go
        self._save(record)
        try:
            self.workspace.upload_state()
        except ClusterError:  # a storage that is away for a moment: the next end, or the search's, makes up
            return
        self._delete_losers()  # only now: no weights go that the books still name, be it those at the storage URI

    def _count_overhead(self, record: TrialRecord) -> None:
        """Bring the run's overhead up to now, so that a kill loses none of it."""
        if record.key in self._origin:
            record.overhead_s = max(0.0, time.monotonic() - self._origin[record.key] - record.busy_s)

    def _delete_losers(self) -> None:
        """Delete the checkpoints of what has ended but for the best of it; a running one may still fail."""
        keys = standing(self.ledger).kept
        for record in (*self.ledger.ended, *self.ledger.confirm_runs):
            if record.key not in keys and record.key not in self._dropped:
                self.workspace.drop_trial(record.key)
                self._dropped.add(record.key)
            elif record.key in keys and record.state != "RUNNING":
                # its worker may have heard no more than that all is over
                self.workspace.leave_best(record.key, record.reports[-1]["best_step"])

    def _save(self, record: TrialRecord) -> None:
        self._count_overhead(record)
        self.ledger.wall_s = self._wall_before + time.monotonic() - self._started
        self.ledger.save()
        self.announce(record)


def _cause(trial: Any) -> str:
    """Return what ended a trial's process: the last line of the error, without what Ray says of other processes."""
    file = trial.pickled_error_file  # Tune copies it to where `get_pickled_error` looks later, or never
    exception = ray.cloudpickle.loads(Path(file).read_bytes()) if file and Path(file).exists() else None
    lines = [line.partition(RAYS_GUESSES)[0].strip() for line in str(exception or "").splitlines()]
    said = next(filter(None, reversed(lines)), "")
    if not said or isinstance(exception, ray.exceptions.RayActorError):
        said = f"the trial's process died: {said}".removesuffix(": ")
    return textwrap.shorten(said, LONGEST_CAUSE, placeholder=" …")
