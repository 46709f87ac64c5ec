"""The search itself: trials over warm slots until enough have ended, then the runs that confirm the best."""

import os
from collections.abc import Callable
from typing import Any

import ray
import ray.tune

from t5ray.cluster import Cluster
from t5ray.config import RunConfig, SearchSpace
from t5ray.errors import ClusterError, StorageError
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
from t5ray.tracking import Tracker
from t5ray.training.footprint import costliest
from t5ray.training.plan import RunPlan
from t5ray.training.prepare import Prepared
from t5ray.training.scratch import scratch
from t5ray.training.slot import SlotSpec

CRASHES_ALLOWED = 2
"""How often one trial may be begun again without reaching its next epoch, its process or a worker having died."""
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # why a trial failed is in its books; others are begun again
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no csv, json and tensorboard files per trial
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no metric
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints tables even when told to be silent
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


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
    searcher = _searcher(prepared, space, ledger, workspace)
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
            tune_config=_tune_config(config, space, ledger, searcher, slots),
            run_config=_run_config(folder, observer),
        )
        _fit(tuner, workspace, observer)
    observer.cut_off("the time budget was used up")
    ledger.budget_from_s = ledger.wall_s  # used up, or of no more use: a later session begins a new one
    ledger.save()


def _searcher(prepared: Prepared, space: SearchSpace, ledger: Ledger, workspace: Workspace) -> StudySearch:
    return StudySearch(
        space,
        ledger,
        storage=open_storage(workspace.journal),
        first_points=first_points(space, prepared, ledger),
        num_trials=ledger.target,
        seed=prepared.config.search.seed,
        confirmation=Confirmation(ledger) if ledger.confirm_seeds else None,
        history=earlier_trials(ledger, prepared, space),
    )


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


def _tune_config(config: RunConfig, space: SearchSpace, ledger: Ledger, searcher: StudySearch, slots: int) -> Any:
    """Return what Tune is to run: as many trials as there may be, until the searcher has no more or the time is up."""
    return ray.tune.TuneConfig(
        search_alg=searcher,
        scheduler=build_scheduler(space.scheduler, ledger, config.training.max_epochs),
        num_samples=most_runs(ledger),
        max_concurrent_trials=slots,
        time_budget_s=budget_left_s(config.search.time_budget_s, ledger),
        reuse_actors=True,
    )


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
    resources = prepared.config.resources
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
        RunPlan.of(prepared, workspace.trials.resolve(), remote=workspace.remote_trials, shares_disk=True),
    )
