"""Optimizers and learning-rate schedules.

Sources: Loshchilov & Hutter 2019 (AdamW); Shazeer & Stern 2018 and Raffel et al. 2020 (Adafactor at a constant 1e-3).
"""

import math

import torch
from torch import nn
from transformers.optimization import Adafactor

from t5ray.config import TrainingConfig


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Make the optimizer with weight decay on matrices only, not on norms."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "adafactor":
        adafactor: torch.optim.Optimizer = Adafactor(
            groups, lr=config.learning_rate, scale_parameter=False, relative_step=False, warmup_init=False
        )
        return adafactor
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True
    )


def learning_rate_at(step: int, num_steps: int, config: TrainingConfig) -> float:
    """Return the learning rate of optimizer step `step`, counted from 0.

    Warm-up rises linearly over the first `warmup_share` of the steps; `linear` and `cosine` then fall to 0.

    Example:
        peak 1.0, 10 steps, warmup_share 0.2, linear -> 0.5, 1.0, 1.0, 0.875, ... 0.125
    """
    warmup = round(config.warmup_share * num_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - warmup) / max(1, num_steps - warmup)
    share = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.learning_rate * share


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = value
