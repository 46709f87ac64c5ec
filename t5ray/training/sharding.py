"""One model over many workers: a copy on each (DDP), or a part of every matrix on each (FSDP2).

What is saved is whole in both ways: full tensors on the CPU, so that a state can be read by any number of workers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from t5ray.config import TrainingConfig
from t5ray.model.numeric import resolve_precision
from t5ray.training.group import Group

STATE_BYTES = 16
"""Bytes per parameter of fp32 weights, gradients and AdamW's two moments."""
MEMORY_SHARE = 0.8
"""Share of a GPU's memory that these may take before `auto` shards them; activations need the rest."""


def is_sharded(config: TrainingConfig, model: nn.Module, group: Group) -> bool:
    """Say whether the run's workers hold parts of the model rather than copies."""
    if group.size == 1 or config.parallel == "ddp":
        return False
    if config.optimizer == "adafactor" or config.precision == "bf16_pure":
        return False
    if config.parallel == "fsdp":
        return True
    if group.device.type != "cuda":
        return False
    room = MEMORY_SHARE * torch.cuda.get_device_properties(group.device).total_memory
    return STATE_BYTES * sum(parameter.numel() for parameter in model.parameters()) > room


def spread(model: nn.Module, config: TrainingConfig, group: Group) -> nn.Module:
    """Put a model on this worker's device, in whole or in part, and return what to call."""
    if not is_sharded(config, model, group):
        model.to(group.device)
        # gradients are views of what is sent: no second copy of them, and none to make
        return DistributedDataParallel(model, gradient_as_bucket_view=True) if group.size > 1 else model
    mesh = init_device_mesh(group.device.type, (group.size,))
    low = resolve_precision(config.precision, group.device) == "bf16"
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if low else MixedPrecisionPolicy()
    for stack in ("encoder", "decoder"):
        for block in model.get_submodule(stack).get_submodule("block").children():
            fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Hold all of a sharded model on each worker, who may then call it as often as it likes, alone."""
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not model, recurse=False)


def gathered(tree: Any) -> Any:
    """Return nested values with full tensors on the CPU in the place of sharded ones; every worker must call it.

    Only worker 0 gets them, the others None: it alone writes, and a node may not have the memory for several.
    """
    return _mapped(tree, lambda value: _whole_on_first(value) if isinstance(value, DTensor) else value)


def _whole_on_first(value: DTensor) -> torch.Tensor | None:
    full = value.full_tensor()
    return full.cpu() if value.device_mesh.get_rank() == 0 else None


def placed_like(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a full tensor as the part that this worker holds of one like it."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def placed_optimizer_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return a copy of a full optimizer state, which may be mapped from a file, as this worker's part of it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parts = {
        index: {k: _copied(v, parameters[index]) if isinstance(v, torch.Tensor) else v for k, v in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": parts}


def _copied(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    placed = placed_like(value, like)
    return value.clone() if placed is value else placed


def _mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(tree, dict):
        return {key: _mapped(value, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_mapped(value, change) for value in tree)
    return change(tree)
