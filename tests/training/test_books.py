"""The books of a single run and of a search: one run in MLflow each, wherever the command was killed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from mlflow import MlflowClient

from t5ray.config import RunConfig, TrackingConfig
from t5ray.errors import ClusterError, TrackingError
from t5ray.search.books import open_study
from t5ray.search.ledger import Ledger
from t5ray.search.workspace import Workspace
from t5ray.sessions import RUN_BOOK
from t5ray.tracking import Tracker, open_tracker
from t5ray.training.books import open_session
from t5ray.training.place import Place
from t5ray.training.prepare import Prepared, prepare
from t5ray.training.run import run_once

Open = Callable[[Prepared, Tracker], object]


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def prepared(words: Path, tiny_t5: Path, tmp_path: Path) -> Prepared:
    given = {"data": {"path": str(words)}, "task": "classify", "model": str(tiny_t5), "name": "words"}
    config = RunConfig.model_validate({**given, "storage": str(tmp_path / "runs")})
    Workspace.of(config).trials.mkdir(parents=True)
    return prepare(config, tmp_path / "cache")


def open_run(prepared: Prepared, tracker: Tracker) -> object:
    return open_session(prepared, Place.of(prepared.config), tracker).run_id


def open_search(prepared: Prepared, tracker: Tracker) -> object:
    workspace = Workspace.of(prepared.config)
    ledger = Ledger.load(workspace.ledger) if workspace.ledger.exists() else Ledger(workspace.ledger)
    open_study(ledger, prepared, workspace, tracker)
    return ledger.study_run_id


@pytest.mark.parametrize("opened", [open_run, open_search])
def test_a_kill_before_the_id_of_a_run_is_noted_doubles_no_run(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Open
) -> None:
    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db")
    first = open_tracker(tracking, outbox=tmp_path / "outbox")
    start = first.start_run

    def killed(*given: Any, **named: Any) -> str:
        start(*given, **named)
        raise Killed

    monkeypatch.setattr(first, "start_run", killed)
    with pytest.raises(Killed):
        opened(prepared, first)
    first.close()
    second = open_tracker(tracking, outbox=tmp_path / "outbox")
    run_id = opened(prepared, second)
    assert opened(prepared, second) == run_id
    second.close()
    client = MlflowClient(tracking.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("t5ray").experiment_id])
    assert run_id in (run.info.run_id, run.data.tags["t5ray.handle"])  # the latter where MLflow is slow to answer
    assert run.info.run_name == "words"
    if opened is open_search:
        ((name, digest),) = ((found.dataset.name, found.dataset.digest) for found in run.inputs.dataset_inputs)
        assert name == Path(str(prepared.config.data.path)).name
        assert prepared.splits.fingerprint.startswith(digest)


def test_a_run_whose_book_the_storage_refused_copies_it_there_in_its_next_session(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States without a book there could not be gone on from elsewhere."""
    place = Place(tmp_path / "runs/words", tmp_path / "cache", f"memory://{tmp_path.name}/words")
    bucket, tracker = fsspec.filesystem("memory"), open_tracker(TrackingConfig(uri="none"))

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("ExpiredToken")

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    ended: list[str] = []
    monkeypatch.setattr(tracker, "end_run", lambda run_id, status: ended.append(status))
    monkeypatch.setattr("t5ray.training.run._train", interrupt)
    with monkeypatch.context() as away:
        away.setattr(bucket, "put_file", refuse)
        with pytest.raises(ClusterError, match="ExpiredToken"):
            run_once(prepared, place, tracker, lambda pulse: None, lambda report: None)
    with pytest.raises(KeyboardInterrupt):
        run_once(prepared, place, tracker, lambda pulse: None, lambda report: None)
    assert ended == ["KILLED", "KILLED"]
    assert bucket.cat(f"/{tmp_path.name}/words/{RUN_BOOK}") == (place.folder / RUN_BOOK).read_bytes()


def test_files_that_a_kill_left_half_written_are_deleted(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    place, tracker = Place.of(prepared.config), open_tracker(TrackingConfig(uri="none"))
    session = open_session(prepared, place, tracker)
    session.folder.mkdir()
    left = [place.folder / ".train.json.0a1b2c3d", session.folder / ".reports.json.0a1b2c3d"]
    for path in left:
        path.write_text("{")
    monkeypatch.setattr("t5ray.training.run.trained_before", lambda session: [])
    monkeypatch.setattr("t5ray.training.run._conclude", lambda *given: {"ended": True})
    assert run_once(prepared, place, tracker, lambda pulse: None, lambda report: None) == {"ended": True}
    assert not any(path.exists() for path in left)


def test_a_run_that_mlflow_refuses_leaves_its_name_free(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = open_tracker(TrackingConfig(uri="none"))

    def refused(*_: Any, **__: Any) -> str:
        raise TrackingError("MLflow must take the run, but refused")

    monkeypatch.setattr(tracker, "start_run", refused)
    with pytest.raises(TrackingError):
        open_run(prepared, tracker)
    assert not (Place.of(prepared.config).folder / RUN_BOOK).exists()
