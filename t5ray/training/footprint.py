"""How much of a machine's memory a training worker takes, by formula: what a driver knows before anything is loaded.

Comes in: a model's configuration, the settings and the lengths. Goes out: bytes. A test holds it to the peak of a
process that trains.
"""

from typing import Any

from t5ray.config import TrainingConfig
from t5ray.training.checkpoint import weights_in_state

CPU_TOKENS = 4096
"""Of a micro-batch on a CPU: more make it no faster, and take memory: see benchmarks/micro_batch.py."""
FP32_BYTES = 4
PROCESS_BYTES = 800 * 2**20
"""A process that has imported torch, transformers and Ray, and what its allocator holds back."""
GPU_PROCESS_BYTES = 3 * 2**30
"""One that has a GPU, whose libraries lie in the machine's memory as well."""
SPREAD = 1.3
"""Peak of a micro-batch over what its backward pass needs of the forward pass."""


def worker_bytes(config: Any, numbers: int, training: TrainingConfig, tokens: int, longest: int) -> int:
    """Return about how much memory a worker on CPUs takes, at most.

    Args:
        config: transformers' configuration of the T5.
        numbers: of its weights.
        tokens: of a micro-batch, inputs and targets.
        longest: tokens of the longest input.
    """
    # beside what is saved: the weights that the next trial begins with, and gradients
    held = (2 + weights_in_state(training)) * FP32_BYTES * numbers
    return int(PROCESS_BYTES + held + SPREAD * FP32_BYTES * tokens * _numbers_per_token(config, training, longest))


def gpu_worker_bytes(numbers: int) -> int:
    """Return about how much of the machine's own memory a worker with a GPU takes; it trains a copy of the weights."""
    return GPU_PROCESS_BYTES + FP32_BYTES * numbers


def _numbers_per_token(config: Any, training: TrainingConfig, longest: int) -> int:
    """Return how many numbers of a token the backward pass needs: states, queries, keys, values, attention weights."""
    inner = config.num_heads * config.d_kv
    layer = 6 * config.d_model + 4 * inner + 5 * config.d_ff + 2 * config.num_heads * longest
    if training.gradient_checkpointing:  # what goes into each layer, and one layer at a time
        return int(layer + config.num_layers * config.d_model)
    return int(layer * config.num_layers)
