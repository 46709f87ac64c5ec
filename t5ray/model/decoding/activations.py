"""The activations of the T5 family, by transformers' names for them."""

import math
from collections.abc import Callable

import torch
from torch.nn import functional
from transformers.activations import ACT2FN

Activation = Callable[[torch.Tensor], torch.Tensor]

GELU_LINEAR = torch.tensor(2 * math.sqrt(2 / math.pi), dtype=torch.float32, device="cpu")
"""Of `gelu_tanh`, as is GELU_CUBIC: a tensor, which `torch.addcmul` wants, made once."""
GELU_CUBIC = 0.044715 * 2 * math.sqrt(2 / math.pi)


def activation(name: str) -> Activation:
    """Return an activation; GELU's tanh form our own, which transformers computes in eight passes over memory."""
    found: Activation = gelu_tanh if name == "gelu_new" else ACT2FN[name]
    return found


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """Return GELU in its tanh form. On CPUs torch's own takes five times as long as its exact form.

    0.5 x (1 + tanh(y)) = x sigmoid(2 y), with y = sqrt(2 / pi) (x + 0.044715 x^3).
    """
    if x.device.type != "cpu":
        return functional.gelu(x, approximate="tanh")
    wide = x.float() if x.dtype == torch.bfloat16 else x  # rounded once, at the end
    return torch.addcmul(GELU_LINEAR, wide, wide, value=GELU_CUBIC).mul_(wide).sigmoid_().mul_(wide).to(x.dtype)
