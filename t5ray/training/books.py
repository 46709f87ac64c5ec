"""The books of a single run: where it is, what it began with, and what --resume needs of it.

<storage>/<name>/best/        the bundle
<storage>/<name>/train.json   objective, best epoch, test metrics, every epoch's report
<storage>/<name>/config.yaml  the resolved settings
<storage>/<name>/state/run.json   what the run began with, and its key
<storage>/<name>/state/<key>/     what --resume needs besides: checkpoints and reports of this very run, of no other

With a storage URI all of it is there, and in a local folder of the same name; --resume needs only the former.
"""

import json
import shutil
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t5ray.config import RunConfig, dump_yaml
from t5ray.errors import ClusterError, ConfigError, TrackingError
from t5ray.model.card import write_json, write_text
from t5ray.sessions import RUN_BOOK, SEARCH_FILES, others, require_same
from t5ray.storage import download_file, is_there, remove_dir, upload_file
from t5ray.tracking import Tracker
from t5ray.training.outcome import identity_of, public
from t5ray.training.patience import patiently
from t5ray.training.place import Place
from t5ray.training.prepare import Prepared

REPORTS = "reports.json"
"""Every epoch's report, from the end of the last one on."""
LAST_LOGGED = "last_logged"
"""Number of the last epoch that is logged, and when, in milliseconds since 1970. It is noted before it is logged."""
Reports = list[dict[str, Any]]


@dataclass(frozen=True)
class Session:
    """A run that has begun, or is taken up again."""

    place: Place
    key: str
    """What no other run has: names the folder of what it saves, so that none goes on from what another one left."""
    run_id: str
    """MLflow run; empty where there is none."""

    @property
    def folder(self) -> Path:
        """Where it saves what --resume needs."""
        return self.place.folder / "state" / self.key

    @property
    def remote(self) -> str | None:
        """The same at the storage URI, where there is one."""
        return f"{self.place.remote}/state/{self.key}" if self.place.remote else None

    def upload(self, name: str) -> None:
        """Copy a file of the folder to the storage URI, where there is one."""
        if self.remote is not None:
            patiently(upload_file, self.folder / name, self.remote)


def is_finished(place: Place) -> bool:
    """Say whether the run has ended, here or at the storage URI."""
    return place.holds("train.json")


def open_place(config: RunConfig, *, resume: bool) -> Place:
    """Return the run's place, with the books of the run that is to go on.

    Raises:
        ConfigError: the place holds a run and --resume was not given, there is no interrupted one to go on with, or it
            holds a search.
        ClusterError: the storage cannot be reached.
    """
    place = Place.of(config)
    if place.holds(*SEARCH_FILES):
        raise ConfigError(
            f"{place.shown}: must hold nothing, or a run of train, but holds a search. Choose another --name."
        )
    if is_finished(place):
        raise ConfigError(f"{place.shown}: must be a new folder, but holds a finished run. Choose another --name.")
    interrupted = place.holds(RUN_BOOK)
    if interrupted and not resume:
        raise ConfigError(
            f"{place.shown}: must be a new folder, but holds an interrupted run. Add --resume, or choose another "
            "--name."
        )
    if resume and not interrupted:
        raise ConfigError(
            f"{place.shown}: must hold an interrupted run to go on with, but holds none"
            f"{others(place.folder.parent, RUN_BOOK, '--resume')}. Correct --name, or leave out --resume."
        )
    if interrupted and not (place.folder / RUN_BOOK).exists():
        download_file(f"{place.remote}/{RUN_BOOK}", place.folder / RUN_BOOK)
    return place


def open_session(prepared: Prepared, place: Place, tracker: Tracker) -> Session:
    """Open the run's books, or take them up again.

    Raises:
        ConfigError: the interrupted run had other settings, data or another model.
        ClusterError: the folder cannot be written.
    """
    identity, book = identity_of(prepared), place.folder / RUN_BOOK
    saved: dict[str, Any] = json.loads(book.read_text(encoding="utf-8")) if book.exists() else {}
    if saved:
        require_same(saved["identity"], identity, place.shown)
    if saved.get("mlflow_run_id") is None:
        saved = _begun(prepared, place, tracker, {"identity": identity, "key": saved.get("key") or uuid.uuid4().hex})
    elif saved["mlflow_run_id"]:
        tracker.reopen_run(saved["mlflow_run_id"])
    return Session(place, saved["key"], saved["mlflow_run_id"])


def _begun(prepared: Prepared, place: Place, tracker: Tracker, begins: Mapping[str, Any]) -> dict[str, Any]:
    """Begin the run in MLflow and return its book: what it begins with, and the id there.

    A kill before the id is known begins the run again, with the same key, and doubles none.
    """
    book, saved = place.folder / RUN_BOOK, {**begins, "mlflow_run_id": None}
    _write_books(prepared, place, saved)
    params, tags = prepared.config.training.model_dump(), {"t5ray.kind": "train"}
    try:
        run_id = tracker.start_run(str(prepared.config.name), key=saved["key"], params=params, tags=tags)
    except TrackingError:
        book.unlink()  # it has not begun: its name is still free
        raise
    saved["mlflow_run_id"] = run_id
    _write_books(prepared, place, saved)
    return saved


def _write_books(prepared: Prepared, place: Place, book: Mapping[str, Any]) -> None:
    try:
        (place.folder / "state").mkdir(parents=True, exist_ok=True)
        (place.folder / "config.yaml").write_text(dump_yaml(public(prepared.config)), encoding="utf-8")
        write_json(place.folder / RUN_BOOK, book)
    except OSError as exc:
        raise ClusterError(f"{place.folder}: --storage must be writable, but: {exc}. Choose another one.") from exc


def upload_books(session: Session) -> None:
    """Copy the books to the storage URI, where there is one, before anything else is saved there.

    In each session: a kill, or the storage, may have kept an earlier one from it.
    """
    place = session.place
    if place.remote is not None:
        place.upload()
        upload_file(place.folder / RUN_BOOK, f"{place.remote}/state")


def trained_before(session: Session) -> Reports | None:
    """Return the reports of a run that was cut off after its last epoch; None where there is training to do."""
    path = session.folder / REPORTS
    if not path.exists() and session.remote is not None and is_there(f"{session.remote}/{REPORTS}"):
        download_file(f"{session.remote}/{REPORTS}", path)
    if not path.exists():
        return None
    reports: Reports = json.loads(path.read_text(encoding="utf-8"))
    return reports


def last_logged(session: Session) -> tuple[int, int]:
    """Return the last epoch that earlier sessions, on whatever machine, have logged, and when; 0: none."""
    path = session.folder / LAST_LOGGED
    if session.remote is not None and is_there(f"{session.remote}/{LAST_LOGGED}"):
        download_file(f"{session.remote}/{LAST_LOGGED}", path)
    if not path.exists():
        return 0, 0
    epoch, time_ms = path.read_text(encoding="utf-8").split()
    return int(epoch), int(time_ms)


def note_logged(session: Session, epoch: int) -> int:
    """Write down that an epoch is logged now, and return the time."""
    time_ms = time.time_ns() // 1_000_000
    write_text(session.folder / LAST_LOGGED, f"{epoch} {time_ms}")
    session.upload(LAST_LOGGED)
    return time_ms


def drop_state(place: Place) -> None:
    """Delete what only an interrupted run needs."""
    shutil.rmtree(place.folder / "state", ignore_errors=True)
    if place.remote is not None:
        with suppress(ClusterError):  # what is left there costs space; the run has ended well
            remove_dir(f"{place.remote}/state")
