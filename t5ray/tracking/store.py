"""What one event is in MLflow's terms. Home of mlflow, whose errors become Away, Refused or TrackingError here.

MLflow chooses run ids, so a run that begins while the server is away is known by a handle of our own. Every run
carries its handle as a tag: the run is found again by it, and a request whose answer got lost makes no second run.
"""

import contextlib
import errno
import fcntl
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import requests
import urllib3
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from t5ray.disk import FULL
from t5ray.errors import TrackingError
from t5ray.tracking.datasets import training_input
from t5ray.tracking.outbox import Away, Event, Refused
from t5ray.tracking.registry import log_bundle, register
from t5ray.tracking.tracker import is_handle
from t5ray.tracking.uri import SQLITE, is_local, redact, shown, sqlite_path

ANSWER_WITHIN_S = 10.0
HANDLE_TAG = "t5ray.handle"
PARENT_TAG = "mlflow.parentRunId"
ARTIFACT_FOLDER = "mlartifacts"
LONGEST_REASON = 300
DRIVERS = {"psycopg2": "psycopg2-binary", "psycopg": "psycopg[binary]", "MySQLdb": "mysqlclient"}
"""Packages that bring a database's Python module, where these go by another name."""
PASSING = (
    *(requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError),
    *(urllib3.exceptions.ProtocolError, urllib3.exceptions.TimeoutError, urllib3.exceptions.MaxRetryError),
    *(ConnectionError, TimeoutError, socket.gaierror),
)
"""What is raised where the network fails; the drivers of artifact storages raise theirs from it."""
PASSING_ERRNOS = {
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    *FULL,
}
"""The same of the system, and that a disk is full."""
T = TypeVar("T")


class MlflowStore:
    """Writes events of one experiment, one at a time."""

    def __init__(self, uri: str, client: MlflowClient, experiment_id: str) -> None:
        self._uri = uri
        self._client = client
        self._experiment_id = experiment_id
        self._ids: dict[str, str] = {}
        self._writers: dict[str, Callable[[Event], None]] = {
            "start": self._start,
            "metrics": self._metrics,
            "files": self._files,
            "model": self._model,
            "end": self._end,
            "reopen": self._reopen,
        }

    @classmethod
    def open(cls, uri: str, experiment: str) -> "MlflowStore":
        """Connect, and make the database and the experiment where they are missing.

        Raises:
            TrackingError: nothing answers within 10 s, or the store refuses.
        """
        try:
            with translated(uri):
                if is_local(uri):
                    client, experiment_id = _open_sqlite(uri, experiment)
                else:
                    client, experiment_id = within(ANSWER_WITHIN_S, lambda: _open(uri, experiment, None))
        except Away as exc:
            raise TrackingError(
                f"tracking.uri: MLflow must answer at {shown(uri)}, but it did not: {exc}. {mend(uri)}"
            ) from exc
        except Refused as exc:
            raise TrackingError(f"tracking.uri: MLflow at {shown(uri)} must take runs, but refused: {exc}.") from exc
        return cls(uri, client, experiment_id)

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment."""
        return self._experiment_id

    def send(self, event: Event) -> None:
        """Write one event; writing it twice changes nothing.

        Raises:
            Away: try again later.
            Refused: MLflow will never take it.
        """
        with translated(self._uri):
            self._writers[event.kind](event)

    def known_id(self, run: str) -> str | None:
        """Return MLflow's id of a run, or None while the run is not made."""
        return self._ids.get(run) if is_handle(run) else run

    def look_up(self, handle: str) -> str | None:
        """Return MLflow's id of the run that carries a handle; None where there is no such run.

        Raises:
            Away, Refused: MLflow does not say.
        """
        with translated(self._uri):
            return self._find(handle)

    def _id(self, run: str) -> str:
        run_id = self.known_id(run) or self._find(run)
        if run_id is None:
            raise Refused("its run was never made")
        return run_id

    def _find(self, handle: str) -> str | None:
        """Look a run up by the handle in its tags."""
        runs = self._client.search_runs([self._experiment_id], f"tags.`{HANDLE_TAG}` = '{handle}'", max_results=1)
        if runs:
            self._ids[handle] = runs[0].info.run_id
        return self._ids.get(handle)

    def _start(self, event: Event) -> None:
        body = event.body
        run_id = self._find(event.run)
        if run_id is None:
            tags = {**body["tags"], HANDLE_TAG: event.run}
            if body["parent"] is not None:
                tags[PARENT_TAG] = self._id(body["parent"])
            run = self._client.create_run(self._experiment_id, event.time_ms, tags, body["name"])
            self._ids[event.run] = run_id = run.info.run_id
        else:
            self._client.update_run(run_id, status="RUNNING")
        params = [Param(name, value) for name, value in body["params"].items()]
        self._client.log_batch(run_id, params=params, synchronous=True)
        if (data := body.get("dataset")) is not None:  # events of earlier versions have none
            self._client.log_inputs(run_id, [training_input(**data)])

    def _metrics(self, event: Event) -> None:
        self._log(event, event.body["step"])

    def _end(self, event: Event) -> None:
        self._log(event, step=0)
        self._client.set_terminated(self._id(event.run), event.body["status"], event.time_ms)

    def _log(self, event: Event, step: int) -> None:
        metrics = [Metric(name, value, event.time_ms, step) for name, value in event.body["metrics"].items()]
        tags = [RunTag(name, value) for name, value in event.body.get("tags", {}).items()]
        self._client.log_batch(self._id(event.run), metrics, tags=tags, synchronous=True)

    def _files(self, event: Event) -> None:
        path, folder = Path(event.body["path"]), event.body["folder"] or None
        if not path.exists():
            raise Refused(f"{path} is gone")
        upload = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        upload(self._id(event.run), str(path), folder)

    def _model(self, event: Event) -> None:
        bundle, run_id = Path(event.body["path"]), self._id(event.run)
        if not bundle.exists():
            raise Refused(f"{bundle} is gone")
        model_id = log_bundle(self._client, run_id, bundle, event.body["columns"])
        if event.body["register"] is not None:
            register(self._client, run_id, model_id, event.body["register"])

    def _reopen(self, event: Event) -> None:
        self._client.update_run(self._id(event.run), status="RUNNING")


def _open_sqlite(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """Open a SQLite file by its absolute path; uploads go beside it, not under the working directory."""
    path = sqlite_path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    query = uri.partition("?")[1] + uri.partition("?")[2]
    with _alone_in(path.parent):
        return _open(f"{SQLITE}{path}{query}", experiment, (path.parent / ARTIFACT_FOLDER).as_uri())


def _open(uri: str, experiment: str, artifact_location: str | None) -> tuple[MlflowClient, str]:
    client = MlflowClient(uri, registry_uri=uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return client, _create_experiment(client, experiment, artifact_location)
    if found.lifecycle_stage != "active":
        raise Refused(
            f"the experiment {experiment!r} is deleted. Restore it with `mlflow experiments restore --experiment-id "
            f"{found.experiment_id}`, or name another with --experiment"
        )
    return client, str(found.experiment_id)


def _create_experiment(client: MlflowClient, experiment: str, artifact_location: str | None) -> str:
    try:
        return str(client.create_experiment(experiment, artifact_location))
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return str(client.get_experiment_by_name(experiment).experiment_id)  # another process was faster


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time make a database in a folder: two migrations at once break it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems know no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def within(seconds: float, action: Callable[[], T]) -> T:
    """Run an action in a thread and return its result.

    Raises:
        Away: it takes longer. The thread is left behind.
    """
    outcome: list[T | BaseException] = []

    def work() -> None:
        try:
            outcome.append(action())
        except BaseException as exc:  # noqa: BLE001 (raised again by the caller's thread)
            outcome.append(exc)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise Away(f"no answer within {seconds:g} s")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


@contextlib.contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turn whatever MLflow and the libraries under it raise into Away or Refused, without the URI's password."""
    try:
        yield
    except (Away, Refused):
        raise
    except MlflowException as exc:
        raise _kind(exc.get_http_status_code())(_reason(exc, uri)) from exc
    except Exception as exc:
        name = "" if isinstance(exc, requests.RequestException) else f"{type(exc).__name__}: "
        raise _kind_of(exc)(f"{name}{_reason(exc, uri)}") from exc


def _kind_of(exc: BaseException) -> type[Away | Refused]:
    """Say whether an error may pass by itself: a status that says so, or the network or a full disk behind it."""
    for link in _chain(exc):
        if (status := _status(link)) is not None:
            return _kind(status)
        if isinstance(link, PASSING) or (isinstance(link, OSError) and link.errno in PASSING_ERRNOS):
            return Away
    return Refused


def _kind(status: int) -> type[Away | Refused]:
    return Away if status in (408, 429) or status >= 500 else Refused


def _status(exc: BaseException) -> int | None:
    """Return the HTTP status of an answer that a library raises: requests' has an object, botocore's a dict."""
    response = getattr(exc, "response", None)
    found = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    status: int | None = getattr(response, "status_code", found)
    return status


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """Give an exception, what it was raised from, and so on to the root."""
    link: BaseException | None = exc
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _reason(exc: BaseException, uri: str) -> str:
    """Return the message at the root of a chain of exceptions, on one line."""
    *_, root = _chain(exc)
    if isinstance(root, ModuleNotFoundError):
        package = DRIVERS.get(str(root.name), root.name)
        return f"its driver, the Python module {root.name}, is not installed here. Run `pip install {package}`"
    text = " ".join(redact(str(root) or type(root).__name__, uri).split()).rstrip(".")
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + "..."


def mend(uri: str) -> str:
    """Say what a user can do about a tracking URI where nothing answers."""
    if is_local(uri):
        return "Choose a place that can be written to, or --tracking-uri none."
    return f"Start the server, correct --tracking-uri, or use --tracking-uri {SQLITE}mlflow.db."
