"""A single run: one job for one group of Ray Train workers, its bundle, and its record.

<storage>/<name>/best/        the bundle
<storage>/<name>/train.json   objective, best epoch, test metrics, every epoch's report
<storage>/<name>/config.yaml  the resolved settings
<storage>/<name>/state/       what --resume needs

With a storage URI all of it is there, and in a local folder of the same name; --resume needs only the former.
"""

import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import ray

from t5ray.cluster import download_file, is_there, remove_dir, replace_dir, upload_file
from t5ray.config import RunConfig, dump_yaml
from t5ray.counting import counted
from t5ray.data.batches import num_steps
from t5ray.errors import ClusterError, ConfigError, T5RayError, TrackingError
from t5ray.model.card import write_json, write_text
from t5ray.sessions import RUN_BOOK, SEARCH_FILES, others, require_same
from t5ray.tracking import Tracker
from t5ray.training.augmentation import describe as describe_augmentation
from t5ray.training.best import best_name
from t5ray.training.outcome import identity_of, judge_on_test, public, publish_best, versions
from t5ray.training.place import Place
from t5ray.training.plan import RunPlan, Tick
from t5ray.training.prepare import Prepared
from t5ray.training.slot import Slot, SlotSpec

REPORTS = "state/reports.json"
"""Every epoch's report, from the end of the last one on."""
HEARD = "state/heard"
"""Number of the last epoch that was heard of, and when, in milliseconds since 1970. It is noted before it is logged."""
Reports = list[dict[str, Any]]


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


def _begin(prepared: Prepared, place: Place, tracker: Tracker) -> str:
    """Open the run's books, or take them up again, and return its MLflow run.

    Raises:
        ConfigError: the interrupted run had other settings, data or another model.
        ClusterError: the storage cannot be written.
    """
    identity, book = identity_of(prepared), place.folder / RUN_BOOK
    saved: dict[str, Any] = json.loads(book.read_text(encoding="utf-8")) if book.exists() else {}
    if saved:
        require_same(saved["identity"], identity, place.shown)
    if saved.get("mlflow_run_id") is not None:
        run_id = str(saved["mlflow_run_id"])
        if run_id:
            tracker.reopen_run(run_id)
        return run_id
    # a kill before the id is known begins the run again, with the same key, and doubles none
    saved = {"identity": identity, "key": saved.get("key") or uuid.uuid4().hex, "mlflow_run_id": None}
    _write_books(prepared, place, saved)
    params, tags = prepared.config.training.model_dump(), {"t5ray.kind": "train"}
    try:
        run_id = tracker.start_run(str(prepared.config.name), key=saved["key"], params=params, tags=tags)
    except TrackingError:
        book.unlink()  # it has not begun: its name is still free
        raise
    _write_books(prepared, place, {**saved, "mlflow_run_id": run_id})
    if place.remote is not None:
        place.upload()
        upload_file(book, f"{place.remote}/state")
    return run_id


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
        ClusterError: the workers died too often.
        T5RayError: the run failed, for example by a loss that is not finite.
    """
    run_id = _begin(prepared, place, tracker)
    reports = _trained_before(place)
    if reports is None:
        reports = _train(prepared, place, tracker, run_id, on_tick, on_epoch, in_process=in_process)
    return _conclude(prepared, place, tracker, run_id, reports)


def _trained_before(place: Place) -> Reports | None:
    """Return the reports of a run that was cut off after its last epoch; None where there is training to do."""
    if not place.holds(REPORTS):
        return None
    if not (place.folder / REPORTS).exists():
        download_file(f"{place.remote}/{REPORTS}", place.folder / REPORTS)
    reports: Reports = json.loads((place.folder / REPORTS).read_text(encoding="utf-8"))
    return reports


def _train(
    prepared: Prepared,
    place: Place,
    tracker: Tracker,
    run_id: str,
    on_tick: Tick,
    on_epoch: Callable[[dict[str, Any]], None],
    *,
    in_process: bool,
) -> Reports:
    """Train to the last epoch and return the report of each."""
    resources = prepared.config.resources
    with tempfile.TemporaryDirectory(prefix="t5ray-train-", ignore_cleanup_errors=True) as scratch:
        slot = Slot(
            SlotSpec(
                model=prepared.model,
                data=ray.put(prepared.data.without_test()),
                texts=None if prepared.texts is None else ray.put(prepared.texts),
                num_workers=resources.workers_per_trial,
                cpus_per_worker=prepared.cpus_per_worker,
                gpus_per_worker=resources.gpus_per_worker,
                in_process=in_process,
                scratch=scratch,
            )
        )
        try:
            return _follow(slot, prepared, place, tracker, run_id, on_tick, on_epoch)
        except (KeyboardInterrupt, ClusterError):
            tracker.end_run(run_id, "KILLED")
            raise
        finally:
            slot.close()


def _conclude(prepared: Prepared, place: Place, tracker: Tracker, run_id: str, reports: Reports) -> dict[str, Any]:
    """Publish the best epoch, judge it on test, and hand all of it to the tracker.

    The run counts as finished, by train.json, only when the tracker's outbox holds what it is to send: a kill before
    that concludes again on --resume, and trains nothing.
    """
    config, folder = prepared.config, place.folder
    best = reports[reports[-1]["best_epoch"] - 1]
    if place.remote is not None:  # a worker at another node may have left better weights than those that lie here
        weights = f"state/{best_name(best['best_step'])}"
        replace_dir(f"{place.remote}/{weights}", folder / weights)
    loaded = publish_best(prepared, {}, best, folder / "state", place.best)
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
    write_json(folder / "train.json", outcome)
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
    place: Place,
    tracker: Tracker,
    run_id: str,
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
            folder=(place.folder / "state").resolve(),
            remote=f"{place.remote}/state" if place.remote else None,
            remote_states=place.remote is not None,
        )
    )
    reports: Reports = []
    known, known_ms = _last_heard(place)
    while not reports or not reports[-1]["final"]:
        message = slot.next_message(on_tick)
        if message.report is None:
            tracker.end_run(run_id, "FAILED", tags={"t5ray.reason": str(message.failure)})
            raise T5RayError(f"The run must reach its end, but failed: {message.failure}.")
        reports.append(message.report)
        epoch = message.report["epoch"]
        if epoch >= known:  # earlier ones are told again after an interruption; of this one the tracker may not know
            time_ms = known_ms if epoch == known else _note_heard(place, epoch)
            log_epoch(tracker, run_id, message.report, prepared.objective, time_ms=time_ms)
        on_epoch(message.report)
        if message.report["final"]:  # before the workers hear that they may forget the run
            write_json(place.folder / REPORTS, reports)
            if place.remote is not None:
                upload_file(place.folder / REPORTS, f"{place.remote}/state")
        slot.decide(epoch, go_on=True)
    slot.settle()
    return reports


def _last_heard(place: Place) -> tuple[int, int]:
    """Return the last epoch that earlier sessions, on whatever machine, heard of, and when; 0: of none."""
    if place.remote is not None and is_there(f"{place.remote}/{HEARD}"):
        download_file(f"{place.remote}/{HEARD}", place.folder / HEARD)
    if not (place.folder / HEARD).exists():
        return 0, 0
    epoch, time_ms = (place.folder / HEARD).read_text(encoding="utf-8").split()
    return int(epoch), int(time_ms)


def _note_heard(place: Place, epoch: int) -> int:
    """Write down that an epoch was heard of now, and return the time."""
    time_ms = time.time_ns() // 1_000_000
    write_text(place.folder / HEARD, f"{epoch} {time_ms}")
    if place.remote is not None:
        upload_file(place.folder / HEARD, f"{place.remote}/state")
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
