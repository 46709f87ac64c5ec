"""What a search would do, in words, before anything runs."""

from t5ray.cluster import Cluster
from t5ray.config import SearchSpace
from t5ray.data.batches import num_steps
from t5ray.search.scheduler import rung_epochs
from t5ray.search.study import concurrency
from t5ray.training.prepare import Prepared


def describe(prepared: Prepared, space: SearchSpace, cluster: Cluster) -> list[str]:
    """Return the plan of a search, one fact a line."""
    config = prepared.config
    training, resources = config.training, config.resources
    slots = concurrency(resources, cluster, config.search.max_concurrent, config.search.num_trials)
    tokens = int(prepared.data.train.num_tokens)
    lines = [
        f"trials       {config.search.num_trials} ({slots} at a time), up to {training.max_epochs} epochs each",
        f"objective    {prepared.objective} ({prepared.mode}) on {_sample(prepared)} validation rows",
        f"per trial    {resources.workers_per_trial} workers, {resources.cpus_per_worker} CPUs and "
        f"{resources.gpus_per_worker:g} GPUs each",
        f"per epoch    {num_steps(len(prepared.data.train), training.batch_size)} steps of {training.batch_size} rows, "
        f"{tokens:,} tokens",
        f"lengths      input {prepared.data.max_input_tokens}, target {prepared.data.max_target_tokens} tokens; "
        f"{prepared.data.truncated_inputs:.1%} of inputs and {prepared.data.truncated_targets:.1%} of targets are cut",
        f"sampler      {space.sampler.name}, {len(space.parameters)} parameters: {', '.join(space.parameters)}",
    ]
    left = float(config.search.num_trials)
    for epoch in rung_epochs(space.scheduler, training.max_epochs):
        lines.append(f"rung         after epoch {epoch}: about {left:.0f} trials arrive")
        left = max(1.0, left / space.scheduler.reduction_factor)
    return lines


def _sample(prepared: Prepared) -> int:
    return min(prepared.config.training.validation_rows, len(prepared.data.validation))
