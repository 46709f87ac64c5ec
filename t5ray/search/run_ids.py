"""MLflow's ids in the place of handles: a run that began while its server was away has an id only once that is back.

Comes in: ledger, search.json, tracker. Goes out: the same with ids, so that the report's links lead to the runs.
"""

import json

from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.result import write_summary
from t5ray.search.workspace import Workspace
from t5ray.tracking import Tracker, is_handle


def has_handles(ledger: Ledger) -> bool:
    """Say whether some run is known by a handle still."""
    return any(
        is_handle(run_id) for run_id in (ledger.study_run_id, *(record.mlflow_run_id for record in _all(ledger)))
    )


def settle_run_ids(ledger: Ledger, workspace: Workspace, tracker: Tracker) -> None:
    """Let MLflow make the runs that it missed, and put their ids into the ledger and a finished search's results."""
    if not has_handles(ledger):
        return
    tracker.flush()
    before = [record.mlflow_run_id for record in _all(ledger)]
    for record in _all(ledger):
        record.mlflow_run_id = _current(tracker, record.mlflow_run_id)
    ledger.study_run_id = _current(tracker, ledger.study_run_id)
    ledger.save()
    if before != [record.mlflow_run_id for record in _all(ledger)]:
        _write_again(ledger, workspace, tracker)


def _current(tracker: Tracker, run_id: str | None) -> str | None:
    return None if run_id is None else tracker.current_id(run_id)


def _all(ledger: Ledger) -> list[TrialRecord]:
    return [*ledger.trials.values(), *ledger.confirm_runs]


def _write_again(ledger: Ledger, workspace: Workspace, tracker: Tracker) -> None:
    """Write search.json and report.html with the ids, and upload them again."""
    content = json.loads((workspace.folder / "search.json").read_text(encoding="utf-8"))
    for trial in content["trials"]:
        trial["mlflow_run_id"] = ledger.trials[trial["trial"]].mlflow_run_id
    write_summary(workspace.folder, content)
    workspace.upload()
    if ledger.study_run_id is not None:
        for name in ("report.html", "search.json"):
            tracker.log_files(ledger.study_run_id, workspace.folder / name)
