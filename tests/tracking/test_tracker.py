from pathlib import Path

import pytest

from t5ray.config import TrackingConfig
from t5ray.tracking import MemoryTracker, NoTracker, Tracker, open_tracker


def record_a_study(tracker: Tracker) -> tuple[str, str]:
    study = tracker.start_run("study", tags={"task": "dates"})
    trial = tracker.start_run("trial_0", parent=study, params={"learning_rate": 1e-3})
    tracker.log_metrics(trial, {"accuracy": 0.5}, step=1)
    tracker.log_metrics(trial, {"accuracy": 0.75}, step=2)
    tracker.end_run(trial, "FINISHED", metrics={"test_accuracy": 0.75}, tags={"state": "COMPLETE"})
    tracker.log_files(study, Path("best"), "bundle")
    return study, trial


def test_memory_tracker_keeps_everything() -> None:
    tracker = MemoryTracker()
    study, trial = record_a_study(tracker)
    run = tracker.runs[trial]
    assert (run.name, run.parent, run.params) == ("trial_0", study, {"learning_rate": 1e-3})
    assert run.curves == {"accuracy": [(1, 0.5), (2, 0.75)]}
    assert (run.status, run.metrics, run.tags) == ("FINISHED", {"test_accuracy": 0.75}, {"state": "COMPLETE"})
    assert tracker.runs[study].status == "RUNNING"
    assert tracker.runs[study].files == [(Path("best"), "bundle")]
    tracker.reopen_run(trial)
    assert tracker.runs[trial].status == "RUNNING"
    assert not tracker.closed
    assert tracker.close() == []
    assert tracker.closed


def test_memory_tracker_knows_no_unknown_run() -> None:
    with pytest.raises(KeyError, match="gone"):
        MemoryTracker().log_metrics("gone", {"accuracy": 1.0}, step=1)
    with pytest.raises(KeyError, match="gone"):
        MemoryTracker().start_run("trial", parent="gone")


def test_uri_none_records_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = open_tracker(TrackingConfig(uri="none"))
    assert isinstance(tracker, NoTracker)
    study, trial = record_a_study(tracker)
    assert study == trial == ""  # no run, so no id of one
    tracker.reopen_run(study)
    assert tracker.close() == []
    assert list(tmp_path.iterdir()) == []
