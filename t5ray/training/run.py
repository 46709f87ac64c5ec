"""A single run: one job for one group of Ray Train workers, its bundle, and its record. `books.py` has its files."""

from collections.abc import Callable
from typing import Any

import ray

from t5ray.counting import counted
from t5ray.data.batches import num_steps
from t5ray.errors import ClusterError, StorageError, T5RayError
from t5ray.model.card import write_json
from t5ray.storage import replace_dir
from t5ray.tracking import Tracker
from t5ray.training.augmentation import describe as describe_augmentation
from t5ray.training.best import best_name
from t5ray.training.books import (
    REPORTS,
    Reports,
    Session,
    drop_state,
    last_logged,
    note_logged,
    open_session,
    trained_before,
    upload_books,
)
from t5ray.training.curves import log_epoch
from t5ray.training.outcome import judge_on_test, public, publish_best, versions
from t5ray.training.place import Place
from t5ray.training.plan import RunPlan, Tick
from t5ray.training.prepare import Prepared
from t5ray.training.scratch import scratch
from t5ray.training.slot import Slot, SlotSpec


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
    session = open_session(prepared, place, tracker)
    session.folder.mkdir(exist_ok=True)
    for left in (*place.folder.glob(".train.json.*"), *session.folder.glob(f".{REPORTS}.*")):  # by kills
        left.unlink(missing_ok=True)
    try:
        upload_books(session)
        reports = trained_before(session)
        if reports is None:
            reports = _train(prepared, session, tracker, on_tick, on_epoch, in_process=in_process)
    except (KeyboardInterrupt, ClusterError):
        tracker.end_run(session.run_id, "KILLED")
        raise
    return _conclude(prepared, session, tracker, reports)


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


def _follow(
    slot: Slot,
    prepared: Prepared,
    session: Session,
    tracker: Tracker,
    on_tick: Tick,
    on_epoch: Callable[[dict[str, Any]], None],
) -> Reports:
    """Start the job and note its epochs until the last."""
    slot.start(RunPlan.of(prepared, session.folder.resolve(), remote=session.remote))
    reports: Reports = []
    known, known_ms = last_logged(session)
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
            time_ms = known_ms if epoch == known else note_logged(session, epoch)
            log_epoch(tracker, session.run_id, message.report, prepared.objective, time_ms=time_ms)
        on_epoch(message.report)
        if message.report["final"]:  # before the workers hear that they may forget the run
            write_json(session.folder / REPORTS, reports)
            session.upload(REPORTS)
        slot.decide(epoch, go_on=True)
    slot.settle()
    return reports


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
