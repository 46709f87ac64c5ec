"""Update rules.

Sources: Loshchilov & Hutter 2019 (AdamW); Kingma & Ba 2015 (Adam); Shazeer & Stern 2018 and Raffel et al. 2020
(Adafactor at a constant 1e-3).
"""

from typing import Any

import torch
from torch import nn

from t5ray.config import TrainingConfig
from t5ray.model.optim.adafactor import Adafactor
from t5ray.model.optim.layers import decays, depth_below_top, num_blocks


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Make the optimizer of the parameters that are trained."""
    groups = parameter_groups(model, config)
    rate = config.learning_rate
    match config.optimizer:
        case "adafactor":
            return Adafactor(groups, rate, scale_parameter=config.adafactor_scale_parameter)
        case "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=config.momentum, fused=True)
    rule = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return rule(groups, lr=rate, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True)


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Sort trained parameters by whether they decay and by how their learning rate is scaled (`lr_scale`).

    Source: Howard & Ruder 2018 (discriminative fine-tuning); Clark et al. 2020 (ELECTRA's layer-wise decay).
    """
    blocks = num_blocks(model)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = config.weight_decay if decays(name) else 0.0
            scale = config.layer_decay ** depth_below_top(name, blocks)
            group = groups.setdefault((decay, scale), {"params": [], "weight_decay": decay, "lr_scale": scale})
            group["params"].append(parameter)
    return list(groups.values())


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every group to its share of a value."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["lr_scale"]
