"""One optimizer step: the gradient of its rows, over micro-batches and workers, and the update."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from t5ray.config import TrainingConfig
from t5ray.data.batches import Batch, Indices, Step, collate
from t5ray.data.tokens import TokenisedSplit
from t5ray.model.numeric import autocast, resolve_precision
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
) -> tuple[float, float]:
    """Accumulate the step's gradient over micro-batches and workers, then update; return (loss per token, norm)."""
    precision = resolve_precision(config.precision, group.device)
    total = torch.zeros((), device=group.device)
    groups: Sequence[Sequence[int] | Indices] = step.micro_batches or (
        [0],
    )  # an idle worker forwards one row, weightless, to join the reduction
    weights = [group.size / step.target_tokens if step.micro_batches else 0.0] * len(groups)
    if isinstance(forward, FSDPModule):  # all workers forward equally often, for each forward gathers the weights
        idle = max(group.gather(len(groups))) - len(groups)
        groups, weights = [*groups, *[[0]] * idle], [*weights, *[0.0] * idle]
    for i, (rows, weight) in enumerate(zip(groups, weights, strict=True)):
        batch = collate(split, rows, pad_id=_config_of(forward).pad_token_id)
        sums.padded_tokens += batch.input_ids.numel() + batch.labels.numel()
        sums.real_tokens += int(batch.attention_mask.sum()) + int((batch.labels >= 0).sum())
        last = i == len(groups) - 1
        with autocast(precision, group.device):
            loss = _summed_loss(forward, batch.to(group.device), config.label_smoothing, sync=last)
        (loss * weight).backward()  # type: ignore[no-untyped-call]
        total += loss.detach() * (weight > 0)
    summed = group.sum([total.item()])[0]
    loss_per_token = summed / step.target_tokens
    if not math.isfinite(loss_per_token):
        raise RunFailed(f"the loss must be finite, but is {loss_per_token} at step {sums.step + 1}")
    norm = torch.nn.utils.clip_grad_norm_(forward.parameters(), config.max_grad_norm or math.inf)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    sums.loss += summed
    sums.target_tokens += step.target_tokens
    return loss_per_token, float(norm)


def _config_of(forward: torch.nn.Module) -> Any:
    return (forward.module if isinstance(forward, DistributedDataParallel) else forward).config


def _summed_loss(forward: torch.nn.Module, batch: Batch, smoothing: float, *, sync: bool) -> torch.Tensor:
    """Return the cross-entropy summed over the batch's target tokens.

    Args:
        sync: whether a distributed model reduces gradients over workers in the coming backward pass.
    """
    if isinstance(forward, DistributedDataParallel):
        forward.require_backward_grad_sync = sync
    model: Any = forward.module if isinstance(forward, DistributedDataParallel) else forward
    logits = forward(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        decoder_input_ids=model.prepare_decoder_input_ids_from_labels(batch.labels),
        use_cache=False,
    ).logits
    return cross_entropy(
        logits.flatten(0, 1).float(), batch.labels.flatten(), reduction="sum", label_smoothing=smoothing
    )
