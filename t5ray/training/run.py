"""A single run: one job for one group of Ray Train workers, its bundle, and its record.

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
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from t5ray.config import RunConfig, dump_yaml
from t5ray.counting import counted
from t5ray.data.batches import num_steps
from t5ray.errors import ClusterError, ConfigError, StorageError, T5RayError, TrackingError
from t5ray.model.card import write_json, write_text
from t5ray.sessions import RUN_BOOK, SEARCH_FILES, others, require_same
from t5ray.storage import download_file, is_there, remove_dir, replace_dir, upload_file
from t5ray.tracking import Tracker
from t5ray.training.augmentation import describe as describe_augmentation
from t5ray.training.best import best_name
from t5ray.training.outcome import identity_of, judge_on_test, public, publish_best, versions
from t5ray.training.patience import patiently
from t5ray.training.place import Place
from t5ray.training.plan import RunPlan, Tick
from t5ray.training.prepare import Prepared
from t5ray.training.scratch import scratch
from t5ray.training.slot import Slot, SlotSpec

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


def _begin(prepared: Prepared, place: Place, tracker: Tracker) -> Session:
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


def describe(prepared: Prepared) -> list[str]:
    """Return what a run trains on and for how long, one fact a line."""
    training, data = prepared.config.training, prepared.data
    rows = f"{len(data.train):,} training, {len(data.validation):,} validation, {counted(len(data.test), 'test row')}"
    steps = counted(num_steps(len(data.train), training.batch_size), "step")
    return [
        f"data         {rows}; {'tokens reused from an earlier run' if data.reused else 'tokenised now'}",
        f"per epoch    {steps} of {counted(training.batch_size, 'row')}, "
        f"{counted(data.train.num_tokens, 'token')}; {counted(training.max_epochs, 'epoch')}",
        f"lengths      input {data.max_input_tokens}, target {data.max_target_tokens} tokens; "
        f"{data.truncated_inputs:.1%} of inputs and {data.truncated_targets:.1%} of targets are cut",
        *describe_augmentation(training),
    ]


def run_once(
    prepared: Prepared,
    place: Place,
    tracker: Tracker,
    on_tick: Tick,
    on_epoch: Callable[[dict[str, Any]], None],
    *,
    in_process: bool = False,
) -> dict[str, Any]:
    """Train, publish the bundle, judge it on test, and record it all. The caller holds the place.

    Args:
        on_epoch: called with the report of every epoch.
        in_process: train in this process; see `room.fits_here`.
    Raises:
        ClusterError: the workers died too often, or the storage stayed away.
        T5RayError: the run failed, for example by a loss that is not finite.
    """
    session = _begin(prepared, place, tracker)
    session.folder.mkdir(exist_ok=True)
    for left in (*place.folder.glob(".train.json.*"), *session.folder.glob(f".{REPORTS}.*")):  # by kills
        left.unlink(missing_ok=True)
    try:
        _upload_books(session)
        reports = _trained_before(session)
        if reports is None:
            reports = _train(prepared, session, tracker, on_tick, on_epoch, in_process=in_process)
    except (KeyboardInterrupt, ClusterError):
        tracker.end_run(session.run_id, "KILLED")
        raise
    return _conclude(prepared, session, tracker, reports)


def _upload_books(session: Session) -> None:
    """Copy the books to the storage URI, where there is one, before anything else is saved there.

    In each session: a kill, or the storage, may have kept an earlier one from it.
    """
    place = session.place
    if place.remote is not None:
        place.upload()
        upload_file(place.folder / RUN_BOOK, f"{place.remote}/state")


def _trained_before(session: Session) -> Reports | None:
    """Return the reports of a run that was cut off after its last epoch; None where there is training to do."""
    path = session.folder / REPORTS
    if not path.exists() and session.remote is not None and is_there(f"{session.remote}/{REPORTS}"):
        download_file(f"{session.remote}/{REPORTS}", path)
    if not path.exists():
        return None
    reports: Reports = json.loads(path.read_text(encoding="utf-8"))
    return reports


def _train(
    prepared: Prepared,
    session: Session,
    tracker: Tracker,
    on_tick: Tick,
    on_epoch: Callable[[dict[str, Any]], None],
    *,
    in_process: bool,
) -> Reports:
    """Train to the last epoch and return the report of each."""
    resources = prepared.config.resources
    with scratch("train") as folder:
        slot = Slot(
            SlotSpec(
                model=prepared.model,
                data=ray.put(prepared.data.without_test()),
                texts=None if prepared.texts is None else ray.put(prepared.texts),
                num_workers=resources.workers_per_trial,
                cpus_per_worker=prepared.cpus_per_worker,
                gpus_per_worker=resources.gpus_per_worker,
                in_process=in_process,
                scratch=folder,
            )
        )
        try:
            return _follow(slot, prepared, session, tracker, on_tick, on_epoch)
        finally:
            slot.close()


def _conclude(prepared: Prepared, session: Session, tracker: Tracker, reports: Reports) -> dict[str, Any]:
    """Publish the best epoch, judge it on test, and hand all of it to the tracker.

    The run counts as finished, by train.json, only when the tracker's outbox holds what it is to send: a kill before
    that concludes again on --resume, and trains nothing.
    """
    config, place, run_id = prepared.config, session.place, session.run_id
    best = reports[reports[-1]["best_epoch"] - 1]
    if session.remote is not None:  # a worker at another node may have left better weights than those that lie here
        weights = best_name(best["best_step"])
        replace_dir(f"{session.remote}/{weights}", session.folder / weights)
    loaded = publish_best(prepared, {}, best, session.folder, place.best)
    outcome = {
        "name": config.name,
        "metric": prepared.objective,
        "best_epoch": best["epoch"],
        "best_value": best["value"],
        "test": judge_on_test(prepared, loaded),
        "epochs": reports,
        "config": public(config).model_dump(mode="json"),
        "versions": versions(),
    }
    if run_id:
        tracker.log_model(run_id, place.best, columns=config.data.columns, register=config.register_as)
    tests = {f"test_{name}": value for name, value in outcome["test"].items()}
    tracker.end_run(run_id, "FINISHED", metrics=tests)
    write_json(place.folder / "train.json", outcome)
    place.upload()
    drop_state(place)
    return outcome


def drop_state(place: Place) -> None:
    """Delete what only an interrupted run needs."""
    shutil.rmtree(place.folder / "state", ignore_errors=True)
    if place.remote is not None:
        with suppress(ClusterError):  # what is left there costs space; the run has ended well
            remove_dir(f"{place.remote}/state")


def _follow(
    slot: Slot,
    prepared: Prepared,
    session: Session,
    tracker: Tracker,
    on_tick: Tick,
    on_epoch: Callable[[dict[str, Any]], None],
) -> Reports:
    """Start the job and note its epochs until the last."""
    config = prepared.config
    slot.start(
        RunPlan(
            config=config.training,
            decode=prepared.decode,
            task=prepared.task,
            objective=prepared.objective,
            mode=prepared.mode,
            folder=session.folder.resolve(),
            remote=session.remote,
        )
    )
    reports: Reports = []
    known, known_ms = _last_logged(session)
    while not reports or not reports[-1]["final"]:
        message = slot.next_message(on_tick)
        if message.away:
            raise StorageError(str(message.failure))
        if message.report is None:
            tracker.end_run(session.run_id, "FAILED", tags={"t5ray.reason": str(message.failure)})
            raise T5RayError(f"The run must reach its end, but failed: {message.failure}.")
        reports.append(message.report)
        epoch = message.report["epoch"]
        if epoch >= known:  # earlier ones are told again after an interruption; of this one the tracker may not know
            time_ms = known_ms if epoch == known else _note_logged(session, epoch)
            log_epoch(tracker, session.run_id, message.report, prepared.objective, time_ms=time_ms)
        on_epoch(message.report)
        if message.report["final"]:  # before the workers hear that they may forget the run
            write_json(session.folder / REPORTS, reports)
            session.upload(REPORTS)
        slot.decide(epoch, go_on=True)
    slot.settle()
    return reports


def _last_logged(session: Session) -> tuple[int, int]:
    """Return the last epoch that earlier sessions, on whatever machine, have logged, and when; 0: none."""
    path = session.folder / LAST_LOGGED
    if session.remote is not None and is_there(f"{session.remote}/{LAST_LOGGED}"):
        download_file(f"{session.remote}/{LAST_LOGGED}", path)
    if not path.exists():
        return 0, 0
    epoch, time_ms = path.read_text(encoding="utf-8").split()
    return int(epoch), int(time_ms)


def _note_logged(session: Session, epoch: int) -> int:
    """Write down that an epoch is logged now, and return the time."""
    time_ms = time.time_ns() // 1_000_000
    write_text(session.folder / LAST_LOGGED, f"{epoch} {time_ms}")
    session.upload(LAST_LOGGED)
    return time_ms


def log_epoch(
    tracker: Tracker, run_id: str, report: dict[str, Any], objective: str, *, time_ms: int | None = None
) -> None:
    """Send an epoch's curves and metrics to the tracker; `time_ms` as in `Tracker.log_metrics`."""
    for point in report["history"]:
        values = {k: v for k, v in point.items() if k != "step"}
        tracker.log_metrics(run_id, values, step=int(point["step"]), time_ms=time_ms)
    epoch_metrics = {
        **report["metrics"],
        "validation_loss": report["validation_loss"],
        "train_loss": report["train_loss"],
        "epoch_tokens_per_s": report["tokens_per_s"],  # curves over steps have the plain names
        "epoch_padding_share": report["padding_share"],
        "hit_cap_share": report["hit_cap"],
        f"best_{objective}": report["best_value"],
    }
    tracker.log_metrics(run_id, epoch_metrics, step=report["epoch"], time_ms=time_ms)
