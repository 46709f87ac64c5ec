"""A single run: one job for one group of Ray Train workers, its bundle, and its record.

<storage>/<name>/best/        the bundle
<storage>/<name>/train.json   objective, best epoch, test metrics, every epoch's report
<storage>/<name>/config.yaml  the resolved settings
<storage>/<name>/state/       what --resume needs
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import ray

from t5ray.cluster import Cluster, local_path
from t5ray.config import RunConfig, dump_yaml
from t5ray.data.batches import num_steps
from t5ray.errors import ClusterError, ConfigError, T5RayError
from t5ray.model.card import write_json
from t5ray.tracking import Tracker
from t5ray.training.augmentation import describe as describe_augmentation
from t5ray.training.outcome import identity_of, judge_on_test, public, publish_best, require_same, versions
from t5ray.training.plan import RunPlan, Tick
from t5ray.training.prepare import Prepared
from t5ray.training.slot import Slot, SlotSpec

IDENTITY = "state/run.json"
"""What an interrupted run began with, and its MLflow run."""


def open_folder(config: RunConfig, *, resume: bool) -> Path:
    """Return the run's folder.

    Raises:
        ConfigError: the folder holds a run and --resume was not given, or there is no interrupted one to go on with.
        ClusterError: the storage is a URI, which only a search can use yet.
    """
    folder = local_path(config.storage) / str(config.name)
    if (folder / "train.json").exists():
        raise ConfigError(f"{folder}: must be a new folder, but holds a finished run. Choose another --name.")
    interrupted = (folder / IDENTITY).exists()
    if interrupted and not resume:
        raise ConfigError(
            f"{folder}: must be a new folder, but holds an interrupted run. Add --resume, or choose another --name."
        )
    if resume and not interrupted:
        raise ConfigError(f"{folder}: must hold an interrupted run to go on with, but holds none. Leave out --resume.")
    return folder


def _begin(prepared: Prepared, folder: Path, tracker: Tracker) -> str:
    """Open the run's books, or take them up again, and return its MLflow run.

    Raises:
        ConfigError: the interrupted run had other settings, data or another model.
        ClusterError: the folder cannot be written.
    """
    identity = identity_of(prepared)
    if (folder / IDENTITY).exists():
        saved = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
        require_same(saved["identity"], identity, folder)
        run_id = str(saved["mlflow_run_id"])
        if run_id:
            tracker.reopen_run(run_id)
        return run_id
    config = prepared.config
    run_id = tracker.start_run(str(config.name), params=config.training.model_dump(), tags={"t5ray.kind": "train"})
    try:
        (folder / "state").mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(dump_yaml(public(config)), encoding="utf-8")
        write_json(folder / IDENTITY, {"identity": identity, "mlflow_run_id": run_id})
    except OSError as exc:
        raise ClusterError(f"{folder}: --storage must be writable, but: {exc}. Choose another one.") from exc
    return run_id


def describe(prepared: Prepared) -> list[str]:
    """Return what a run trains on and for how long, one fact a line."""
    training, data = prepared.config.training, prepared.data
    rows = f"{len(data.train)} training, {len(data.validation)} validation, {len(data.test)} test rows"
    return [
        f"data         {rows}; {'tokens reused from an earlier run' if data.reused else 'tokenised now'}",
        f"per epoch    {num_steps(len(data.train), training.batch_size)} steps of {training.batch_size} rows, "
        f"{data.train.num_tokens:,} tokens; {training.max_epochs} epochs",
        f"lengths      input {data.max_input_tokens}, target {data.max_target_tokens} tokens; "
        f"{data.truncated_inputs:.1%} of inputs and {data.truncated_targets:.1%} of targets are cut",
        *describe_augmentation(training),
    ]


def run_once(
    prepared: Prepared, folder: Path, tracker: Tracker, on_tick: Tick, *, in_process: bool = False
) -> dict[str, Any]:
    """Train, publish the bundle, judge it on test, and record it all.

    Args:
        in_process: train in this process; see `fits_here`.
    Raises:
        ClusterError: the workers died too often.
        T5RayError: the run failed, for example by a loss that is not finite.
    """
    config = prepared.config
    run_id = _begin(prepared, folder, tracker)
    with tempfile.TemporaryDirectory(prefix="t5ray-train-", ignore_cleanup_errors=True) as scratch:
        slot = Slot(
            SlotSpec(
                model=prepared.model,
                data=ray.put(prepared.data.without_test()),
                texts=None if prepared.texts is None else ray.put(prepared.texts),
                num_workers=config.resources.workers_per_trial,
                cpus_per_worker=config.resources.cpus_per_worker,
                gpus_per_worker=config.resources.gpus_per_worker,
                in_process=in_process,
                scratch=scratch,
            )
        )
        try:
            reports = _follow(slot, prepared, folder, tracker, run_id, on_tick)
        except (KeyboardInterrupt, ClusterError):
            tracker.end_run(run_id, "KILLED")
            raise
        finally:
            slot.close()
    best = reports[reports[-1]["best_epoch"] - 1]
    loaded = publish_best(prepared, {}, best, folder / "state", folder / "best")
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
    write_json(folder / "train.json", outcome)
    shutil.rmtree(folder / "state", ignore_errors=True)
    if run_id:
        tracker.log_model(run_id, folder / "best", columns=config.data.columns, register=config.register_as)
    tests = {f"test_{name}": value for name, value in outcome["test"].items()}
    tracker.end_run(run_id, "FINISHED", metrics={**tests, f"best_{prepared.objective}": best["value"]})
    return outcome


def fits_here(config: RunConfig, cluster: Cluster) -> bool:
    """Say whether this process may train: alone, and on a machine that nobody shares.

    Then no other process has to start and to import torch, which takes longer than many a small run.
    """
    alone = config.resources.workers_per_trial == 1 and cluster.num_nodes == 1
    return alone and (cluster.started_here or not cluster.num_gpus)


def require_room(config: RunConfig, cluster: Cluster) -> list[str]:
    """Return what to tell the user where a joined cluster has too little room now: nodes may yet come.

    Raises:
        ClusterError: the run can never fit the Ray that was started for it.
    """
    resources = config.resources
    cpus, gpus = (resources.workers_per_trial * n for n in (resources.cpus_per_worker, resources.gpus_per_worker))
    if cpus <= cluster.num_cpus and gpus <= cluster.num_gpus:
        return []
    gap = (
        f"needs {cpus:g} CPUs and {gpus:g} GPUs, and the cluster has {cluster.num_cpus:g} CPUs and "
        f"{cluster.num_gpus:g} GPUs"
    )
    if cluster.started_here:
        raise ClusterError(f"The run must fit the cluster, but {gap}. Lower --workers-per-trial, or add nodes.")
    return [f"The run {gap} now: waiting for nodes. Ctrl-C and lower --workers-per-trial if none will come."]


def _follow(
    slot: Slot, prepared: Prepared, folder: Path, tracker: Tracker, run_id: str, on_tick: Tick
) -> list[dict[str, Any]]:
    """Start the job and note its epochs until the last."""
    config = prepared.config
    slot.start(
        RunPlan(
            trial=0,
            config=config.training,
            decode=prepared.decode,
            task=prepared.task,
            objective=prepared.objective,
            mode=prepared.mode,
            folder=(folder / "state").resolve(),
        )
    )
    reports: list[dict[str, Any]] = []
    while not reports or not reports[-1]["final"]:
        message = slot.next_message(on_tick)
        if message.report is None:
            tracker.end_run(run_id, "FAILED", tags={"t5ray.reason": str(message.failure)})
            raise T5RayError(f"The run must reach its end, but failed: {message.failure}.")
        reports.append(message.report)
        log_epoch(tracker, run_id, message.report, prepared.objective)
        slot.decide(message.report["epoch"], go_on=True)
    slot.settle()
    return reports


def log_epoch(tracker: Tracker, run_id: str, report: dict[str, Any], objective: str) -> None:
    """Send an epoch's curves and metrics to the tracker."""
    for point in report["history"]:
        tracker.log_metrics(run_id, {k: v for k, v in point.items() if k != "step"}, step=int(point["step"]))
    epoch_metrics = {
        **report["metrics"],
        "validation_loss": report["validation_loss"],
        "train_loss": report["train_loss"],
        "tokens_per_s": report["tokens_per_s"],
        "padding_share": report["padding_share"],
        "hit_cap_share": report["hit_cap"],
        f"best_{objective}": report["best_value"],
    }
    tracker.log_metrics(run_id, epoch_metrics, step=report["epoch"])
