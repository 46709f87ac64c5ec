"""The workers that share one run, seen from one of them. Works without torch.distributed, as a group of one."""

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


class Group:
    """This worker's place in its group, and the few collectives that the loop needs."""

    def __init__(self, device: torch.device | None = None) -> None:
        """Join the default process group where there is one."""
        joined = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if joined else 0
        self.size = dist.get_world_size() if joined else 1
        self.device = device or torch.device("cpu")

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add numbers over all workers."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(v) for v in tensor.tolist()]

    def gather(self, value: T) -> list[T]:
        """Return every worker's value, in rank order, on every worker."""
        if self.size == 1:
            return [value]
        parts = [value] * self.size
        dist.all_gather_object(parts, value)
        return parts

    def broadcast(self, value: T) -> T:
        """Return worker 0's value on every worker."""
        if self.size == 1:
            return value
        box: list[T] = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]
