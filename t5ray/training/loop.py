"""The training loop: epochs of optimizer steps, each followed by validation, a checkpoint and a report.

Plain PyTorch. It knows no Ray: it is handed a model, tokenised data, a group of workers and two callables.
"""

import math
import time
from dataclasses import asdict
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from t5ray.cluster import upload_dir
from t5ray.data.batches import epoch_steps, num_steps
from t5ray.data.tokens import TokenisedData, TokenisedSplit
from t5ray.model.loading import LoadedModel
from t5ray.model.numeric import autocast, resolve_precision, set_dropout
from t5ray.model.optim import build_optimizer, learning_rate_at, set_learning_rate
from t5ray.training.checkpoint import BEST, Progress, drop_last, load_last, save_best, save_last
from t5ray.training.group import Group
from t5ray.training.plan import EpochReport, Report, RunFailed, RunPlan, Tick
from t5ray.training.step import EpochSums, optimizer_step
from t5ray.training.validation import Validation, fixed_sample, validate

HISTORY_POINTS = 20
"""Points of the step curves that each epoch reports."""


def fine_tune(
    loaded: LoadedModel,
    data: TokenisedData,
    plan: RunPlan,
    *,
    group: Group,
    report: Report,
    tick: Tick,
) -> Progress:
    """Train until the last epoch, or until `report` says stop.

    A run whose folder holds a state goes on from there, and first reports again what it had reported.

    Args:
        loaded: pristine weights on this worker; trained in place.
        report: called on worker 0 only; its answer holds for the group.
    Raises:
        RunFailed: the loss is not finite, or the GPU's memory does not hold one micro-batch.
    """
    torch.manual_seed(plan.config.seed + group.rank)
    set_dropout(loaded.model, plan.config.dropout)
    model = loaded.model.to(group.device).train()
    model.activation_checkpointing_disable()
    if plan.config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    optimizer = build_optimizer(model, plan.config)
    progress = _restore(model, optimizer, plan, group)
    for earlier in progress.reports:
        if not group.broadcast(group.rank > 0 or report(earlier)):
            return progress
    forward = DistributedDataParallel(model) if group.size > 1 else model
    try:
        for epoch in range(progress.epoch + 1, plan.config.max_epochs + 1):
            trained = _train_epoch(forward, optimizer, data.train, plan, epoch, group, tick)
            started = time.perf_counter()
            validation = _validate(loaded, data, plan, group)
            validated = time.perf_counter()
            outcome = _note(progress, plan, epoch, trained, validation, validated - started)
            if group.rank == 0:
                _save(plan, loaded, optimizer, progress, last=not outcome["final"])
            outcome["save_s"] = time.perf_counter() - validated
            if not group.broadcast(group.rank > 0 or report(outcome)):
                break
    except torch.cuda.OutOfMemoryError as exc:
        raise RunFailed(f"out of GPU memory with micro_batch_tokens={plan.config.micro_batch_tokens}: {exc}") from exc
    if group.rank == 0:
        drop_last(plan.folder)
    return progress


def _save(
    plan: RunPlan, loaded: LoadedModel, optimizer: torch.optim.Optimizer, progress: Progress, *, last: bool
) -> None:
    """Keep the weights where this epoch is the best, and the state to go on from where epochs are left."""
    if progress.best_epoch == progress.epoch:
        save_best(plan.folder, loaded)
        if plan.remote is not None:
            upload_dir(plan.folder / BEST, f"{plan.remote}/{BEST}")
    if last:
        save_last(plan.folder, loaded.model, optimizer, progress)


def _restore(model: torch.nn.Module, optimizer: torch.optim.Optimizer, plan: RunPlan, group: Group) -> Progress:
    """Go on from the folder's state where every worker can read the same one."""
    if not all(group.gather((plan.folder / "last.pt").exists())):
        return Progress()
    progress = load_last(plan.folder, model, optimizer) or Progress()
    if len(set(group.gather(progress.epoch))) > 1:
        raise RunFailed(f"{plan.folder}: every worker must read the same state. Use storage that all nodes share.")
    return progress


def _train_epoch(
    forward: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    split: TokenisedSplit,
    plan: RunPlan,
    epoch: int,
    group: Group,
    tick: Tick,
) -> EpochSums:
    config = plan.config
    per_epoch = num_steps(len(split), config.batch_size)
    total = per_epoch * config.max_epochs
    sums = EpochSums(step=(epoch - 1) * per_epoch, history=[])
    every = max(1, per_epoch // HISTORY_POINTS)
    started = time.perf_counter()
    for step in epoch_steps(
        split,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        micro_batch_tokens=config.micro_batch_tokens,
        seed=config.seed,
        epoch=epoch,
        rank=group.rank,
        world_size=group.size,
    ):
        rate = learning_rate_at(sums.step, per_epoch, config)
        set_learning_rate(optimizer, rate)
        loss, norm = optimizer_step(forward, optimizer, split, step, config, group, sums)
        sums.step += 1
        if sums.history is not None and sums.step % every == 0:
            sums.history.append({"step": sums.step, "loss": loss, "learning_rate": rate, "grad_norm": norm})
        if group.rank == 0:
            tick(sums.step, total, loss)
    sums.seconds = time.perf_counter() - started
    return sums


def _validate(loaded: LoadedModel, data: TokenisedData, plan: RunPlan, group: Group) -> Validation:
    rows = fixed_sample(len(data.validation), plan.config.validation_rows)
    with autocast(resolve_precision(plan.config.precision, group.device), group.device):
        return validate(
            loaded, data.validation, data.validation_references, plan.task, plan.decode, rows=rows, group=group
        )


def _note(
    progress: Progress, plan: RunPlan, epoch: int, trained: EpochSums, validation: Validation, validate_s: float
) -> dict[str, Any]:
    """Put the epoch into the progress and return its report."""
    value = validation.loss if plan.objective == "validation_loss" else validation.metrics[plan.objective]
    sign = 1 if plan.mode == "max" else -1
    if not math.isfinite(value) or not math.isfinite(validation.loss):
        raise RunFailed(f"validation must be finite, but {plan.objective} is {value} and the loss {validation.loss}")
    if progress.best_value is None or sign * value > sign * progress.best_value:
        progress.best_epoch, progress.best_value = epoch, value
    progress.epoch, progress.step = epoch, trained.step
    report = asdict(
        EpochReport(
            epoch=epoch,
            step=trained.step,
            value=value,
            train_loss=trained.loss / max(1, trained.target_tokens),
            validation_loss=validation.loss,
            metrics=validation.metrics,
            hit_cap=validation.hit_cap,
            best_epoch=progress.best_epoch,
            best_value=progress.best_value,
            final=epoch == plan.config.max_epochs,
            tokens_per_s=trained.real_tokens / max(trained.seconds, 1e-9),
            padding_share=1 - trained.real_tokens / max(1, trained.padded_tokens),
            train_s=trained.seconds,
            validate_s=validate_s,
            save_s=0.0,
            history=trained.history or [],
        )
    )
    progress.reports.append(report)
    return report
