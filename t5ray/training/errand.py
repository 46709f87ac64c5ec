"""Work on a finished model, done where its run had its hardware.

Comes in: a function and what it needs. Goes out: what it returns. On a cluster whose head has no GPU, the command that
concludes a run must not judge a large model on the head's few CPUs while the nodes it was trained on stand idle.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import ray
import torch

from t5ray.config import ResourcesConfig
from t5ray.errors import ClusterError

T = TypeVar("T")


def run_where_trained(resources: ResourcesConfig, function: Callable[..., T], *arguments: object) -> T:
    """Call a function: here where here is as good, else on the resources of one of the run's workers.

    Raises:
        ClusterError: the worker died.
    """
    if not resources.gpus_per_worker or torch.cuda.is_available():
        return function(*arguments)
    options: dict[str, Any] = {"num_cpus": resources.cpus_per_worker, "num_gpus": resources.gpus_per_worker}
    try:
        return ray.get(ray.remote(**options)(function).remote(*arguments))  # type: ignore[no-any-return]
    except ray.exceptions.WorkerCrashedError as exc:  # the operating system ends a process that takes all memory
        raise ClusterError(
            f"A worker must judge the finished model, but its process died, as it does where memory runs out: {exc}. "
            "Give the same command with --resume: nothing is trained again."
        ) from exc
