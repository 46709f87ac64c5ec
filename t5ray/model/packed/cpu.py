"""fp32 operations for CPUs, each with its own backward pass: fewer passes over memory, cheap random numbers.

Dropout masks come from numpy's SFC64, a byte an element, seeded from torch's generator: `bernoulli_` takes ten times as
long. A checkpointed recomputation draws the same masks, since torch restores its generator for it.
"""

from typing import Any

import numpy as np
import torch
from torch.nn import functional

ACTIVATIONS = ("relu", "gelu_new", "gelu")
"""Activations that `activate` knows, by their names in transformers."""


def keep_mask(shape: torch.Size, rate: float) -> tuple[torch.Tensor, float]:
    """Draw which elements dropout keeps.

    An element is dropped if a random byte is below a threshold that its row (the last dimension) shares: one of the two
    next to 256 times the rate, drawn so that the probability of being dropped is exactly the rate. Rates above 255/256
    count as that.

    Returns:
        uint8 of that shape, 1 where kept; and what kept elements are multiplied by.
    """
    rate = min(rate, 255 / 256)
    random = np.random.Generator(np.random.SFC64(int(torch.randint(2**62, ()))))
    rows = shape.numel() // max(1, shape[-1])
    thresholds = (random.random((rows, 1)) + 256 * rate).astype(np.uint8)
    drawn = random.bit_generator.random_raw(-(-shape.numel() // 8)).view(np.uint8)[: shape.numel()]
    kept = drawn.reshape(rows, -1) >= thresholds  # numpy compares these five times as fast as torch
    return torch.from_numpy(kept.view(np.uint8)).view(shape), 1 / (1 - rate)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        inverse = torch.linalg.vecdot(x, x).div_(x.shape[-1]).add_(epsilon).rsqrt_()[:, None]
        ctx.save_for_backward(x, weight, inverse)
        normed: torch.Tensor = (x * inverse).mul_(weight)
        return normed

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        # torch's fused layer norm, told that the mean is 0, differs by the gradient of that mean: added back below
        wanted = [True, ctx.needs_input_grad[1], False]
        dx, dw, _ = torch.ops.aten.native_layer_norm_backward(
            grad.contiguous(), x, [x.shape[-1]], torch.zeros_like(inverse), inverse, weight, None, wanted
        )
        dx.add_(inverse * (grad @ weight)[:, None].div_(x.shape[-1]))
        return dx, dw, None


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rate: float) -> torch.Tensor:
        mask, ctx.scale = keep_mask(x.shape, rate)
        ctx.save_for_backward(mask)
        dropped: torch.Tensor = (x * ctx.scale).mul_(mask)
        return dropped

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (mask,) = ctx.saved_tensors
        return (grad * ctx.scale).mul_(mask), None


class _AddDropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, residual: torch.Tensor, x: torch.Tensor, rate: float) -> torch.Tensor:
        mask, ctx.scale = keep_mask(x.shape, rate)
        ctx.save_for_backward(mask)
        kept = x * mask
        total: torch.Tensor = torch.add(residual, kept, alpha=ctx.scale, out=kept)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        (mask,) = ctx.saved_tensors
        return grad, (grad * ctx.scale).mul_(mask), None


def _act(kind: str, hidden: torch.Tensor) -> torch.Tensor:
    if kind == "relu":
        return functional.relu(hidden)
    return functional.gelu(hidden, approximate="tanh" if kind == "gelu_new" else "none")


def _act_backward(kind: str, grad: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    aten = torch.ops.aten
    if kind == "relu":
        result: torch.Tensor = aten.threshold_backward(grad, hidden, 0.0)
    else:
        result = aten.gelu_backward(grad, hidden, approximate="tanh" if kind == "gelu_new" else "none")
    return result


class _Activate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kind: str, hidden: torch.Tensor, gate: torch.Tensor | None, rate: float) -> torch.Tensor:
        active = _act(kind, hidden)
        mask = None
        ctx.kind, ctx.scale = kind, 1.0
        if rate > 0:
            mask, ctx.scale = keep_mask(hidden.shape, rate)
        # a GELU takes longer than what else is done here: it is kept rather than worked out again
        ctx.save_for_backward(hidden, gate, mask, None if gate is None else active)
        out = active if gate is None else active * gate
        return out if mask is None else out.mul_(ctx.scale).mul_(mask)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, torch.Tensor, torch.Tensor | None, None]:
        hidden, gate, mask, active = ctx.saved_tensors
        if mask is not None:
            grad = (grad * ctx.scale).mul_(mask)
        if gate is None:
            return None, _act_backward(ctx.kind, grad, hidden), None, None
        return None, _act_backward(ctx.kind, grad * gate, hidden), grad * active, None


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Scale each token to a root mean square of 1, then by the weight; x is [N, D]."""
    result: torch.Tensor = _RmsNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]
    return result


def dropout(x: torch.Tensor, rate: float) -> torch.Tensor:
    """Drop elements and scale the rest up."""
    result: torch.Tensor = _Dropout.apply(x, rate)  # type: ignore[no-untyped-call]
    return result


def add_dropped(residual: torch.Tensor, x: torch.Tensor, rate: float) -> torch.Tensor:
    """Return residual + dropout(x)."""
    result: torch.Tensor = _AddDropped.apply(residual, x, rate)  # type: ignore[no-untyped-call]
    return result


def activate(kind: str, hidden: torch.Tensor, gate: torch.Tensor | None, rate: float) -> torch.Tensor:
    """Return dropout(act(hidden) * gate), saving only the two inputs and a byte an element for its gradient."""
    result: torch.Tensor = _Activate.apply(kind, hidden, gate, rate)  # type: ignore[no-untyped-call]
    return result
