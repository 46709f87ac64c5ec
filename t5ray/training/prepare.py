"""From settings to what a run needs: task, model, tokenised data, output cap, all checked before Ray starts."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from t5ray.config import AugmentationConfig, DecodeConfig, RunConfig, TaskConfig
from t5ray.counting import counted
from t5ray.data.augmented import TrainingTexts
from t5ray.data.splits import Splits, read_splits
from t5ray.data.tokens import TokenisedData, tokenise
from t5ray.errors import ConfigError, DataError
from t5ray.model.bare import initialise, is_bare
from t5ray.model.card import loaded_fingerprint
from t5ray.model.loading import (
    commit_of,
    load_config,
    load_tokenizer,
    model_max_tokens,
    num_parameters,
    tokenizer_fingerprint,
)
from t5ray.text.lint import lint_task
from t5ray.text.objectives import check_stopping, choose_objective, source_problems
from t5ray.text.tasks import resolve_task
from t5ray.training.footprint import CPU_TOKENS, costliest, gpu_worker_bytes, worker_bytes

HEAD_ROOM = 1.25
"""Output cap over the longest target that training sees."""


@dataclass(frozen=True)
class Prepared:
    """Everything a run or a search is made of."""

    config: RunConfig
    task: TaskConfig
    model: str
    """Directory or hub id that loads."""
    model_files: str
    """Commit of a hub id, else digest of what loads from the named directory: what may lie there later is another."""
    splits: Splits
    data: TokenisedData
    decode: DecodeConfig
    """With `max_new_tokens` set."""
    objective: str
    mode: Literal["max", "min"]
    notes: tuple[str, ...]
    """What the user should know before it starts, one line each."""
    texts: TrainingTexts | None = None
    """Of the training rows, where a run may augment them."""
    back_translates: bool = False
    """True where a run may ask for back translations."""
    worker_bytes: int = 0
    """Memory of the machine that a worker takes, about; 0: not known."""
    cpus_per_worker: int = 1
    """CPUs, and torch threads, of each worker: what was asked for, else 1 until `room.shared_out` knows the machine."""


def prepare(config: RunConfig, cache: Path, varied: Collection[str] = ()) -> Prepared:
    """Read, check, split and tokenise the data, and check the model; loads no weights.

    Args:
        cache: where tokenised data, and random weights of the demo, are kept.
        varied: training settings that a search space varies.
    Raises:
        ConfigError: a setting is missing or does not fit the task.
        DataError: rows cannot be used.
        ModelError: there is no such T5.
    """
    path, task_name, model = _required(config, varied)
    back_translates = _back_translates(config, varied)
    task = resolve_task(task_name, source_language=config.source_language, target_language=config.target_language)
    objective, mode = choose_objective(config.search.metric, task)
    check_stopping(config.training.early_stopping_metric, task)
    splits = read_splits(config.data.model_copy(update={"path": path}), task)
    named = model
    if is_bare(model):
        model = str(initialise(model, cache, seed=config.training.seed))
    if Path(model).exists():  # workers may run in another directory
        model = str(Path(model).absolute())
    tokenizer, model_config = load_tokenizer(model), load_config(model)
    notes = [*splits.findings, *_skipped(splits.skipped), *_lint(splits, tokenizer)]
    data = tokenise(
        splits,
        tokenizer,
        config.data,
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
        model_max_tokens=model_max_tokens(model_config, tokenizer),
        cache=cache,
    )
    may_augment = config.training.augments or not AugmentationConfig.model_fields.keys().isdisjoint(varied)
    return Prepared(
        config=config,
        task=splits.task,
        model=model,
        model_files=(commit_of(named) or loaded_fingerprint(named))[:12],
        splits=splits,
        data=data,
        decode=_decode(config.decode, data),
        objective=objective,
        mode=mode,
        notes=tuple(notes),
        texts=TrainingTexts.of(splits.train, splits.task) if may_augment else None,
        back_translates=back_translates,
        worker_bytes=_worker_bytes(config, model_config, num_parameters(model), data, varied),
        cpus_per_worker=config.resources.cpus_per_worker or 1,
    )


def _worker_bytes(
    config: RunConfig, model_config: Any, numbers: int, data: TokenisedData, varied: Collection[str]
) -> int:
    """Estimate the memory of a worker.

    Of settings that a search varies it takes what needs much, and twice the batch size.
    """
    if config.resources.gpus_per_worker:
        return gpu_worker_bytes(numbers)
    training = costliest(config.training, varied)
    longest = [int(np.asarray(lengths).max()) for lengths in (data.train.input_lengths, data.train.label_lengths)]
    rows = training.batch_size * (2 if "batch_size" in varied else 1)
    rows = min(rows, training.micro_batch_size or rows, len(data.train))
    within_budget = (training.micro_batch_tokens or CPU_TOKENS) // sum(longest)
    return worker_bytes(model_config, numbers, training, max(1, min(rows, within_budget)), *longest)


def _required(config: RunConfig, varied: Collection[str]) -> tuple[str, str, str]:
    """Return data path, task and model, all of which must be named; refuse copies that would never be made."""
    if problems := [*source_problems(config.model_dump()), *config.training.idle_copies(varied)]:
        raise ConfigError(problems)
    return str(config.data.path), str(config.task), str(config.model)


def _back_translates(config: RunConfig, varied: Collection[str]) -> bool:
    """Say whether a run may ask for back translations.

    Raises:
        ConfigError: one may, but no model is named that makes them.
    """
    asked = config.training.augment_back_translation_rate > 0 or "augment_back_translation_rate" in varied
    if asked and config.back_translation.forward is None:
        raise ConfigError(
            "training.augment_back_translation_rate: needs a model that translates, but back_translation.forward is "
            "not set. Name one, such as --set back_translation.forward=google/flan-t5-small."
        )
    return asked


def _skipped(lines: Sequence[str]) -> list[str]:
    """Count and list the rows that were left out on request."""
    return (
        [f"--skip-bad-rows left out {counted(len(lines), 'row')}:", *(f"  {line}" for line in lines)] if lines else []
    )


def _lint(splits: Splits, tokenizer: Any) -> list[str]:
    """Look at training text through the tokenizer; return warnings.

    Raises:
        DataError: training on this text would go wrong for certain.
    """
    findings = lint_task(splits.task, splits.train, tokenizer)
    errors = [finding.message for finding in findings if finding.severity == "error"]
    if errors:
        raise DataError("\n".join(errors))
    return [finding.message for finding in findings]


def _decode(decode: DecodeConfig, data: TokenisedData) -> DecodeConfig:
    """Set the output cap from the targets of the training split, unless the user did."""
    if decode.max_new_tokens is not None:
        return decode
    longest = int(np.asarray(data.train.label_lengths).max())
    return decode.model_copy(update={"max_new_tokens": math.ceil(HEAD_ROOM * longest)})
