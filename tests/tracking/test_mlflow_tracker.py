"""Each test reads with MLflow's own client what the tracker wrote."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, cast

import boto3
import botocore.config
import pytest
import requests
from mlflow.utils.request_utils import augmented_raise_for_status

from t5ray.config import TrackingConfig
from t5ray.errors import TrackingError
from t5ray.tracking import Dataset, is_handle, mlflow_tracker, open_tracker
from t5ray.tracking.mlflow_tracker import MlflowTracker
from t5ray.tracking.outbox import Away, Event, Refused, read_events
from t5ray.tracking.store import ARTIFACT_FOLDER, MlflowStore, translated

Config = Callable[[], TrackingConfig]


class AwayStore:
    """An MLflow that answers nothing."""

    experiment_id = "1"

    def send(self, event: Event) -> None:
        raise Away("connection refused")

    def known_id(self, run: str) -> None:
        return None


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def runs_of(config: TrackingConfig) -> dict[str, Any]:
    reader = client(config.uri)
    experiment = reader.get_experiment_by_name(config.experiment)
    return {run.info.run_name: run for run in reader.search_runs([experiment.experiment_id])}


def test_a_study_and_its_trial(config: Config, sqlite_uri: str) -> None:
    tracker = open_tracker(config())
    study = tracker.start_run("study", tags={"task": "dates"})
    trial = tracker.start_run("trial_0", parent=study, params={"learning_rate": 2e-3, "optimizer": "adamw"})
    for step, accuracy in enumerate([0.25, 0.75, 0.5], start=1):
        tracker.log_metrics(trial, {"accuracy": accuracy, "validation_loss": 1.0 - accuracy}, step=step)
    tracker.end_run(trial, "KILLED", metrics={"test_accuracy": 0.75}, tags={"state": "PRUNED"})
    tracker.end_run(study, "FINISHED")
    assert tracker.close() == []

    runs = runs_of(config())
    assert set(runs) == {"study", "trial_0"}
    assert (runs["study"].info.run_id, runs["trial_0"].info.run_id) == (study, trial)
    assert runs["study"].info.status == "FINISHED"
    assert runs["study"].data.tags["task"] == "dates"
    assert runs["trial_0"].info.status == "KILLED"
    assert runs["trial_0"].info.end_time >= runs["trial_0"].info.start_time
    assert runs["trial_0"].data.params == {"learning_rate": "0.002", "optimizer": "adamw"}
    assert runs["trial_0"].data.tags["mlflow.parentRunId"] == study
    assert runs["trial_0"].data.tags["state"] == "PRUNED"
    assert runs["trial_0"].data.metrics == {"accuracy": 0.5, "validation_loss": 0.5, "test_accuracy": 0.75}
    curve = [(point.step, point.value) for point in client(sqlite_uri).get_metric_history(trial, "accuracy")]
    assert sorted(curve) == [(1, 0.25), (2, 0.75), (3, 0.5)]


@pytest.mark.parametrize(
    ("source", "kind", "shown"),
    [
        ("rows.csv", "local", {"uri": "rows.csv"}),
        ("s3://bucket/rows.csv", "s3", {"uri": "s3://bucket/rows.csv"}),
        ("https://me:secret@host/rows.csv", "http", {"url": "https://***@host/rows.csv"}),
    ],
)
def test_a_run_names_its_dataset_once(config: Config, source: str, kind: str, shown: dict[str, str]) -> None:
    for _ in range(2):  # a kill had forgotten it
        tracker = open_tracker(config())
        run = tracker.start_run("study", key="a", dataset=Dataset("rows.csv", "0a1b" * 8, source))
        tracker.end_run(run, "FINISHED")
        assert tracker.close() == []
    (found,) = runs_of(config())["study"].inputs.dataset_inputs
    data = found.dataset
    assert (data.name, data.digest, data.source_type, json.loads(data.source)) == ("rows.csv", "0a1b" * 8, kind, shown)
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "training")]


def test_files_lie_beside_the_database_and_nothing_in_the_working_directory(
    config: Config, sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "t5ray.json").write_text("{}")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    tracker = open_tracker(config())
    run = tracker.start_run("study")
    tracker.log_files(run, bundle, "best")
    tracker.log_files(run, bundle / "t5ray.json")
    assert tracker.close() == []
    folder = Path(sqlite_uri.removeprefix("sqlite:///")).parent / ARTIFACT_FOLDER / run / "artifacts"
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.json")) == ["best/t5ray.json", "t5ray.json"]
    assert list(elsewhere.iterdir()) == []


def test_a_later_tracker_goes_on_with_the_same_run(config: Config) -> None:
    first = open_tracker(config())
    run = first.start_run("trial_0", params={"learning_rate": 0.1, "data": "ftp://me:secret@host/rows.csv"})
    first.log_metrics(run, {"accuracy": 0.5}, step=1)
    first.end_run(run, "KILLED")
    assert first.close() == []
    second = open_tracker(config())
    second.reopen_run(run)
    assert runs_of(config())["trial_0"].info.status == "RUNNING"
    second.log_metrics(run, {"accuracy": 0.75}, step=2)
    second.end_run(run, "FINISHED")
    assert second.close() == []
    (only,) = runs_of(config()).values()
    assert (only.info.run_id, only.info.status) == (run, "FINISHED")
    assert only.data.metrics == {"accuracy": 0.75}
    assert only.data.params == {"learning_rate": "0.1", "data": "ftp://***@host/rows.csv"}


@pytest.mark.parametrize("elsewhere_is_full", [False, True])
def test_a_full_disk_ends_no_run_and_what_was_not_sent_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere_is_full: bool
) -> None:
    monkeypatch.setattr(mlflow_tracker, "CLOSE_PATIENCE_S", 0.1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    if not elsewhere_is_full:
        (tmp_path / "elsewhere").mkdir()
    journal = tmp_path / "state" / "mlflow_outbox.jsonl"
    journal.parent.write_text("")  # a file in its place: nothing can be written there
    tracker = MlflowTracker("http://127.0.0.1:1", cast(MlflowStore, AwayStore()), journal)
    study = tracker.start_run("study")
    assert is_handle(study)
    tracker.log_metrics(study, {"accuracy": 0.5}, step=1)
    tracker.end_run(study, "FINISHED")
    unsent, where = tracker.close()
    assert unsent.endswith("Not sent: study (start, metrics of step 1, end FINISHED).")
    if elsewhere_is_full:
        assert where == (
            f"Nor is it kept, for {journal} cannot be written (File exists): MLflow will lack it. "
            "The run's files have it."
        )
    else:
        (kept,) = (tmp_path / "elsewhere").rglob("*.jsonl")
        assert where == (
            f"It is kept in {kept}, for {journal} cannot be written (File exists). "
            "Move it there once it can; the same command with --resume then sends it."
        )
        assert [event.kind for event in read_events(kept)] == ["start", "metrics", "end"]


def test_ctrl_c_while_a_tracker_sends_the_rest_keeps_it(tmp_path: Path) -> None:
    tracker = MlflowTracker("http://127.0.0.1:1", cast(MlflowStore, AwayStore()), tmp_path / "outbox.jsonl")
    tracker.start_run("study")
    timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    timer.start()
    started = time.monotonic()
    unsent, where = tracker.close()
    assert time.monotonic() - started < mlflow_tracker.CLOSE_PATIENCE_S - 2
    assert unsent == "Sending to MLflow at http://127.0.0.1:1 was interrupted. Not sent: study (start)."
    assert tracker.was_interrupted
    assert where == f"It is kept in {tmp_path}/outbox.jsonl. The same command with --resume sends it."
    assert len(read_events(tmp_path / "outbox.jsonl")) == 1


def test_a_trial_that_a_killed_driver_forgot_is_taken_up_not_doubled(config: Config) -> None:
    first = open_tracker(config())
    study = first.start_run("study")
    run = first.start_run("trial 3", parent=study, params={"dropout": 0.1})
    first.log_metrics(run, {"accuracy": 0.5}, step=1)
    first.end_run(run, "KILLED")
    assert first.close() == []
    second = open_tracker(config())
    second.reopen_run(study)
    assert second.start_run("trial 3", parent=study, params={"dropout": 0.1}) == run
    assert second.start_run("trial 4", parent=study) != run
    assert second.close() == []
    runs = runs_of(config())
    assert set(runs) == {"study", "trial 3", "trial 4"}
    assert runs["trial 3"].info.status == "RUNNING"
    assert runs["trial 3"].data.metrics == {"accuracy": 0.5}


def test_reopening_a_run_that_is_gone_says_so(config: Config) -> None:
    tracker = open_tracker(config())
    with pytest.raises(TrackingError, match=r"must still have the run 0123 .* Give the --tracking-uri"):
        tracker.reopen_run("0123")


def test_reopening_a_trial_that_is_gone_does_not_stop_the_search(config: Config) -> None:
    tracker = open_tracker(config())
    study = tracker.start_run("study")
    tracker.reopen_run("unsent-0123")
    tracker.log_metrics("unsent-0123", {"accuracy": 1.0}, step=2)
    tracker.end_run(study, "FINISHED")
    assert tracker.close() == ["MLflow refused unsent-0123 (reopen, metrics of step 2): its run was never made"]


def test_what_mlflow_refuses_is_told_at_the_end(config: Config) -> None:
    tracker = open_tracker(config())
    run = tracker.start_run("trial_0")
    tracker.log_metrics(run, {"a name with !": 1.0}, step=3)
    tracker.log_files(run, Path("/nowhere/best"))
    tracker.log_metrics(run, {"accuracy": 1.0}, step=4)
    lines = tracker.close()
    assert len(lines) == 2
    assert lines[0].startswith("MLflow refused trial_0 (metrics of step 3): Invalid value")
    assert lines[1] == "MLflow refused trial_0 (files /nowhere/best): /nowhere/best is gone"
    assert runs_of(config())["trial_0"].data.metrics == {"accuracy": 1.0}


def test_a_deleted_experiment_is_refused_with_the_mend(config: Config) -> None:
    open_tracker(config()).close()
    reader = client(config().uri)
    experiment_id = reader.get_experiment_by_name(config().experiment).experiment_id
    reader.delete_experiment(experiment_id)
    with pytest.raises(TrackingError, match=f"mlflow experiments restore --experiment-id {experiment_id}`"):
        open_tracker(config())


def test_events_of_an_earlier_tracker_are_sent_once(config: Config, tmp_path: Path) -> None:
    outbox = tmp_path / "outbox.jsonl"
    handle = "unsent-" + "0" * 32
    start = {"name": "trial_7", "parent": None, "params": {"dropout": "0.1"}, "tags": {}}
    events = [
        {"kind": "start", "run": handle, "time_ms": 1_700_000_000_000, "body": start},
        {
            "kind": "metrics",
            "run": handle,
            "time_ms": 1_700_000_000_500,
            "body": {"metrics": {"accuracy": 0.5}, "step": 1},
        },
    ]
    for _ in range(2):  # the second time as if the first had been cut off before the file was removed
        outbox.write_text("".join(json.dumps(event) + "\n" for event in events))
        tracker = open_tracker(config(), outbox=outbox)
        tracker.reopen_run(handle)
        tracker.log_metrics(handle, {"accuracy": 0.75}, step=2)
        assert tracker.close() == []
        assert not outbox.exists()
    (run,) = runs_of(config()).values()
    assert (run.info.run_name, run.info.start_time) == ("trial_7", 1_700_000_000_000)
    assert run.data.params == {"dropout": "0.1"}
    assert run.data.metrics == {"accuracy": 0.75}


def test_a_run_that_began_while_the_server_was_away_has_its_id_afterwards(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = open_tracker(config())
    study = tracker.start_run("study")

    def away(*_: object, **__: object) -> None:
        raise requests.ConnectionError("Connection refused")

    with monkeypatch.context() as patched:
        patched.setattr("mlflow.MlflowClient.create_run", away)
        handle = tracker.start_run("trial 0", parent=study)
        assert is_handle(handle)
        assert tracker.current_id(handle) == handle
    tracker.flush()
    run_id = runs_of(config())["trial 0"].info.run_id
    assert tracker.current_id(handle) == run_id != handle
    assert tracker.current_id(study) == study
    assert tracker.close() == []
    later = open_tracker(config())
    assert later.current_id(handle) == run_id  # found by its tag
    assert later.current_id("unsent-0123") == "unsent-0123"  # was never made
    assert later.close() == []


def test_a_point_that_is_given_again_with_its_time_is_one_point(config: Config, sqlite_uri: str) -> None:
    for _ in range(2):
        tracker = open_tracker(config())
        run = tracker.start_run("trial 0", parent="study")
        tracker.log_metrics(run, {"accuracy": 0.5}, step=1, time_ms=1_700_000_000_000)
        tracker.end_run(run, "FINISHED")
        assert tracker.close() == []
    (point,) = client(sqlite_uri).get_metric_history(run, "accuracy")
    assert (point.value, point.timestamp) == (0.5, 1_700_000_000_000)


def test_a_store_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match=r"must take runs, but refused: .*file"):
        open_tracker(TrackingConfig(uri=f"sqlite:///{tmp_path}/file/mlflow.db"))


def test_nothing_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_s = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        open_tracker(TrackingConfig(uri=f"http://me:secret@127.0.0.1:{port}"))
    assert time.monotonic() - start_s < 10
    assert str(caught.value) == (
        f"tracking.uri: MLflow must answer at http://***@127.0.0.1:{port}, but it did not: [Errno 111] Connection "
        "refused. Start the server, correct --tracking-uri, or use --tracking-uri sqlite:///mlflow.db."
    )


def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t5ray.tracking.store.ANSWER_WITHIN_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(TrackingError, match=r"it did not: no answer within 0.5 s. Start the server"):
            open_tracker(TrackingConfig(uri=f"http://127.0.0.1:{silent.getsockname()[1]}"))


@pytest.mark.integration
def test_two_commands_at_once_make_one_database_and_print_nothing(tmp_path: Path) -> None:
    code = (
        "from t5ray.config import TrackingConfig; from t5ray.tracking import open_tracker\n"
        "tracker = open_tracker(TrackingConfig()); tracker.end_run(tracker.start_run('study'), 'FINISHED')\n"
        "assert tracker.close() == []"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    commands = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for _ in range(2)
    ]
    assert [(command.communicate(timeout=120)[0], command.returncode) for command in commands] == [(b"", 0)] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    reader = client(f"sqlite:///{tmp_path}/mlflow.db")
    assert len(reader.search_runs([reader.get_experiment_by_name("t5ray").experiment_id])) == 2


@pytest.mark.parametrize(("module", "package"), [("psycopg2", "psycopg2-binary"), ("pyodbc", "pyodbc")])
def test_a_database_whose_driver_is_not_installed_says_what_to_install(module: str, package: str) -> None:
    cause = ModuleNotFoundError(f"No module named '{module}'", name=module)
    wanted = rf"its driver, the Python module {module}, is not installed here. Run `pip install {package}`"
    with pytest.raises(Refused, match=wanted), translated("postgresql://me:secret@host/db"):
        raise RuntimeError("the database could not be opened") from cause


def answered(status: int) -> None:
    """What MLflow's uploads to a server raise."""
    response = requests.Response()
    response.status_code = status
    augmented_raise_for_status(response)


def s3(port: int) -> None:
    own = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
    once = botocore.config.Config(retries={"max_attempts": 0})
    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", config=once, **own).upload_file(__file__, "b", "k")


@contextmanager
def store_that_answers(status: int) -> Iterator[int]:
    class Answer(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *given: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_an_upload_that_a_server_cannot_take_now_is_made_later(status: int) -> None:
    with pytest.raises(Away), translated("http://host"):
        answered(status)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413])
def test_an_upload_that_a_server_will_never_take_does_not_hold_up_what_comes_after_it(status: int) -> None:
    with pytest.raises(Refused, match=f"{status} Client Error"), translated("http://host"):
        answered(status)


@pytest.mark.parametrize(("status", "kind"), [(503, Away), (403, Refused)])
def test_so_it_is_with_a_store_in_the_cloud(status: int, kind: type[Exception]) -> None:
    with store_that_answers(status) as port, pytest.raises(kind), translated("http://host"):
        s3(port)


def test_a_store_in_the_cloud_that_is_not_reached_is_away() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Away, match="Connection refused"), translated("http://host"):
        s3(port)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), Away),
        (TimeoutError("timed out"), Away),
        (socket.gaierror(-3, "Temporary failure in name resolution"), Away),
        (OSError(113, "No route to host"), Away),
        (OSError(28, "No space left on device"), Away),  # whoever makes room gives --resume
        (FileNotFoundError(2, "No such file or directory"), Refused),
        (PermissionError(13, "Permission denied"), Refused),
        (requests.exceptions.InvalidURL("no host"), Refused),
    ],
)
def test_what_passes_by_itself_is_told_from_what_does_not(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind), translated("http://host"):
        raise RuntimeError("the driver") from error
