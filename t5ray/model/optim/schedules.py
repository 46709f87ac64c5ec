"""The learning rate of each optimizer step: a warm-up, then one of seven shapes."""

import math

from t5ray.config import TrainingConfig

INVERSE_SQRT_STEPS = 10_000
"""Time scale of the inverse square root without warm-up: T5's own (Raffel et al. 2020, 3.1.2)."""


def learning_rate_at(step: int, steps_per_epoch: int, config: TrainingConfig) -> float:
    """Return the learning rate of optimizer step `step`, counted from 0.

    Warm-up rises linearly, from one part of the peak in the first step to the whole of it.

    Example:
        peak 1.0, 10 steps in all, 2 of warm-up, linear -> 0.5, 1.0, 1.0, 0.875, ... 0.125
        peak 5e-5, exponential, decay_rate 0.95 -> 4.75e-5, 4.5125e-5, 4.286875e-5 in epochs 1, 2, 3
    Source: `transformers.optimization`, and `torch.optim.lr_scheduler` for step and exponential.
    """
    if config.optimizer == "adafactor" and config.adafactor_relative_step:
        return _relative_step(step + 1, config.adafactor_warmup_init)
    total = steps_per_epoch * config.max_epochs
    warmup = config.warmup_steps if config.warmup_steps is not None else round(config.warmup_share * total)
    rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return config.learning_rate * rising * _share(step, warmup, total, step // steps_per_epoch, config)


def _share(step: int, warmup: int, total: int, epoch: int, config: TrainingConfig) -> float:
    """Return the share of the peak that the shape leaves at a step; `epoch` counts from 0."""
    done = max(0, step - warmup) / max(1, total - warmup)
    floor = config.final_rate_share
    match config.schedule:
        case "linear":
            return floor + (1 - floor) * (1 - done)
        case "cosine":
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
        case "polynomial":
            return floor + (1 - floor) * math.pow(1 - done, config.decay_power)
        case "inverse_sqrt":
            scale = warmup or INVERSE_SQRT_STEPS
            return 1.0 if step < warmup else math.sqrt(scale / (step + scale - warmup))
        case "step":
            return math.pow(config.decay_rate, epoch // config.decay_epochs)
        case "exponential":
            return math.pow(config.decay_rate, epoch + 1)
    return 1.0


def _relative_step(t: int, warmup_init: bool) -> float:
    """Return Adafactor's rho_t (Shazeer & Stern 2018, section 9); `t` counts from 1."""
    return min(1e-6 * t if warmup_init else 1e-2, 1 / math.sqrt(t))
