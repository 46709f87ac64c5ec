"""A server that was away when runs began: its ids come into the books, the results and the report's links."""

import json
from pathlib import Path

from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.result import write_summary
from t5ray.search.run_ids import has_handles, settle_run_ids
from t5ray.search.workspace import Workspace
from t5ray.tracking import MemoryTracker
from tests.report import samples

PAGES = "http://127.0.0.1:5000/#/experiments/1/runs/"


class LateTracker(MemoryTracker):
    """Knows the ids of what it could not begin at once, where the server is back."""

    def __init__(self, ids: dict[str, str]) -> None:
        super().__init__()
        self.ids, self.is_flushed = ids, False

    def flush(self) -> None:
        self.is_flushed = True

    def current_id(self, run_id: str) -> str:
        return self.ids.get(run_id, run_id) if self.is_flushed else run_id


def search(folder: Path) -> tuple[Ledger, Workspace, str]:
    """A finished search whose second trial and its run on a fresh seed began while the server was away."""
    content = {**samples.search(), "runs_url": PAGES}
    content["trials"][1]["mlflow_run_id"] = "unsent-11"
    write_summary(folder, content)
    ledger = Ledger(folder / "state/ledger.json", study_run_id="run-1", finished=True)
    ledger.path.parent.mkdir()
    for trial in content["trials"]:
        record = TrialRecord(trial["trial"], trial["params"], trial["state"], mlflow_run_id=trial["mlflow_run_id"])
        ledger.trials[record.trial] = record
    ledger.confirm_runs = [TrialRecord(1, {}, "COMPLETE", seed=7, mlflow_run_id="unsent-12")]
    return ledger, Workspace(folder, folder / "cache"), (folder / "report.html").read_text()


def test_ids_take_the_place_of_handles_everywhere(tmp_path: Path) -> None:
    ledger, workspace, report = search(tmp_path)
    tracker = LateTracker({"unsent-11": "a" * 32, "unsent-12": "b" * 32})
    study = tracker.start_run("words")
    assert has_handles(ledger)
    assert f"{PAGES}unsent" not in report
    settle_run_ids(ledger, workspace, tracker)
    saved = Ledger.load(ledger.path)
    assert not has_handles(saved)
    assert (saved.trials[1].mlflow_run_id, saved.confirm_runs[0].mlflow_run_id) == ("a" * 32, "b" * 32)
    trials = json.loads((tmp_path / "search.json").read_text())["trials"]
    assert [t["mlflow_run_id"] for t in trials] == [r.mlflow_run_id for r in saved.trials.values()]
    assert f'href="{PAGES}{"a" * 32}"' in (tmp_path / "report.html").read_text()
    assert tracker.runs[study].files == [(tmp_path / "report.html", ""), (tmp_path / "search.json", "")]


def test_while_the_server_is_away_nothing_changes(tmp_path: Path) -> None:
    ledger, workspace, report = search(tmp_path)
    tracker = LateTracker({})
    settle_run_ids(ledger, workspace, tracker)
    assert has_handles(Ledger.load(ledger.path))
    assert (tmp_path / "report.html").read_text() == report
    assert tracker.runs == {}
