"""One optimizer step: the gradient of its rows, over micro-batches and workers, and the update."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from t5ray.config import TrainingConfig
from t5ray.data.batches import Indices, Step, collate
from t5ray.data.tokens import TokenisedSplit
from t5ray.model.numeric import autocast, resolve_precision
from t5ray.model.optim import Adafactor
from t5ray.model.packed import packed, summed_loss
from t5ray.training.group import Group
from t5ray.training.plan import RunFailed


@dataclass
class EpochSums:
    """Sums over one epoch of training."""

    step: int = 0
    loss: float = 0.0
    target_tokens: int = 0
    real_tokens: int = 0
    padded_tokens: int = 0
    seconds: float = 0.0


def optimizer_step(
    forward: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    split: TokenisedSplit,
    step: Step,
    config: TrainingConfig,
    group: Group,
    sums: EpochSums,
    number: int = 1,
) -> tuple[float, float]:
    """Accumulate the step's gradient over micro-batches and workers, then update; return (loss per token, norm).

    Args:
        number: the step's place in the run, counted from 1, for the cause of a failure.
    """
    groups: Sequence[Sequence[int] | Indices] = step.micro_batches or (
        [0],
    )  # an idle worker forwards one row, weightless, to join the reduction
    weights = [group.size / step.target_tokens if step.micro_batches else 0.0] * len(groups)
    if isinstance(forward, FSDPModule):  # all workers forward equally often, for each forward gathers the weights
        idle = max(group.gather(len(groups))) - len(groups)
        groups, weights = [*groups, *[[0]] * idle], [*weights, *[0.0] * idle]
    total = accumulate(forward, split, groups, weights, config, group, sums)
    summed = group.sum([total])[0]
    loss_per_token = summed / step.target_tokens
    if not math.isfinite(loss_per_token):
        raise RunFailed(f"the loss must be finite, but is {loss_per_token} at step {number}")
    norm = update(forward, optimizer, config.max_grad_norm or math.inf)
    if not math.isfinite(norm):
        raise RunFailed(f"the gradient must be finite, but its norm is {norm} at step {number}")
    optimizer.zero_grad(set_to_none=True)
    sums.loss += summed
    sums.target_tokens += step.target_tokens
    return loss_per_token, norm


def update(forward: torch.nn.Module, optimizer: Any, max_norm: float) -> float:
    """Scale the gradient down to a global L2 norm, update the weights, and return the norm that it had."""
    fused = isinstance(optimizer, Adafactor) or (
        isinstance(optimizer, torch.optim.Adam) and optimizer.defaults["fused"]
    )
    if not fused or isinstance(forward, FSDPModule):
        norm = torch.nn.utils.clip_grad_norm_(forward.parameters(), max_norm)
        optimizer.step()
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    norm = total_norm([p.grad for p in forward.parameters() if p.grad is not None])
    # as a GradScaler has it: the fused rule divides gradients while it reads them, which saves a pass over memory
    optimizer.grad_scale = ((norm.float() + 1e-6) / max_norm).clamp(min=1.0)
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale
    return float(norm)


def total_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the L2 norm of all gradients together.

    In fp32 on a CPU by dot products, which read memory twice as fast as `torch.linalg.vector_norm` there, and sum up
    more precisely: over a matrix of 16 million numbers that one is off by half a per mille.
    """
    if not all(gradient.device.type == "cpu" and gradient.dtype == torch.float32 for gradient in gradients):
        return torch.nn.utils.get_total_norm(gradients)
    flat = [gradient.flatten() for gradient in gradients]
    return torch.tensor([torch.dot(part, part) for part in flat]).sum().sqrt()


def accumulate(
    forward: torch.nn.Module,
    split: TokenisedSplit,
    groups: Sequence[Sequence[int] | Indices],
    weights: Sequence[float],
    config: TrainingConfig,
    group: Group,
    sums: EpochSums,
) -> float:
    """Add up the gradient of micro-batches and return their summed loss; those of weight 0 count for nothing."""
    precision = resolve_precision(config.precision, group.device)
    model: Any = forward.module if isinstance(forward, DistributedDataParallel) else forward
    total = torch.zeros((), device=group.device)
    real = padded = 0
    for i, (rows, weight) in enumerate(zip(groups, weights, strict=True)):
        batch = collate(split, rows, pad_id=model.config.pad_token_id)
        if weight > 0:
            padded += batch.input_ids.numel() + batch.labels.numel()
            real += int(batch.attention_mask.sum()) + int((batch.labels >= 0).sum())
        if isinstance(forward, DistributedDataParallel):  # reduce over workers with the last one only
            forward.require_backward_grad_sync = i == len(groups) - 1
        batch = batch.to(group.device)
        with packed(model):
            with autocast(precision, group.device):
                loss = summed_loss(forward, batch.input_ids, batch.attention_mask, batch.labels, config.label_smoothing)
            (loss * weight).backward()  # type: ignore[no-untyped-call]
        total += loss.detach() * (weight > 0)
    sums.real_tokens += real
    sums.padded_tokens += padded
    return float(total)
