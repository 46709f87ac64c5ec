"""One fine-tuning run with given hyperparameters: `python -m t5ray.train`."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import typer

from t5ray import cli, heap, options, terminal

if TYPE_CHECKING:
    from t5ray.config import RunConfig, TrainingConfig
    from t5ray.tracking import Tracker
    from t5ray.training.place import Place
    from t5ray.training.prepare import Prepared


def command(
    ctx: typer.Context,
    config: options.ConfigFile = None,
    data: options.Data = None,
    task: options.Task = None,
    model: options.Model = None,
    columns: options.Columns = None,
    source_language: options.SourceLanguage = None,
    target_language: options.TargetLanguage = None,
    max_epochs: options.MaxEpochs = None,
    workers_per_trial: options.WorkersPerTrial = None,
    gpus_per_worker: options.GpusPerWorker = None,
    metric: options.Metric = None,
    storage: options.Storage = None,
    tracking_uri: options.TrackingUri = None,
    experiment: options.Experiment = None,
    register: options.Register = None,
    name: options.Name = None,
    seed: options.Seed = None,
    skip_bad_rows: options.SkipBadRows = None,
    address: options.Address = None,
    sets: options.Sets = None,
    preview: options.Preview = False,
    show_augmented: options.ShowAugmented = None,
    resume: options.Resume = False,
) -> int:
    """Fine-tune once. Hyperparameters: --set training.learning_rate=1e-4 and the like, or a --config file.

    Without --data, --task and --model it trains on the embedded demo, offline.
    """
    terminal.quiet_libraries()
    settings = cli.run_settings(ctx)
    if show_augmented:
        return _show_augmented(settings, show_augmented)
    if preview:
        return _train(settings, preview=True, resume=resume)
    from t5ray.training.place import Place

    if settings.resources.workers_per_trial == 1 and not settings.address:  # then it trains in this process
        heap.keep_freed_memory()
    with Place.of(settings).held():
        return _train(settings, preview=False, resume=resume)


def _show_augmented(settings: "RunConfig", num_rows: int) -> int:
    """Print training rows before and after augmentation."""
    from contextlib import nullcontext

    from t5ray.back_translation import with_back_translations
    from t5ray.cluster import connect
    from t5ray.training.augmentation import show
    from t5ray.training.place import Place
    from t5ray.training.prepare import prepare

    cache = Place.of(settings).cache
    prepared = prepare(settings, cache)
    with connect(settings.address) if prepared.back_translates else nullcontext() as cluster:
        terminal.tell(show(with_back_translations(prepared, cluster, cache) if cluster else prepared, num_rows))
    terminal.suggest({"train on them": cli.again("train", show_augmented=None)})
    return 0


def _train(settings: "RunConfig", *, preview: bool, resume: bool) -> int:
    """Prepare, connect, train, publish."""
    from t5ray.back_translation import with_back_translations
    from t5ray.cluster import connect
    from t5ray.tracking import open_tracker, require_usable
    from t5ray.training.books import open_place
    from t5ray.training.prepare import prepare
    from t5ray.training.room import fits_here, require_room, shared_out, unused_gpus
    from t5ray.training.run import describe

    if resume and (sent := _send_rest(settings, preview=preview)) is not None:
        return sent
    require_usable(settings.tracking)
    place = open_place(settings, resume=resume)
    prepared = prepare(settings, place.cache)
    terminal.tell(prepared.notes)
    terminal.tell(describe(prepared))
    go_on = cli.again("train", name=settings.name, resume=True)
    unsent: list[str] = []
    with ExitStack() as stack:
        tracker = None if preview else open_tracker(settings.tracking, outbox=place.outbox)
        if tracker is not None:
            stack.callback(terminal.tell, unsent)
            stack.callback(lambda: unsent.extend(tracker.close()))
        cluster = stack.enter_context(
            connect(
                settings.address,
                on_loss=lambda exc: terminal.end_with(exc, go_on),
                environment=heap.environment(),
            )
        )
        prepared = shared_out(prepared, cluster)
        terminal.tell([*require_room(prepared, cluster), *unused_gpus(prepared, cluster)])
        if tracker is None:
            terminal.suggest({"train": cli.again("train", preview=False)})
            return 0
        prepared = with_back_translations(prepared, cluster, place.cache)
        try:
            outcome = _run(prepared, place, tracker, in_process=fits_here(settings, cluster))
        except KeyboardInterrupt:
            terminal.say(f"\nInterrupted. Go on with: {go_on}")
            return cli.INTERRUPTED
    _close(settings, place.shown, outcome, unsent)
    return cli.INTERRUPTED if tracker.was_interrupted else 0


def _run(prepared: "Prepared", place: "Place", tracker: "Tracker", *, in_process: bool) -> dict[str, Any]:
    """Train, with a bar, and a line for each epoch; return train.json."""
    from t5ray.training.run import run_once

    with terminal.progress("training", None) as advance:
        return run_once(
            prepared,
            place,
            tracker,
            on_tick=lambda pulse: advance(pulse.step, pulse.shown, pulse.num_steps),
            on_epoch=lambda report: terminal.say(epoch_line(report, prepared.objective, prepared.config.training)),
            in_process=in_process,
        )


def _close(settings: "RunConfig", folder: str, outcome: Mapping[str, Any], unsent: Sequence[str]) -> None:
    """Say what the run reached, and what to do with its bundle."""
    from t5ray.tracking import ui_command
    from t5ray.training.outcome import advice

    bundle = f"{folder}/best"
    champion, by_champion = terminal.registered(settings, unsent)
    terminal.close(
        f"{outcome['metric']} {outcome['best_value']:.4f} in epoch {outcome['best_epoch']}.{champion} "
        f"Bundle: {bundle}{advice(outcome.get('test'))}",
        {
            "judge it": terminal.to_judge(bundle, settings),
            "score rows": terminal.to_score(bundle),
            **by_champion,
            "compare runs": ui_command(settings.tracking.uri),
        },
    )


def _send_rest(settings: "RunConfig", *, preview: bool) -> int | None:
    """End a run that was resumed though it is finished: what may be left is for storage and MLflow. None: it is not.

    A preview sends nothing.
    """
    from t5ray.tracking import open_tracker
    from t5ray.training.books import drop_state, is_finished
    from t5ray.training.place import Place

    place = Place.of(settings)
    if not is_finished(place):
        return None
    if preview:
        terminal.say(f"{place.shown}: this run is finished; nothing would be trained again.")
        return 0
    if (place.folder / "train.json").exists():
        place.upload()  # where the storage refused it before
        drop_state(place)
    terminal.say(f"{place.shown}: this run is finished; nothing was trained again.")
    if not place.outbox.exists():
        return 0
    tracker = open_tracker(settings.tracking, outbox=place.outbox)
    terminal.tell(tracker.close())
    return cli.INTERRUPTED if tracker.was_interrupted else 0


def epoch_line(report: Mapping[str, Any], objective: str, training: "TrainingConfig") -> str:
    """Say what an epoch reached."""
    ended = ", the last: patience is over" if report["early_stopped"] else ""
    loss = "" if objective == "validation_loss" else f", validation loss {report['validation_loss']:.4f}"
    return (
        f"epoch {report['epoch']} of {training.max_epochs}: {objective} {report['value']:.4f}{loss}, "
        f"training loss {report['train_loss']:.4f}{ended}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return cli.run(command, "python -m t5ray.train", argv)


if __name__ == "__main__":
    from t5ray.train import main as entry

    raise SystemExit(entry())
