"""How many scorers a job has, what each holds of the cluster's CPUs and GPUs, and what each is handed at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import ray.data

from t5ray.cluster import Cluster
from t5ray.config import PredictConfig
from t5ray.counting import counted
from t5ray.errors import ClusterError

Item = TypeVar("Item")

LEAST_CPUS = 0.01
MOST_CPUS = 2.0
"""By which workers without GPUs are counted, where neither their number nor their size is given."""
BLOCK_SHARDS = 8
"""Shards that a worker is handed at once, at most, as long as that makes no more than `MANY_BLOCKS`."""
MANY_BLOCKS = 2000
"""Blocks of the largest size, beyond which they are made larger: each is a Ray task and an object that the driver puts.
The smaller ones come on top: of each size some `SLOWER` for each worker, divided by it, and many single ones."""
SLOWER = 8
"""A block is this part of a worker's share of what is left: one that much slower than the others ends it with them,
where it is no single shard."""
ENOUGH_USED = 0.75
"""Of the CPUs that smaller workers would put to work, the share with which larger ones are enough."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The workers of a job."""

    fewest: int
    most: int
    """Ray Data adds workers up to here while shards wait and the cluster has room."""
    cpus: float
    """Of one worker; Ray gives it as many threads."""
    gpus: float
    """Of one worker."""
    waits: str = ""
    """What for, where no worker has room now."""

    @property
    def strategy(self) -> ray.data.ActorPoolStrategy:
        """The pool as Ray Data knows it. A worker holds one task and no queue, so a slow one keeps no other waiting."""
        sizes = {"size": self.most} if self.fewest == self.most else {"min_size": self.fewest, "max_size": self.most}
        return ray.data.ActorPoolStrategy(**sizes, max_tasks_in_flight_per_actor=1)


def blocks_of(shards: Sequence[Item], workers: int) -> Iterator[Sequence[Item]]:
    """Cut shards into the blocks that workers are handed one after the other.

    Within a block the next shard is read and the last one written while one is scored; from one block to the next they
    are not. Yet what lies in a worker's block is lost to the others that have nothing to do. So each is handed the
    eighth part (`SLOWER`) of its share of what is left (factoring, Hummel et al. 1992, who take the half), or a single
    shard: so it is in small jobs, and at the end of all. A worker alone is handed as much as a block may hold.

    Args:
        workers: as many as there may be.
    Example:
        50 shards, 2 workers -> 3 (of 50), 2 (of 47), 2 (of 45), ... and from 31 on 1
    """
    most = max(BLOCK_SHARDS, -(-len(shards) // MANY_BLOCKS))
    parts = SLOWER * workers if workers > 1 else 1
    start = 0
    while start < len(shards):
        size = min(most, max(1, (len(shards) - start) // parts))
        yield shards[start : start + size]
        start += size


def pool_for(config: PredictConfig, cluster: Cluster, num_shards: int, num_pending: int | None = None) -> Pool:
    """Choose how many workers and what each holds.

    How many CPUs one holds must not depend on how much is left to do: it decides how rows are shared out to threads,
    and so the last bits of scores, which are to be an undisturbed run's.

    Args:
        num_shards: of the whole job.
        num_pending: those without an entry. None: all.
    Raises:
        ClusterError: a Ray of our own has less than is asked for; one that was joined may still grow.
    """
    gpus = gpus_each(config, cluster)
    asked = config.workers or max(1, _workers_that_fit(cluster, config.cpus_per_worker, gpus))
    sizes = asked if isinstance(asked, tuple) else (asked, asked)
    cpus = config.cpus_per_worker or _cpus_each(cluster, gpus, min(sizes[1], num_shards))
    fewest, most = (min(n, num_shards if num_pending is None else num_pending) for n in sizes)
    room = cluster.num_workers(cpus, gpus)
    each = f"{counted(cpus, 'CPU')} and {counted(gpus, 'GPU')}"
    if cluster.started_here and room < fewest:
        raise ClusterError(
            f"--workers {fewest}: all scorers must fit, but with {each} each {room} of them do: there are "
            f"{cluster.shown}. Use fewer workers, or smaller cpus_per_worker or gpus_per_worker."
        )
    return Pool(fewest, most, cpus, gpus, "" if room else f"waiting for a node with {each}: there are {cluster.shown}")


def gpus_each(config: PredictConfig, cluster: Cluster) -> float:
    """Return what a worker has of GPUs: what was asked for, else one where the cluster has any."""
    return config.gpus_per_worker or (1.0 if cluster.num_gpus else 0.0)


def _workers_that_fit(cluster: Cluster, cpus: float | None, gpus: float) -> int:
    """Return how many workers a cluster has room for: one per GPU (or share of one), or per two CPUs.

    Nodes with fewer than two CPUs count where they matter: if workers of two CPUs leave more than a quarter idle of
    what workers as small as such a node put to work, there is one per as many CPUs as that node has. A few small nodes
    stay idle, as workers that fit them would be many elsewhere, each with its copy of the model.
    """
    if cpus or gpus:
        return cluster.num_workers(cpus or LEAST_CPUS, gpus)
    sizes = {min(node.cpus, MOST_CPUS) for node in cluster.nodes if node.cpus >= LEAST_CPUS} or {MOST_CPUS}
    used = {size: size * cluster.num_workers(size, 0) for size in sizes}
    size = max(size for size in sizes if used[size] >= ENOUGH_USED * max(used.values()))
    return cluster.num_workers(size, 0)


def _cpus_each(cluster: Cluster, gpus: float, workers: int) -> float:
    """Return the most CPUs with which as many workers fit as do with next to none: whole ones, or hundredths of one.

    Only CPUs beside GPUs count for workers with GPUs. Where no node has those yet nobody knows what will be beside
    them, and a worker has one.
    """
    fitting = min(workers, cluster.num_workers(LEAST_CPUS, gpus))
    most = max((node.cpus for node in cluster.nodes), default=cluster.num_cpus)
    choices = (*map(float, range(int(most), 0, -1)), *(part / 100 for part in range(99, 0, -1)))
    return next(cpus for cpus in choices if cluster.num_workers(cpus, gpus) >= fitting) if fitting else 1.0
