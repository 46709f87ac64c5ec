"""About how much of a machine's memory a training worker takes: what a driver knows before anything is loaded.

Comes in: a model's configuration, the settings and the lengths. Goes out: bytes. A test holds it to the peak of a
process that trains.
"""

from collections.abc import Collection
from typing import Any

from t5ray.config import TrainingConfig
from t5ray.training.checkpoint import weights_updated

CPU_TOKENS = 4096
"""Of a micro-batch on a CPU: more make it no faster, and take memory: see benchmarks/micro_batch.py."""
FP32_BYTES = 4
PROCESS_BYTES = 800 * 2**20
"""A process that has imported torch, transformers and Ray, and what its allocator holds back."""
GPU_PROCESS_BYTES = 3 * 2**30
"""One that has a GPU, whose libraries lie in the machine's memory as well."""
SPREAD = 1.3
"""Peak of a micro-batch over what its backward pass needs of the forward pass."""


def costliest(training: TrainingConfig, varied: Collection[str]) -> TrainingConfig:
    """Return settings whose weights and state are as large as any that a search over some of them comes to."""
    optimizer = "optimizer" in varied or ("preset" in varied and "optimizer" not in training.model_fields_set)
    costly = {
        "optimizer": ("adamw", optimizer),
        "ema_decay": (training.ema_decay or 0.999, "ema_decay" in varied),
        "lora_rank": (0, "lora_rank" in varied),
    }
    return training.model_copy(update={name: value for name, (value, varies) in costly.items() if varies})


def worker_bytes(
    config: Any, numbers: int, training: TrainingConfig, rows: int, input_tokens: int, target_tokens: int
) -> int:
    """Return about how much memory a worker on CPUs takes at the peak of its longest micro-batch.

    Args:
        config: transformers' configuration of the T5.
        numbers: of its weights.
        rows: of that micro-batch.
        input_tokens: of each row, as `target_tokens`.
    """
    held = 1 + (1 if training.lora_rank else 1 + weights_updated(training))  # those that the next trial begins with
    held += training.evaluate_every_steps is not None  # the best within an epoch
    encoder = input_tokens * _per_token(config, config.num_layers, training, input_tokens)
    decoder = target_tokens * _per_token(config, config.num_decoder_layers, training, target_tokens, input_tokens)
    return int(PROCESS_BYTES + FP32_BYTES * (held * numbers + SPREAD * rows * (encoder + decoder)))


def gpu_worker_bytes(numbers: int) -> int:
    """Return about how much of the machine's own memory a worker with a GPU takes; it trains a copy of the weights."""
    return GPU_PROCESS_BYTES + FP32_BYTES * numbers


def _per_token(config: Any, layers: int, training: TrainingConfig, *attended: int) -> int:
    """Return how many numbers of a token the backward pass needs of a stack.

    Those are states, queries, keys, values, attention weights and what the feed-forward part is made of.

    Args:
        attended: tokens that each of a layer's attentions looks at.
    """
    inner = config.num_heads * config.d_kv
    attentions = sum(3 * config.d_model + 4 * inner + 2 * config.num_heads * tokens for tokens in attended)
    layer = attentions + 3 * config.d_model + 5 * config.d_ff
    if training.gradient_checkpointing:  # what goes into each layer, and one layer at a time
        return int(layer + layers * config.d_model)
    return int(layer * layers)
