"""How long a run takes, measured on a few real steps: what `--preview` estimates from.

Comes in: what a worker of a run is given. Goes out: seconds per step and per validation row. Nothing is written, and
no report is sent.
"""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from t5ray.config import DecodeConfig, TaskConfig, TrainingConfig
from t5ray.data.batches import Limit, Step, epoch_steps
from t5ray.data.tokens import TokenisedData, TokenisedSplit
from t5ray.model.loading import load_model
from t5ray.model.numeric import device_with, resolve_precision
from t5ray.training.group import Group
from t5ray.training.memory import MORE_MEMORY, within_memory
from t5ray.training.micro_batch import row_limit
from t5ray.training.step import EpochSums, optimizer_step
from t5ray.training.trainee import Trainee, made_ready
from t5ray.training.validation import fixed_sample, validate

STEPS = 4
"""Timed steps, after one that is not: the first allocates memory."""
VALIDATION_ROWS = 32
"""Rows of the one validation batch."""


@dataclass(frozen=True)
class ProbeSpec:
    """What is measured: one worker's part of a run."""

    model: str
    config: TrainingConfig
    task: TaskConfig
    decode: DecodeConfig
    num_workers: int
    """Workers that share each step, of which one is measured."""
    threads: int
    """torch threads of the worker."""
    gpus: float = 0.0
    """GPUs of the worker."""


@dataclass(frozen=True)
class Probe:
    """What was measured."""

    load_s: float
    """Seconds to load model and tokenizer."""
    step_s: float
    """Seconds of one optimizer step of median length."""
    validate_row_s: float
    """Seconds to judge one validation row, by one worker. A model that is not trained yet writes up to the cap."""


def measure(spec: ProbeSpec, data: TokenisedData) -> Probe:
    """Time a few optimizer steps of median length and one validation batch, with the loop's own functions.

    Raises:
        RunFailed: these settings cannot train: memory, a loss that is not finite, settings that do not fit the model.
    """
    torch.set_num_threads(spec.threads)
    torch.manual_seed(spec.config.seed)
    began = time.perf_counter()
    loaded = load_model(spec.model)
    load_s, group = time.perf_counter() - began, Group(device_with(spec.gpus))
    with within_memory(MORE_MEMORY), made_ready(loaded, spec.config, group) as trainee:
        step_s = _step_s(trainee, data.train, spec, group)
        return Probe(load_s, step_s, _validate_row_s(trainee, data, spec, group))


def median_steps(
    split: TokenisedSplit, config: TrainingConfig, limit: Limit, num_workers: int, count: int
) -> list[Step]:
    """Return this many steps of the first epoch whose padded size is in the middle, or as many as there are."""
    steps = list(
        epoch_steps(
            split,
            batch_size=config.batch_size,
            limit=limit,
            seed=config.seed,
            epoch=1,
            world_size=num_workers,
        )
    )
    ordered = sorted(steps, key=lambda step: _padded_tokens(step, split))
    start = max(0, (len(ordered) - count) // 2)
    return ordered[start : start + count]


def _padded_tokens(step: Step, split: TokenisedSplit) -> int:
    return sum(
        len(rows) * int(split.input_lengths[rows].max() + split.label_lengths[rows].max())
        for rows in step.micro_batches
    )


def _step_s(trainee: Trainee, split: TokenisedSplit, spec: ProbeSpec, group: Group) -> float:
    limit = row_limit(trainee, split, spec.config, group)
    steps = median_steps(split, spec.config, limit, spec.num_workers, STEPS)
    seconds = []
    for step in [steps[0], *steps]:
        began = time.perf_counter()
        optimizer_step(trainee.forward, trainee.optimizer, split, step, spec.config, group, EpochSums())
        seconds.append(time.perf_counter() - began)  # the step reads its loss, and so waits for a GPU
    return statistics.median(seconds[1:])


def _validate_row_s(trainee: Trainee, data: TokenisedData, spec: ProbeSpec, group: Group) -> float:
    rows = fixed_sample(len(data.validation), min(VALIDATION_ROWS, spec.config.validation_rows))
    references: Any = data.validation_references
    began = time.perf_counter()
    precision = resolve_precision(spec.config.precision, group.device)
    with trainee.as_published() as loaded:
        validate(
            loaded, data.validation, references, spec.task, spec.decode, rows=rows, group=group, precision=precision
        )
    return (time.perf_counter() - began) / len(rows)
