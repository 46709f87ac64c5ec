"""Precision, device, scale and dropout of a T5: which numbers it computes with, and where."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import nn

from t5ray.model.hardware import cpu_has_bf16


@cache
def has_fast_bf16(device_type: str) -> bool:
    """Say whether bfloat16 matrix products have hardware of their own on this device."""
    if device_type == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    return device_type == "cpu" and cpu_has_bf16()


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return `fp32`, `bf16` or `bf16_pure`; `auto` means bf16 where the hardware is fast at it."""
    if precision == "auto":
        return "bf16" if has_fast_bf16(device.type) else "fp32"
    return precision


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which matrix products run at this precision, whatever that of the weights."""
    if precision in ("bf16", "bf16_pure"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def default_device() -> torch.device:
    """Return a GPU that this process sees, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_with(gpus: float) -> torch.device:
    """Return where a process computes that was given so many GPUs: with none on the CPU.

    What it sees does not tell: Ray hides GPUs from those only who ask for others, and from no driver.
    """
    return default_device() if gpus else torch.device("cpu")


def scales_head(config: Any) -> bool:
    """Say whether the model scales its decoder's states before the head.

    transformers 5 keeps this apart from whether the weights are tied: T5 in a field of its own, mT5 never, UMT5 always.
    """
    if config.model_type == "t5":
        return bool(config.scale_decoder_outputs)
    return config.model_type == "umt5" and bool(config.tie_word_embeddings)


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set every dropout of a T5: embeddings, attention weights, feed-forward and residual."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "dropout", None), float):
            setattr(module, "dropout", rate)  # noqa: B010 (T5Attention keeps a number where nn.Module expects tensors)
    config = getattr(model, "config", None)
    if config is not None:
        config.dropout_rate = rate
