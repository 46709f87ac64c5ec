"""Search hyperparameters over Ray workers: `python -m t5ray.tune`. Without flags, the embedded demo."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import typer

from t5ray import cli, heap, options, terminal
from t5ray.counting import counted
from t5ray.errors import ConfigError, T5RayError

if TYPE_CHECKING:
    from t5ray.cluster import Cluster
    from t5ray.config import RunConfig, SearchConfig, SearchSpace
    from t5ray.search.ledger import Ledger
    from t5ray.search.workspace import Workspace
    from t5ray.tracking import Tracker
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
    search_space: options.SearchSpaceOption = None,
    num_trials: options.NumTrials = None,
    max_epochs: options.MaxEpochs = None,
    workers_per_trial: options.WorkersPerTrial = None,
    gpus_per_worker: options.GpusPerWorker = None,
    max_concurrent: options.MaxConcurrent = None,
    time_budget: options.TimeBudget = None,
    confirm_seeds: options.ConfirmSeeds = None,
    warm_start: options.WarmStart = None,
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
    resume: options.Resume = False,
    extend: options.Extend = None,
) -> int:
    """Search hyperparameters over Ray workers and keep the best checkpoint as a bundle.

    Without --data, --task and --model it runs the embedded demo, offline.
    """
    terminal.quiet_libraries()
    settings = cli.run_settings(ctx)
    if preview:
        return _tune(settings, preview=True, resume=resume, extend=extend)
    from t5ray.search.workspace import Workspace

    workspace = Workspace.of(settings)
    with workspace.held():
        try:
            return _tune(settings, preview=False, resume=resume, extend=extend)
        finally:  # whatever ended the search, nobody writes states any more
            workspace.drop_spare()


def _tune(settings: "RunConfig", *, preview: bool, resume: bool, extend: int | None) -> int:
    """Prepare, connect, search, conclude."""
    from t5ray.back_translation import with_back_translations
    from t5ray.cluster import connect
    from t5ray.config import load_space
    from t5ray.search.books import open_ledger, preview_ledger
    from t5ray.search.capacity import settle_cpus
    from t5ray.search.contradictions import require_consistent
    from t5ray.search.preview import describe, foresee
    from t5ray.search.workspace import Workspace
    from t5ray.tracking import open_tracker, require_usable

    space = load_space(settings.search.space)
    require_consistent(space, settings.training, settings.search.space)
    workspace = Workspace.of(settings)
    ledger = (preview_ledger if preview else open_ledger)(workspace, resume=resume, extend=extend)
    if not extend and _is_done(settings.search, ledger):
        return _send_rest(settings, workspace, ledger, preview=preview)
    require_usable(settings.tracking)
    prepared = _settle(settings, space, ledger, workspace, extend=extend)
    unsent: list[str] = []
    with ExitStack() as stack:
        tracker = None if preview else open_tracker(settings.tracking, outbox=workspace.outbox)
        if tracker is not None:
            stack.callback(terminal.tell, unsent)
            stack.callback(lambda: unsent.extend(tracker.close()))
        cluster = stack.enter_context(
            connect(
                settings.address,
                on_loss=lambda exc: terminal.end_with(exc, _again(settings, workspace)),
                environment=heap.environment(),
            )
        )
        prepared = settle_cpus(prepared, cluster, ledger)
        terminal.tell(describe(prepared, space, cluster, ledger))
        if tracker is None:
            terminal.tell(foresee(prepared, space, cluster, ledger))
            terminal.suggest({"search": cli.again("tune", preview=False)})
            return 0
        prepared = with_back_translations(prepared, cluster, workspace.cache)
        content = _search(prepared, space, ledger, workspace, cluster, tracker)
    if content is None:
        return cli.INTERRUPTED
    _close(settings, workspace.shown, content, ledger, unsent)
    return cli.INTERRUPTED if tracker.was_interrupted else 0


def _settle(
    settings: "RunConfig", space: "SearchSpace", ledger: "Ledger", workspace: "Workspace", *, extend: int | None
) -> "Prepared":
    """Check and note in the ledger what is searched, and how long, before anything is started for it."""
    from t5ray.search.books import require_same_search, settle_confirm_seeds
    from t5ray.search.contradictions import require_fit
    from t5ray.search.finite import most_trials, short_of
    from t5ray.search.points import look_up_warm_start
    from t5ray.search.samplers import notes
    from t5ray.training.prepare import prepare

    settle_confirm_seeds(ledger, settings)
    prepared = prepare(settings, workspace.cache, space.parameters)
    require_same_search(ledger, prepared, space, workspace)
    require_fit(space, prepared, settings.search.space)
    terminal.tell([*prepared.notes, *notes(space)])
    terminal.tell(look_up_warm_start(ledger, prepared, space))
    wanted = ledger.wanted(settings.search.num_trials, extend)
    ledger.settle_target(wanted, most_trials(space, prepared, ledger))
    terminal.tell(short_of(space, wanted, ledger))
    return prepared


def _search(
    prepared: "Prepared",
    space: "SearchSpace",
    ledger: "Ledger",
    workspace: "Workspace",
    cluster: "Cluster",
    tracker: "Tracker",
) -> dict[str, Any] | None:
    """Run the trials, judge the winner, return search.json; None where Ctrl-C ended it. Whatever does, all is kept."""
    from t5ray.board import board
    from t5ray.search.books import open_study
    from t5ray.search.conclude import conclude
    from t5ray.search.confirm import num_expected, standing
    from t5ray.search.run_ids import settle_run_ids
    from t5ray.search.study import run_search

    settings = prepared.config
    try:
        open_study(ledger, prepared, workspace, tracker)
        with board(
            prepared.objective,
            ledger.target,
            settings.training.max_epochs,
            mode=prepared.mode,
            runs_again=lambda: num_expected(ledger, ledger.target),
        ) as shown:
            run_search(prepared, space, ledger, workspace, cluster, tracker, announce=shown.update)
        if standing(ledger).source is not None:
            terminal.say(f"\nJudging the winner on {counted(len(prepared.data.test), 'test row')}.")
        content = conclude(prepared, ledger, workspace, tracker)
        settle_run_ids(ledger, workspace, tracker)
    except BaseException as exc:
        if not ledger.finished and not isinstance(exc, ConfigError):  # refused settings leave what is there alone
            _keep(prepared, ledger, workspace, tracker)
            terminal.say(f"\n{_progress(ledger)}")
            terminal.say(f"Go on with: {_again(settings, workspace)}")
        if isinstance(exc, KeyboardInterrupt):
            if ledger.finished:
                terminal.say(f"\nThe search has ended. What was not sent yet is by: {_again(settings, workspace)}")
            return None
        raise
    return content


def _progress(ledger: "Ledger") -> str:
    """Say in one sentence how far a search came that was cut off."""
    confirming = sum(run.state == "RUNNING" for run in ledger.confirm_runs)
    also = f"; of the runs that confirm the best, {confirming}" if confirming else ""
    ended, running = len(ledger.ended), len(ledger.interrupted)
    return (
        f"{counted(ended, 'trial')} {'has' if ended == 1 else 'have'} ended, "
        f"{running} {'was' if running == 1 else 'were'} running{also}."
    )


def _again(settings: "RunConfig", workspace: "Workspace") -> str:
    """Return the command that goes on: with --resume, once there is something to go on with."""
    return cli.again("tune", name=settings.name, resume=workspace.ledger.exists() or None, extend=None)


def _keep(prepared: "Prepared", ledger: "Ledger", workspace: "Workspace", tracker: "Tracker") -> None:
    """Keep what there is; what cannot be kept must not hide why the search ended."""
    from t5ray.search.conclude import interrupt

    try:
        terminal.tell(interrupt(prepared, ledger, workspace, tracker))
    except (T5RayError, OSError) as exc:
        terminal.say(f"\nNot all of it could be kept: {exc}")
    except KeyboardInterrupt:
        terminal.say("\nInterrupted again: search.json and report.html may be older than what --resume goes on from.")


def _is_done(search: "SearchConfig", ledger: "Ledger") -> bool:
    """Say whether a search has nothing left to train."""
    from t5ray.search.confirm import num_missing

    is_confirmed = search.confirm_seeds == len(ledger.confirm_seeds)
    return (
        ledger.finished
        and (ledger.is_exhausted or max(search.num_trials, ledger.target) <= len(ledger.ended))
        and is_confirmed
        and not num_missing(ledger)
    )


def _send_rest(settings: "RunConfig", workspace: "Workspace", ledger: "Ledger", *, preview: bool) -> int:
    """End a search that was resumed though it is finished: all that may be left is for MLflow. A preview sends nothing.

    Raises:
        T5RayError: all its trials failed; says why.
    """
    from t5ray.search.conclude import why_all_failed
    from t5ray.search.run_ids import has_handles, settle_run_ids
    from t5ray.sessions import not_applied
    from t5ray.tracking import open_tracker

    more = "The search space has no more settings to try." if ledger.is_exhausted else "--extend N adds trials."
    again = "would be" if preview else "was"
    terminal.say(f"{workspace.shown}: this search is finished; nothing {again} trained again. {more}")
    terminal.tell(not_applied(settings, ledger.identity))
    was_interrupted = False
    if not preview:
        workspace.concluded()  # by an extension on another machine since: its bundle stays
        workspace.upload()  # where the storage refused it before
        if workspace.outbox.exists() or has_handles(ledger):
            tracker = open_tracker(settings.tracking, outbox=workspace.outbox)
            settle_run_ids(ledger, workspace, tracker)
            terminal.tell(tracker.close())
            was_interrupted = tracker.was_interrupted
    if ledger.best is None:
        raise T5RayError(why_all_failed(ledger))
    return cli.INTERRUPTED if was_interrupted else 0


def _close(
    settings: "RunConfig", folder: str, content: Mapping[str, Any], ledger: "Ledger", unsent: Sequence[str] = ()
) -> None:
    """Say what the search found, and what to do with its bundle."""
    from t5ray.search.result import outcome
    from t5ray.tracking import ui_command
    from t5ray.training.outcome import advice

    bundle, num_trials, more = f"{folder}/best", settings.search.num_trials, {}
    if not ledger.is_exhausted:
        if ledger.num_to_come:
            more["the other trials"] = cli.again("tune", name=settings.name, resume=True, extend=None)
        more["more trials"] = cli.again("tune", name=settings.name, resume=False, extend=num_trials)
    champion, by_champion = terminal.registered(settings, unsent)
    terminal.close(
        f"{outcome(content)}{_out_of_time(ledger)}{champion} Bundle: {bundle}{advice(content['test'])}",
        {
            "judge it": terminal.to_judge(bundle, settings),
            "score rows": terminal.to_score(bundle),
            **by_champion,
            "compare runs": ui_command(settings.tracking.uri),
            "read the report": f"{folder}/report.html",
            **more,
        },
    )


def _out_of_time(ledger: "Ledger") -> str:
    """Say what time budgets left undone of a search that has ended; nothing where it was none."""
    cut, to_come = ledger.num_cut, 0 if ledger.is_exhausted else ledger.num_to_come
    if not cut and not to_come:
        return ""
    also = f", {to_come} {'has' if to_come == 1 else 'have'} not run" if to_come else ""
    return f" The time budget cut off {counted(cut, 'trial')}{also}."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return cli.run(command, "python -m t5ray.tune", argv)


if __name__ == "__main__":
    from t5ray.tune import main as entry

    raise SystemExit(entry())
