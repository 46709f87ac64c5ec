"""What a search would do, in words, before anything runs."""

from t5ray.cluster import Cluster
from t5ray.config import SearchSpace
from t5ray.search.scheduler import rung_epochs
from t5ray.search.study import concurrency
from t5ray.training.prepare import Prepared
from t5ray.training.run import describe as describe_run


def describe(prepared: Prepared, space: SearchSpace, cluster: Cluster) -> list[str]:
    """Return the plan of a search, one fact a line."""
    config = prepared.config
    training, resources = config.training, config.resources
    slots = concurrency(resources, cluster, config.search.max_concurrent, config.search.num_trials)
    lines = [
        f"trials       {config.search.num_trials} ({slots} at a time), up to {training.max_epochs} epochs each",
        f"objective    {prepared.objective} ({prepared.mode}) on {_sample(prepared)} validation rows",
        f"per trial    {resources.workers_per_trial} workers, {resources.cpus_per_worker} CPUs and "
        f"{resources.gpus_per_worker:g} GPUs each",
        *describe_run(prepared),
        f"sampler      {space.sampler.name}, {len(space.parameters)} parameters: {', '.join(space.parameters)}",
    ]
    left = float(config.search.num_trials)
    for epoch in rung_epochs(space.scheduler, training.max_epochs):
        lines.append(f"rung         after epoch {epoch}: about {left:.0f} trials arrive")
        left = max(1.0, left / space.scheduler.reduction_factor)
    return lines


def _sample(prepared: Prepared) -> int:
    return min(prepared.config.training.validation_rows, len(prepared.data.validation))
