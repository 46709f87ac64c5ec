"""The whole search: trials over warm slots until enough have ended, then the winner's bundle and its test."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.tune

from t5ray.cluster import Cluster, free_bytes
from t5ray.config import ResourcesConfig, RunConfig, SearchSpace, dump_yaml
from t5ray.errors import ClusterError, ConfigError, T5RayError
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.observer import Observer
from t5ray.search.result import summary, write_summary
from t5ray.search.scheduler import build_scheduler
from t5ray.search.searcher import StudySearch, open_storage
from t5ray.search.space import Params, default_settings
from t5ray.search.trainable import SlotTrainable, TrialSpec
from t5ray.search.workspace import Workspace
from t5ray.tracking import Tracker
from t5ray.training.outcome import identity_of, judge_on_test, public, publish_best, require_same
from t5ray.training.plan import RunPlan
from t5ray.training.prepare import Prepared
from t5ray.training.slot import SlotSpec

CRASHES_ALLOWED = 2
"""How often the process of one trial may die before the trial fails."""
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no csv, json and tensorboard files per trial
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no metric
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints tables even when told to be silent
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def open_ledger(space: Workspace, *, resume: bool, extend: int | None) -> Ledger:
    """Begin a new search in an empty folder, or go on with the one that is there.

    Raises:
        ConfigError: the folder holds a search and neither --resume nor --extend was given, or there is none to go on.
    """
    space.fetch_state()
    there = space.ledger.exists()
    if (resume or extend) and not there:
        raise ConfigError(
            f"{space.folder}: must hold a search to go on with, but holds none. Leave out --resume/--extend."
        )
    if there and not (resume or extend):
        raise ConfigError(
            f"{space.folder}: must be a new folder, but holds a search already. "
            "Add --resume to go on with it, --extend N to add trials, or choose another --name."
        )
    if there:
        return Ledger.load(space.ledger)
    try:
        space.trials.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ClusterError(f"{space.folder}: --storage must be writable, but: {exc}. Choose another one.") from exc
    return Ledger(space.ledger)


def open_study(ledger: Ledger, prepared: Prepared, space: SearchSpace, workspace: Workspace, tracker: Tracker) -> None:
    """Begin or go on with the study's run, and write the resolved settings down.

    Raises:
        ConfigError: the saved search had another objective, model, space or other data or training settings.
    """
    identity = {**identity_of(prepared), "search space": space.model_dump_json()}
    require_same(ledger.identity, identity, ledger.path)
    ledger.identity, ledger.mode, ledger.finished = identity, prepared.mode, False
    (workspace.folder / "config.yaml").write_text(dump_yaml(public(prepared.config)), encoding="utf-8")
    if ledger.study_run_id is None:
        params = {"task": prepared.task.name, "model": prepared.config.model, "data": prepared.config.data.path}
        tags = {"t5ray.kind": "study", "t5ray.objective": prepared.objective}
        ledger.study_run_id = tracker.start_run(str(prepared.config.name), params=params, tags=tags) or None
    else:
        tracker.reopen_run(ledger.study_run_id)
    ledger.runs_url = tracker.runs_url()
    ledger.save()


def interrupt(prepared: Prepared, ledger: Ledger, workspace: Workspace, tracker: Tracker) -> None:
    """Keep what there is when a search is cut off: the ledger and a search.json of what has ended."""
    ledger.save()
    write_summary(workspace.folder, summary(prepared, ledger, None))
    workspace.upload()
    for run_id in (*(record.mlflow_run_id for record in ledger.interrupted), ledger.study_run_id):
        if run_id is not None:
            tracker.end_run(run_id, "KILLED")


def concurrency(resources: ResourcesConfig, cluster: Cluster, asked: int | None, num_trials: int) -> int:
    """Return how many trials run at a time: what the cluster holds, what was asked for, what there is to do.

    Raises:
        ClusterError: not even one trial fits, and it was not said how many shall run on nodes to come.
    """
    cpus = resources.workers_per_trial * resources.cpus_per_worker
    gpus = resources.workers_per_trial * resources.gpus_per_worker
    fits = [cluster.num_cpus / cpus, *([cluster.num_gpus / gpus] if gpus else [])]
    most = int(min(fits) + 1e-6)
    if most < 1 and asked and not cluster.started_here:
        return min(asked, num_trials)  # nodes that autoscaling brings are not there yet
    if most < 1:
        raise ClusterError(
            f"One trial must fit the cluster, but needs {cpus} CPUs and {gpus:g} GPUs, and the cluster has "
            f"{cluster.num_cpus:g} CPUs and {cluster.num_gpus:g} GPUs. "
            "Lower --workers-per-trial or --gpus-per-worker, or add nodes; on a cluster that adds them by itself, say "
            "with --max-concurrent how many trials to run at a time."
        )
    return max(1, min(most, asked or most, num_trials))


def require_disk(model: str, storage: Path, slots: int) -> None:
    """Refuse a search whose checkpoints the disk cannot hold.

    A running trial keeps its best weights and its last state (weights and two moments), each beside its successor while
    that is written: 8 times the weights; the best trial so far keeps its weights.

    Raises:
        ClusterError: there is less free space than that. Models that are not on this disk yet are not counted.
    """
    weights = sum(path.stat().st_size for path in Path(model).glob("*.safetensors"))
    needed, free = (8 * slots + 1) * weights, free_bytes(storage)
    if free is not None and free < needed:
        raise ClusterError(
            f"{storage}: the disk must hold the checkpoints of {slots} trials at a time, {needed / 2**30:.1f} GiB, "
            f"but has {free / 2**30:.1f} GiB free. Free space, lower --max-concurrent, or choose another --storage."
        )


def run_search(
    prepared: Prepared,
    space: SearchSpace,
    ledger: Ledger,
    workspace: Workspace,
    cluster: Cluster,
    tracker: Tracker,
    *,
    num_trials: int,
    announce: Callable[[TrialRecord], None],
) -> None:
    """Run trials until `num_trials` have ended or the time is up; interrupted trials go first.

    The ledger holds the outcome. Ctrl-C leaves everything in place for --resume.
    """
    config = prepared.config
    missing = num_trials - len(ledger.ended)
    if missing <= 0:
        return
    slots = concurrency(config.resources, cluster, config.search.max_concurrent, missing)
    require_disk(prepared.model, workspace.folder, slots)
    searcher = StudySearch(
        space,
        ledger,
        storage=open_storage(str(workspace.journal)),
        first_points=_first_points(space, prepared),
        seed=config.search.seed,
    )
    observer = Observer(
        ledger,
        tracker,
        workspace=workspace,
        objective=prepared.objective,
        max_epochs=config.training.max_epochs,
        slots=slots,
        announce=announce,
    )
    os.environ.update(TUNE_ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="t5ray-tune-", ignore_cleanup_errors=True) as scratch:
        tuner = ray.tune.Tuner(
            _trainable(prepared, workspace, scratch),
            tune_config=ray.tune.TuneConfig(
                search_alg=searcher,
                scheduler=build_scheduler(space.scheduler, ledger, config.training.max_epochs),
                num_samples=missing,
                max_concurrent_trials=slots,
                time_budget_s=config.search.time_budget_s,
                reuse_actors=True,
            ),
            run_config=ray.tune.RunConfig(
                storage_path=scratch,
                name="tune",
                callbacks=[observer],
                failure_config=ray.tune.FailureConfig(max_failures=CRASHES_ALLOWED),
                verbose=0,
            ),
        )
        tuner.fit()
    for record in observer.cut_off("the time budget was used up"):
        searcher.cut_off(record)


def _first_points(space: SearchSpace, prepared: Prepared) -> list[Params]:
    """Return the settings of the first trials: the defaults, then the file's starting points upon them."""
    defaults = default_settings(space, prepared.config.training)
    return [defaults, *({**defaults, **point} for point in space.start_from)]


def _trainable(prepared: Prepared, workspace: Workspace, scratch: str) -> Any:
    """Return the trainable with its resources and what all trials share."""
    config, resources = prepared.config, prepared.config.resources
    in_process = resources.workers_per_trial == 1
    spec = TrialSpec(
        SlotSpec(
            model=prepared.model,
            data=ray.put(prepared.data),
            num_workers=resources.workers_per_trial,
            cpus_per_worker=resources.cpus_per_worker,
            gpus_per_worker=resources.gpus_per_worker,
            in_process=in_process,
            scratch=scratch,
        ),
        RunPlan(
            trial=0,
            config=config.training,
            decode=prepared.decode,
            task=prepared.task,
            objective=prepared.objective,
            mode=prepared.mode,
            folder=workspace.trials.resolve(),
            remote=workspace.remote_trials,
        ),
    )
    own: dict[str, float] = {"memory": 1}  # the trial's actor only waits; Tune wants a request that is not empty
    if in_process:
        own = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    request = ray.tune.PlacementGroupFactory([{name: amount for name, amount in own.items() if amount}])
    return ray.tune.with_resources(ray.tune.with_parameters(SlotTrainable, spec=spec), request)


def conclude(prepared: Prepared, ledger: Ledger, workspace: Workspace, tracker: Tracker) -> dict[str, Any]:
    """Publish the winner, judge it on test, and write search.json and report.html.

    Raises:
        T5RayError: every trial failed; says why.
    """
    best = ledger.best
    test = None
    if best is not None:
        workspace.fetch_trial(best.trial)
        report = best.reports[(best.best_epoch or 1) - 1]
        loaded = publish_best(prepared, best.params, report, workspace.trials / str(best.trial), workspace.best)
        test = judge_on_test(prepared, loaded)
    ledger.finished = best is not None
    ledger.save()
    content = summary(prepared, ledger, test)
    write_summary(workspace.folder, content)
    workspace.upload()
    if ledger.study_run_id is not None:
        _close_study(prepared.config, ledger, workspace, tracker, content)
    if best is None:
        raise T5RayError(why_all_failed(ledger))
    return content


def _close_study(
    config: RunConfig, ledger: Ledger, workspace: Workspace, tracker: Tracker, content: dict[str, Any]
) -> None:
    best, run_id = ledger.best, str(ledger.study_run_id)
    for name in ("report.html", "search.json"):
        tracker.log_files(run_id, workspace.folder / name)
    if best is None:
        tracker.end_run(run_id, "FAILED")
        return
    if best.mlflow_run_id is not None:
        columns = config.data.columns
        tracker.log_model(best.mlflow_run_id, workspace.best, columns=columns, register=config.register_as)
    metrics = {f"test_{name}": value for name, value in (content["test"] or {}).items()}
    metrics[f"best_{content['metric']}"] = float(best.best_value or 0.0)
    tracker.end_run(run_id, "FINISHED", metrics=metrics, tags={"t5ray.best_trial": str(best.trial)})


def why_all_failed(ledger: Ledger) -> str:
    """Return one paragraph on a search without a single good epoch."""
    reasons: dict[str, list[int]] = {}
    for record in ledger.ended:
        reasons.setdefault(record.reason or "no reason known", []).append(record.trial)
    causes = "; ".join(f"{reason} (trial {', '.join(map(str, trials))})" for reason, trials in reasons.items())
    return (
        f"At least one trial must finish an epoch, but all {len(ledger.ended)} failed: {causes}. "
        "Lower the learning rates of the search space, or run python -m t5ray.doctor."
    )
