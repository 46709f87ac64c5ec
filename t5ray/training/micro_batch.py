"""How many rows a worker forwards at once: on GPUs as many as its memory holds, found by trying before the first step.

Comes in: a model made ready, and the rows it will train on. Goes out: a `Limit`. Rows are grouped by length, in classes
that double; of each class the longest rows are run forwards and backwards, half as many each time until the memory of
every worker holds them. All workers come to the same answer, so none waits for another that ran out of memory. What is
found stays with the loaded model, for its later runs. A step's rows do not depend on it, only how they are cut.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import torch

from t5ray.config import TrainingConfig
from t5ray.data.batches import Indices, Limit, token_budget
from t5ray.data.tokens import TokenisedSplit
from t5ray.training.checkpoint import MOMENTS
from t5ray.training.footprint import CPU_TOKENS
from t5ray.training.group import Group
from t5ray.training.plan import RunFailed
from t5ray.training.random_state import random_state, set_random_state
from t5ray.training.step import EpochSums, accumulate
from t5ray.training.trainee import Trainee

SHARDED_TOKENS = 16_384
"""Of a micro-batch where the model is sharded: workers cannot try alone."""
SPARE_SHARE = 0.05
"""Share of a GPU's memory that stays free while it is tried: later steps find it more scattered."""
TARGET_WEIGHT = 1.5
"""A target's token, with its share of the logits, takes so many times the memory of an input's, at most."""
SHORTEST = 64
"""Tokens of the shortest class of rows."""
MATTERS = (
    "precision",
    "optimizer",
    "gradient_checkpointing",
    "ema_decay",
    "lora_rank",
    "lora_targets",
    "freeze_embeddings",
    "freeze_encoder",
    "freeze_layers",
)
"""Settings that change how much memory a row takes."""
MATTERS_IF_ANY = ("dropout", "lora_dropout", "label_smoothing")
"""Settings that do so by being above 0: each trial of a search has a value of its own."""


def row_limit(trainee: Trainee, split: TokenisedSplit, config: TrainingConfig, group: Group) -> Limit:
    """Return how many rows go together; every worker of the group must call it.

    Raises:
        RunFailed: the memory of some worker does not hold one row.
    """
    if config.micro_batch_tokens is not None or not _can_run_out(group) or trainee.sharded:
        budget = CPU_TOKENS if group.device.type == "cpu" else SHARDED_TOKENS
        return token_budget(config.micro_batch_tokens or budget, config.micro_batch_size)
    most = -(-config.batch_size // group.size)
    return fitting(trainee, split, min(most, config.micro_batch_size or most), group)


def _can_run_out(group: Group) -> bool:
    return group.device.type == "cuda"


def fitting(trainee: Trainee, split: TokenisedSplit, most: int, group: Group) -> Limit:
    """Find for each class of lengths how many rows, of at most `most`, the memory of every worker holds."""
    found: dict[int, int] = {}
    state, remembered, config = random_state(), trainee.loaded.fits, trainee.config
    settings = *(getattr(config, name) for name in MATTERS), *(getattr(config, name) > 0 for name in MATTERS_IF_ANY)
    for bound, rows in _classes(split, most):
        rows = rows[: min([most, *found.values()])]  # no more than of shorter ones
        longest = int(split.input_lengths[rows[0]]), int(split.label_lengths[rows[0]])
        key = (longest, len(rows), group.size, *settings)
        if key not in remembered:
            remembered[key] = _most_that_fit(trainee, split, rows, group)
        found[bound] = remembered[key]
    set_random_state(state)
    return lambda tokens: next(rows for bound, rows in found.items() if tokens <= bound)


def _classes(split: TokenisedSplit, most: int) -> Iterator[tuple[int, Indices]]:
    """Yield each class that has rows, shortest first: its longest length, and `most` rows that take most memory."""
    inputs, targets = np.asarray(split.input_lengths), np.asarray(split.label_lengths)
    lengths, order = inputs + targets, np.argsort(-(inputs + TARGET_WEIGHT * targets), kind="stable")
    bound, shortest = SHORTEST, 0
    while shortest < lengths.max():
        rows = order[(lengths[order] > shortest) & (lengths[order] <= bound)]
        if len(rows):
            yield bound, np.resize(rows, most)  # repeats the rows of a small class
        shortest, bound = bound, 2 * bound


def _most_that_fit(trainee: Trainee, split: TokenisedSplit, rows: Indices, group: Group) -> int:
    """Halve the rows until every worker holds them."""
    while group.sum([not _fits(trainee, split, rows, group)])[0]:
        if len(rows) == 1:
            tokens = int(split.input_lengths[rows[0]] + split.label_lengths[rows[0]])
            raise RunFailed(f"out of GPU memory: it must hold a row of {tokens} tokens, but does not on some worker")
        rows = rows[: -(-len(rows) // 2)]
    return len(rows)


def _fits(trainee: Trainee, split: TokenisedSplit, rows: Indices, group: Group) -> bool:
    """Say whether this worker's memory holds a micro-batch, beside gradients and what the optimizer will keep."""
    model, fits = trainee.loaded.model, True
    try:
        reserved = list(_reserved(trainee, group.device))
        accumulate(model, split, [rows, rows], [1.0, 1.0], trainee.config, group, EpochSums())
        del reserved
    except torch.cuda.OutOfMemoryError:
        fits = False  # no more here: what failed holds its tensors until this block ends
    model.zero_grad(set_to_none=True)
    if group.device.type == "cuda":
        torch.cuda.empty_cache()
    return fits


def _reserved(trainee: Trainee, device: torch.device) -> Iterator[torch.Tensor]:
    """Yield tensors that take the memory that training will take besides."""
    trained: Sequence[torch.nn.Parameter] = list(chain(*(g["params"] for g in trainee.optimizer.param_groups)))
    if not trainee.optimizer.state:
        for parameter in trained:
            yield torch.empty(MOMENTS[trainee.config.optimizer] * parameter.numel(), device=device)
    if device.type == "cuda":
        spare = int(SPARE_SHARE * torch.cuda.get_device_properties(device).total_memory)
        yield torch.empty(spare, dtype=torch.uint8, device=device)
