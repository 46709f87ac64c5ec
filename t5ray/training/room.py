"""What a run gets of the machine or cluster that it runs on."""

from dataclasses import replace

from t5ray.cluster import Cluster
from t5ray.config import RunConfig
from t5ray.counting import counted
from t5ray.errors import ClusterError
from t5ray.training.prepare import Prepared

SHARED = (
    "Each worker has 1 CPU of this Ray, as others may want the rest. --set resources.cpus_per_worker=N gives it more."
)


def fits_here(config: RunConfig, cluster: Cluster) -> bool:
    """Say whether this process may train: alone, and on a Ray of its own, whose CPUs nobody else is given.

    Then no other process has to start and to import torch, which takes longer than many a small run.
    """
    return cluster.started_here and config.resources.workers_per_trial == 1 and cluster.num_nodes == 1


def shared_out(prepared: Prepared, cluster: Cluster, runs: int = 1) -> Prepared:
    """Give each worker its share of the CPUs of a machine that nobody else is given, unless a setting says how many.

    On a Ray that was joined others may want them, and beside a GPU a worker has little to do with more.

    Args:
        runs: how many train at a time.
    """
    resources = prepared.config.resources
    if resources.cpus_per_worker or resources.gpus_per_worker or not cluster.started_here:
        return prepared
    return replace(prepared, cpus_per_worker=max(1, int(cluster.num_cpus) // (runs * resources.workers_per_trial)))


def unused_gpus(prepared: Prepared, cluster: Cluster) -> list[str]:
    """Return what to tell who trains on CPUs beside GPUs."""
    if prepared.config.resources.gpus_per_worker or not cluster.num_gpus:
        return []
    return [f"Training is on CPUs; of {counted(cluster.num_gpus, 'GPU')} none is used without --gpus-per-worker 1."]


def require_room(prepared: Prepared, cluster: Cluster) -> list[str]:
    """Return what to tell the user: that a joined cluster has too little room now, or more than workers are given.

    Raises:
        ClusterError: the run can never fit the Ray that was started for it; says what to lower.
    """
    resources = prepared.config.resources
    workers, cpus, gpus = resources.workers_per_trial, prepared.cpus_per_worker, resources.gpus_per_worker
    if workers <= cluster.num_workers(cpus, gpus):
        could_have_more = not (resources.cpus_per_worker or gpus) and workers <= cluster.num_workers(cpus + 1, gpus)
        return [SHARED] if could_have_more and not cluster.started_here else []
    each = f"{counted(cpus, 'CPU')} and {counted(gpus, 'GPU')} each"
    gap = f"needs {counted(workers, 'worker')} of {each}, and the cluster has {cluster.shown}"
    if not cluster.started_here:
        return [f"The run {gap} now: it waits for nodes. If none will come, ask for less."]
    asked = {
        "--workers-per-trial": workers > 1,
        "--gpus-per-worker": gpus > 0,
        "resources.cpus_per_worker": resources.cpus_per_worker is not None,
    }
    lower = " or ".join(name for name, is_asked in asked.items() if is_asked)
    raise ClusterError(f"The run must fit the cluster, but {gap}. Lower {lower}, or join a larger Ray with --address.")
