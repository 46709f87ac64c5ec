"""A real `mlflow server` on loopback that is killed and started again."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from t5ray.config import TrackingConfig
from t5ray.tracking import open_tracker
from t5ray.tracking.uri import ui_command
from tests.tracking.server import Server, runs_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


def test_a_server_that_goes_away_and_comes_back(server: Server, tmp_path: Path) -> None:
    outbox = tmp_path / "outbox.jsonl"
    config = TrackingConfig(uri=server.uri, experiment="back")
    tracker = open_tracker(config, outbox=outbox)
    study = tracker.start_run("study")
    known = tracker.start_run("trial_0", parent=study, params={"learning_rate": 0.1})
    tracker.log_metrics(known, {"accuracy": 0.1}, step=1)

    server.kill()
    start_s = time.monotonic()
    for step in (2, 3):
        tracker.log_metrics(known, {"accuracy": step / 10}, step=step)
    unknown = tracker.start_run("trial_1", parent=study, params={"learning_rate": 0.2})
    tracker.log_metrics(unknown, {"accuracy": 0.5}, step=1)
    tracker.end_run(known, "FINISHED", metrics={"test_accuracy": 0.3})
    assert time.monotonic() - start_s < 2.5
    assert unknown.startswith("unsent-")

    server.start()
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "t5ray.json").write_text("{}")
    tracker.log_files(study, bundle, "best")
    tracker.end_run(unknown, "KILLED")
    tracker.end_run(study, "FINISHED")
    assert tracker.close() == []
    assert not outbox.exists()

    runs = runs_of(server, config.experiment)
    assert {name: run.info.status for name, run in runs.items()} == {
        "study": "FINISHED",
        "trial_0": "FINISHED",
        "trial_1": "KILLED",
    }
    assert runs["trial_0"].info.run_id == tracker.current_id(known)
    assert runs["trial_0"].data.metrics == {"accuracy": 0.3, "test_accuracy": 0.3}
    assert runs["trial_1"].data.params == {"learning_rate": "0.2"}
    assert runs["trial_1"].data.tags["mlflow.parentRunId"] == tracker.current_id(study)
    assert runs["trial_1"].data.tags["t5ray.handle"] == unknown
    assert server.get(f"/get-artifact?run_uuid={study}&path=best/t5ray.json") == b"{}"


def test_what_a_dead_server_misses_is_told_kept_and_sent_later(server: Server, tmp_path: Path) -> None:
    outbox = tmp_path / "state" / "outbox.jsonl"
    config = TrackingConfig(uri=server.uri, experiment="dead")
    tracker = open_tracker(config, outbox=outbox)
    study = tracker.start_run("study")
    server.kill()
    trial = tracker.start_run("trial_0", parent=study, params={"dropout": 0.1})
    tracker.log_metrics(trial, {"accuracy": 0.5}, step=1)
    tracker.end_run(trial, "FINISHED")
    start_s = time.monotonic()
    lines = tracker.close()
    assert time.monotonic() - start_s < 10
    assert lines == [
        f"MLflow at {server.uri} did not answer ([Errno 111] Connection refused). "
        "Not sent: trial_0 (start, metrics of step 1, end FINISHED).",
        f"It is kept in {outbox}. The same command with --resume sends it.",
    ]

    server.start()
    later = open_tracker(config, outbox=outbox)
    later.reopen_run(study)
    later.reopen_run(trial)
    later.log_metrics(trial, {"accuracy": 0.75}, step=2)
    later.end_run(trial, "FINISHED", metrics={"test_accuracy": 0.75})
    later.end_run(study, "FINISHED")
    assert later.close() == []
    assert not outbox.exists()
    runs = runs_of(server, config.experiment)
    assert set(runs) == {"study", "trial_0"}
    assert runs["trial_0"].data.params == {"dropout": "0.1"}
    assert runs["trial_0"].data.metrics == {"accuracy": 0.75, "test_accuracy": 0.75}
    assert runs["trial_0"].data.tags["mlflow.parentRunId"] == study


def test_the_printed_ui_shows_files_that_were_written_without_a_server(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = open_tracker(TrackingConfig(uri=uri))
    study = tracker.start_run("study")
    (tmp_path / "report.html").write_text("<p>fine</p>")
    tracker.log_files(study, tmp_path / "report.html")
    assert tracker.close() == []
    assert ui_command(uri).split() == ["mlflow", "ui", "--backend-store-uri", uri]
    ui = Server(tmp_path, "mlflow.db")  # `mlflow ui` is another name of `mlflow server`
    ui.start()
    try:
        assert ui.get(f"/get-artifact?run_uuid={study}&path=report.html") == b"<p>fine</p>"
    finally:
        ui.kill()
