"""Work on a finished model, done where its run had its hardware.

Comes in: a function and what it needs. Goes out: what it returns. On a cluster whose head has no GPU, the command that
concludes a run must not judge a large model on the head's few CPUs while the nodes it was trained on stand idle.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import ray
import torch

from t5ray.config import ResourcesConfig
from t5ray.errors import ClusterError, T5RayError, one_line

T = TypeVar("T")


def run_where_trained(resources: ResourcesConfig, function: Callable[..., T], *arguments: object) -> T:
    """Call a function: here where here is as good, else on the resources of one of the run's workers.

    Raises:
        ClusterError: the worker, or its node, died.
    """
    if not resources.gpus_per_worker or torch.cuda.is_available():
        return function(*arguments)
    options: dict[str, Any] = {
        "num_cpus": resources.cpus_per_worker or 1,
        "num_gpus": resources.gpus_per_worker,
        "max_retries": 0,  # what takes all memory once does so again
    }
    try:
        return ray.get(ray.remote(**options)(function).remote(*arguments))  # type: ignore[no-any-return]
    except ray.exceptions.RayTaskError as exc:
        if isinstance(exc.cause, T5RayError):
            raise exc.cause from exc
        raise
    except ray.exceptions.RayError as exc:
        reason = one_line(exc)[:300]
        raise ClusterError(
            f"A worker must judge the finished model, but it died, or its node did: {type(exc).__name__}: {reason} "
            "Give the same command with --resume: nothing is trained again."
        ) from exc
