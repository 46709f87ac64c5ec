"""What a search takes of a machine or cluster: trials at a time, the CPUs of their workers, the disk."""

from dataclasses import replace
from pathlib import Path

from t5ray.cluster import Cluster
from t5ray.config import ResourcesConfig, TrainingConfig
from t5ray.counting import counted
from t5ray.errors import ClusterError
from t5ray.model.loading import num_parameters
from t5ray.search.confirm import num_expected
from t5ray.search.ledger import Ledger
from t5ray.storage import free_bytes
from t5ray.training.checkpoint import leaves_spare, weights_in_state
from t5ray.training.footprint import FP32_BYTES
from t5ray.training.prepare import Prepared
from t5ray.training.room import shared_out


def concurrency(
    resources: ResourcesConfig, cluster: Cluster, asked: int | None, num_trials: int, *, worker_bytes: int = 0
) -> int:
    """Return how many trials run at a time: what the cluster holds, what was asked for, what there is to do.

    On a cluster that was joined, what was asked for may exceed what it holds now: autoscaling brings nodes for trials
    that wait, and where it does not they run as others end.

    Args:
        worker_bytes: memory of a worker, about. Its nodes' memory limits how many run unless it was said how many
            shall; one does in any case, for this is an estimate.
    Raises:
        ClusterError: not even one trial fits, and it was not said how many shall run on nodes to come.
    """
    workers, cpus = resources.workers_per_trial, resources.cpus_per_worker or 1
    most = cluster.num_workers(cpus, resources.gpus_per_worker) // workers
    if asked and not cluster.started_here:
        return min(asked, num_trials)
    if most < 1:
        raise ClusterError(
            f"One trial must fit the cluster, but needs {counted(workers, 'worker')} of {counted(cpus, 'CPU')} "
            f"and {counted(resources.gpus_per_worker, 'GPU')} each, and the cluster has {cluster.shown}. "
            "Lower --workers-per-trial or --gpus-per-worker, or add nodes; on a cluster that adds them by itself, say "
            "with --max-concurrent how many trials to run at a time."
        )
    fitting = cluster.num_workers(cpus, resources.gpus_per_worker, worker_bytes) // workers
    return max(1, min(most, asked or fitting, num_trials))


def num_slots(prepared: Prepared, cluster: Cluster, ledger: Ledger) -> int:
    """Return how many runs go at a time in what is left of a search. Raises what `concurrency` does."""
    to_come, to_confirm = ledger.num_to_come, num_expected(ledger, ledger.target)  # the latter when those have ended
    return most_at_a_time(prepared, cluster, max(1, to_come, to_confirm))


def most_at_a_time(prepared: Prepared, cluster: Cluster, num_trials: int) -> int:
    """Return how many of so many trials run at a time. Raises what `concurrency` does."""
    config = prepared.config
    resources = config.resources.model_copy(update={"cpus_per_worker": prepared.cpus_per_worker})
    asked, worker_bytes = config.search.max_concurrent, prepared.worker_bytes
    return concurrency(resources, cluster, asked, num_trials, worker_bytes=worker_bytes)


def settle_cpus(prepared: Prepared, cluster: Cluster, ledger: Ledger) -> Prepared:
    """Share out the machine's CPUs, as an earlier session of the search did where that fits.

    Sums over another number of threads differ in their last bits, and a resumed search must go on as it would have.

    Raises:
        ClusterError: as `concurrency`.
    """
    shared = shared_out(prepared, cluster, most_at_a_time(prepared, cluster, ledger.target))
    resources, earlier = prepared.config.resources, ledger.cpus_per_worker
    fits = earlier and cluster.num_workers(earlier, resources.gpus_per_worker) >= resources.workers_per_trial
    if fits and not resources.cpus_per_worker:
        shared = replace(shared, cpus_per_worker=earlier)
    ledger.cpus_per_worker = shared.cpus_per_worker
    return shared


def checkpoint_bytes(model: str, training: TrainingConfig, slots: int) -> int:
    """Return what a search may have on disk at once.

    A running trial has its best weights and its last state, and the best trial that has ended its weights: 2
    checkpoints for each running trial, and one more. Besides, one of the trials is writing either, into a file that an
    older state may have left. All of them are in fp32, whatever the model came in. With AdamW, whose state is 3 times
    the weights, or SGD, that is no more than 2 states for each running trial and one more.
    """
    state = weights_in_state(training)
    written = state + leaves_spare(training)
    return ((1 + state) * slots + 1 + written) * FP32_BYTES * num_parameters(model)


def require_disk(model: str, training: TrainingConfig, trials: Path, slots: int) -> None:
    """Refuse a search whose checkpoints the disk cannot hold.

    Args:
        training: with the costliest of what the search varies.
        trials: folder of the checkpoints. Those that an earlier session left there make room for others.
    Raises:
        ClusterError: there is less free space than that.
    """
    needed, free = checkpoint_bytes(model, training, slots), free_bytes(trials)
    held = sum(path.stat().st_size for path in trials.rglob("*") if path.is_file())
    if free is not None and free + held < needed:
        raise ClusterError(
            f"{trials}: the disk must hold the checkpoints of {counted(slots, 'trial')} at a time, "
            f"{needed / 2**30:.1f} GiB, but has {free / 2**30:.1f} GiB free. "
            "Free space, lower --max-concurrent, or choose another --storage."
        )
