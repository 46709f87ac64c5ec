"""The search itself: trials over warm slots until enough have ended, then the runs that confirm the best."""

import os
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.tune

from t5ray.cluster import Cluster
from t5ray.config import RunConfig, SearchSpace, dump_yaml
from t5ray.errors import ClusterError, ConfigError, StorageError
from t5ray.search.capacity import num_slots, require_disk
from t5ray.search.confirm import Confirmation, num_missing
from t5ray.search.journal import open_storage
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.observer import Observer
from t5ray.search.points import earlier_trials, first_points
from t5ray.search.scheduler import build_scheduler
from t5ray.search.searcher import StudySearch
from t5ray.search.trainable import SlotTrainable, TrialSpec
from t5ray.search.workspace import Workspace
from t5ray.sessions import RUN_FILES, SEARCH_BOOK, others, require_same, search_identity
from t5ray.tracking import Tracker
from t5ray.training.footprint import costliest
from t5ray.training.outcome import identity_of, public
from t5ray.training.plan import RunPlan
from t5ray.training.prepare import Prepared
from t5ray.training.scratch import scratch
from t5ray.training.slot import SlotSpec

CRASHES_ALLOWED = 2
"""How often one trial may be begun again without reaching its next epoch, its process or a worker having died."""
NUM_SEEDS = 2**31
"""Seeds that there are: training.seed is below."""
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # why a trial failed is in its books; others are begun again
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no csv, json and tensorboard files per trial
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no metric
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints tables even when told to be silent
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def open_ledger(space: Workspace, *, resume: bool, extend: int | None) -> Ledger:
    """Begin a new search in an empty folder, or go on with the one that is there.

    Raises:
        ConfigError: the folder holds a search and neither --resume nor --extend was given, there is none to go on, or
            none to extend; or it holds a single run.
    """
    _require_no_run(space)
    _clear_unfinished(space)
    space.fetch_state()
    found = _found(space, space.ledger, resume=resume, extend=extend)
    if found is not None:
        return found
    for folder in (space.trials, space.confirmed):
        folder.mkdir(parents=True, exist_ok=True)
    return Ledger(space.ledger)


def _clear_unfinished(space: Workspace) -> None:
    """Delete what a kill left of books that are written beside their place; nobody else works in the folder."""
    state = space.ledger.parent
    beside = (state.glob(".ledger.json.*"), space.folder.glob(".search.json.*"), space.confirmed.glob(".*.json.*"))
    for path in (path for found in beside for path in found):
        path.unlink(missing_ok=True)


def preview_ledger(space: Workspace, *, resume: bool, extend: int | None) -> Ledger:
    """Return what `open_ledger` would, or raise it; nothing is touched, for the search may be running.

    The ledger is not to be saved.
    """
    _require_no_run(space)
    with tempfile.TemporaryDirectory(prefix="t5ray-preview-") as folder:
        found = _found(space, space.copy_state(Path(folder)).ledger, resume=resume, extend=extend)
    return found or Ledger(space.ledger)


def _require_no_run(space: Workspace) -> None:
    if space.holds(*RUN_FILES):
        raise ConfigError(
            f"{space.shown}: must hold nothing, or a search, but holds a run of train. Choose another --name."
        )


def _found(space: Workspace, saved: Path, *, resume: bool, extend: int | None) -> Ledger | None:
    """Return the saved ledger of the search that is to go on; None where a new one begins."""
    there = saved.exists()
    if (resume or extend) and not there:
        known = others(space.folder.parent, SEARCH_BOOK, "--extend" if extend else "--resume")
        raise ConfigError(
            f"{space.folder}: must hold a search to go on with, but holds none{known}. Correct --name, or leave out "
            "--resume/--extend."
        )
    if there and not (resume or extend):
        raise ConfigError(
            f"{space.folder}: must be a new folder, but holds a search already. "
            "Add --resume to go on with it, --extend N to add trials, or choose another --name."
        )
    if not there:
        return None
    ledger = Ledger.load(saved)
    if extend and ledger.is_exhausted:
        raise ConfigError(
            f"--extend: the search space must have settings left, but all {ledger.most_trials} have run in "
            f"{space.folder}. Search a wider one, or a finer grid, under another --name."
        )
    return ledger


def require_same_search(ledger: Ledger, prepared: Prepared, space: SearchSpace, workspace: Workspace) -> None:
    """Note what must not change between the sessions of a search.

    Raises:
        ConfigError: the saved search had another objective, model, space or other data or training settings.
        ClusterError: the storage refuses.
    """
    identity = {**identity_of(prepared), **search_identity(space, prepared.config)}
    require_same(ledger.identity, identity, workspace.shown)
    ledger.identity, ledger.mode = {**ledger.identity, **identity}, prepared.mode  # without MLflow, no experiment


def open_study(ledger: Ledger, prepared: Prepared, workspace: Workspace, tracker: Tracker) -> None:
    """Begin or go on with the study's run, and write the resolved settings down."""
    ledger.finished = False
    (workspace.folder / "config.yaml").write_text(dump_yaml(public(prepared.config)), encoding="utf-8")
    if not ledger.key:
        ledger.key = uuid.uuid4().hex
        ledger.save()  # before the run begins: a kill in between begins it again, and doubles none
    if ledger.study_run_id is None:
        params = {"task": prepared.task.name, "model": prepared.config.model, "data": prepared.config.data.path}
        tags = {"t5ray.kind": "study", "t5ray.objective": prepared.objective}
        name = str(prepared.config.name)
        ledger.study_run_id = tracker.start_run(name, key=ledger.key, params=params, tags=tags) or None
    else:
        tracker.reopen_run(ledger.study_run_id)
    ledger.runs_url = tracker.runs_url()
    ledger.save()
    workspace.upload_state()  # from now on --resume needs nothing but the URI


def settle_confirm_seeds(ledger: Ledger, config: RunConfig) -> None:
    """Choose the fresh seeds: the ones that follow the trials' own; the largest is followed by 0.

    Raises:
        ConfigError: runs have confirmed the best on another number of seeds.
    """
    wanted, first = config.search.confirm_seeds, config.training.seed + 1
    # other ones for another training.seed, which is refused by itself
    seeds = [seed % NUM_SEEDS for seed in range(first, first + wanted)]
    if ledger.confirm_runs and len(seeds) != len(ledger.confirm_seeds):
        raise ConfigError(
            f"--confirm-seeds: must stay {len(ledger.confirm_seeds)}, with which the best were confirmed before, "
            f"but got {wanted}. Give the same number, or begin a new search with another --name."
        )
    ledger.confirm_seeds = seeds


def most_runs(ledger: Ledger) -> int:
    """Return how many runs a session can come to at most: every trial, and every trial on every fresh seed."""
    return ledger.target * (1 + len(ledger.confirm_seeds))


def budget_left_s(budget_s: float | None, ledger: Ledger) -> float | None:
    """Return the seconds left of the time budget: an interruption does not renew it, its end does."""
    return None if budget_s is None else max(1.0, budget_s - (ledger.wall_s - ledger.budget_from_s))


def run_search(
    prepared: Prepared,
    space: SearchSpace,
    ledger: Ledger,
    workspace: Workspace,
    cluster: Cluster,
    tracker: Tracker,
    *,
    announce: Callable[[TrialRecord], None],
) -> None:
    """Run trials until the ledger has its target, then what confirms the best; or until the time is up.

    What an interruption cut off goes first. The ledger holds the outcome. Ctrl-C leaves everything in place for
    --resume.
    """
    config = prepared.config
    if not (ledger.num_to_come or num_missing(ledger)):
        return
    slots = num_slots(prepared, cluster, ledger)
    require_disk(prepared.model, costliest(config.training, space.parameters), workspace.trials, slots)
    searcher = StudySearch(
        space,
        ledger,
        storage=open_storage(workspace.journal),
        first_points=first_points(space, prepared, ledger),
        num_trials=ledger.target,
        seed=config.search.seed,
        confirmation=Confirmation(ledger) if ledger.confirm_seeds else None,
        history=earlier_trials(ledger, prepared, space),
    )
    observer = Observer(
        ledger,
        tracker,
        workspace=workspace,
        objective=prepared.objective,
        max_epochs=config.training.max_epochs,
        slots=slots,
        announce=announce,
        tell_end=searcher.tell_end,
    )
    os.environ.update(TUNE_ENVIRONMENT)
    with scratch("tune") as folder:
        tuner = ray.tune.Tuner(
            _trainable(prepared, workspace, folder),
            tune_config=ray.tune.TuneConfig(
                search_alg=searcher,
                scheduler=build_scheduler(space.scheduler, ledger, config.training.max_epochs),
                num_samples=most_runs(ledger),
                max_concurrent_trials=slots,
                time_budget_s=budget_left_s(config.search.time_budget_s, ledger),
                reuse_actors=True,
            ),
            run_config=_run_config(folder, observer),
        )
        _fit(tuner, workspace, observer)
    observer.cut_off("the time budget was used up")
    ledger.budget_from_s = ledger.wall_s  # used up, or of no more use: a later session begins a new one
    ledger.save()


def _fit(tuner: ray.tune.Tuner, workspace: Workspace, observer: Observer) -> None:
    try:
        tuner.fit()
    except ray.tune.TuneError as exc:  # what a callback raises, the books of the search among it
        if observer.away:
            raise StorageError(observer.away) from exc
        reason = [line.strip() for line in str(exc).splitlines() if line.strip()][-1]
        raise ClusterError(
            f"{workspace.folder}: the search must be able to keep its books, but: {reason}. What has ended is kept: "
            "mend the cause, then give the same command with --resume."
        ) from exc


def _run_config(scratch: str, observer: Observer) -> Any:
    """Return what Tune keeps of a search: next to nothing, in a folder of the driver."""
    return ray.tune.RunConfig(
        storage_path=scratch,
        name="tune",
        callbacks=[observer],
        failure_config=ray.tune.FailureConfig(max_failures=CRASHES_ALLOWED),
        # By default each trial saves itself to that folder at its end, which fails on other hosts than the driver's.
        checkpoint_config=ray.tune.CheckpointConfig(checkpoint_at_end=False),
        verbose=0,
    )


def _trainable(prepared: Prepared, workspace: Workspace, scratch: str) -> Any:
    """Return the trainable with its resources."""
    spec, resources = trial_spec(prepared, workspace, scratch), prepared.config.resources
    own: dict[str, float] = {"memory": 1}  # the trial's actor only waits; Tune wants a request that is not empty
    if spec.slot.in_process:
        own = {"CPU": prepared.cpus_per_worker, "GPU": resources.gpus_per_worker}
    request = ray.tune.PlacementGroupFactory([{name: amount for name, amount in own.items() if amount}])
    return ray.tune.with_resources(ray.tune.with_parameters(SlotTrainable, spec=spec), request)


def trial_spec(prepared: Prepared, workspace: Workspace, scratch: str) -> TrialSpec:
    """Return all that trials ever see of the data, the model and the settings; test rows are not in it."""
    config, resources = prepared.config, prepared.config.resources
    return TrialSpec(
        SlotSpec(
            model=prepared.model,
            data=ray.put(prepared.data.without_test()),
            texts=None if prepared.texts is None else ray.put(prepared.texts),
            num_workers=resources.workers_per_trial,
            cpus_per_worker=prepared.cpus_per_worker,
            gpus_per_worker=resources.gpus_per_worker,
            in_process=resources.workers_per_trial == 1,
            scratch=scratch,
            restarts=0,  # Tune begins the trial again, as CRASHES_ALLOWED says, in another slot
        ),
        RunPlan(
            config=config.training,
            decode=prepared.decode,
            task=prepared.task,
            objective=prepared.objective,
            mode=prepared.mode,
            folder=workspace.trials.resolve(),
            remote=workspace.remote_trials,
            shares_disk=True,
        ),
    )
