"""Operations for CPUs, each with its own backward pass: fewer passes over memory, cheap random numbers.

In bf16 what products take and give is bf16, rounded once, and what is worked out between them fp32; so is what lies
between blocks, unless weights are bf16 themselves. Passes over memory count there all the more, as products are faster.

Dropout masks come from numpy's SFC64, a byte an element, reseeded for each from torch's generator: `bernoulli_` takes
ten times as long. A checkpointed recomputation draws the same masks, since torch restores its generator for it.
"""

import math
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
import torch

from t5ray.model.decoding.activations import GELU_CUBIC, GELU_LINEAR

ACTIVATIONS = ("relu", "gelu_new", "gelu")
"""Activations that `activate` knows, by their names in transformers."""


Forward = TypeVar("Forward", bound=Callable[..., Any])


def as_given(forward: Forward) -> Forward:
    """Keep autocast out of a forward pass that chooses its dtypes itself."""

    @wraps(forward)
    def without(*args: Any) -> Any:
        with torch.autocast("cpu", enabled=False):  # one for each call: it is no thread's but its own
            return forward(*args)

    return cast(Forward, without)


class _Draws(threading.local):
    """numpy's generator, a thread's own. One made for each mask would take as long as small masks do."""

    def __init__(self) -> None:
        self._bits = np.random.SFC64(0)
        self._random = np.random.Generator(self._bits)

    def reseeded(self) -> np.random.Generator:
        """Return the generator at a state that torch's generator chooses."""
        words = torch.randint(-(2**63), 2**63 - 1, (3,)).numpy().view(np.uint64)
        state: Any = {"state": np.append(words, np.uint64(1))}  # the last is SFC64's counter
        self._bits.state = {"bit_generator": "SFC64", "state": state, "has_uint32": 0, "uinteger": 0}
        self._bits.random_raw(12)  # rounds after which every bit of the words has reached all of the state
        return self._random


_DRAWS = _Draws()


def keep_mask(shape: torch.Size, rate: float) -> tuple[torch.Tensor, float]:
    """Draw which elements dropout keeps.

    An element is dropped if a random byte is below a threshold that its row (the last dimension) shares: one of the two
    next to 256 times the rate, drawn so that the probability of being dropped is exactly the rate. Rates above 255/256
    count as that.

    Returns:
        uint8 of that shape, 1 where kept; and what kept elements are multiplied by.
    """
    rate = min(rate, 255 / 256)
    random = _DRAWS.reseeded()
    rows = shape.numel() // max(1, shape[-1])
    thresholds = (random.random((rows, 1)) + 256 * rate).astype(np.uint8)
    drawn = random.bit_generator.random_raw(-(-shape.numel() // 8)).view(np.uint8)[: shape.numel()]
    kept = drawn.reshape(rows, -1) >= thresholds  # numpy compares these five times as fast as torch
    return torch.from_numpy(kept.view(np.uint8)).view(shape), 1 / (1 - rate)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    @as_given
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float, dtype: torch.dtype) -> torch.Tensor:
        wide = x.float()
        inverse = torch.linalg.vecdot(wide, wide).div_(x.shape[-1]).add_(epsilon).rsqrt_()[:, None]
        ctx.save_for_backward(x, weight, inverse)
        normed: torch.Tensor = (wide * inverse).mul_(weight)
        return normed.to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None, None]:
        x, weight, inverse = ctx.saved_tensors
        wide, weight, grad = x.float(), weight.float(), grad.float().contiguous()
        # torch's fused layer norm, told that the mean is 0, differs by the gradient of that mean: added back below
        wanted = [True, ctx.needs_input_grad[1], False]
        dx, dw, _ = torch.ops.aten.native_layer_norm_backward(
            grad, wide, [x.shape[-1]], torch.zeros_like(inverse), inverse, weight, None, wanted
        )
        dx.add_(inverse * (grad @ weight)[:, None].div_(x.shape[-1]))
        return dx.to(x.dtype), dw, None, None


class _Dropout(torch.autograd.Function):
    @staticmethod
    @as_given
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
    @as_given
    def forward(ctx: Any, residual: torch.Tensor, x: torch.Tensor, rate: float) -> torch.Tensor:
        mask, ctx.scale = keep_mask(x.shape, rate)
        ctx.save_for_backward(mask)
        ctx.dtype = x.dtype
        kept = x * mask
        if residual.dtype != torch.float32:  # `alpha` would be rounded to bf16
            return residual + kept.mul_(ctx.scale)
        spare = kept if kept.dtype == residual.dtype else torch.empty_like(residual)
        total: torch.Tensor = torch.add(residual, kept, alpha=ctx.scale, out=spare)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        (mask,) = ctx.saved_tensors
        return grad, (grad * ctx.scale).to(ctx.dtype).mul_(mask), None


CHUNK_ROWS = 64
"""Tokens whose activations a thread works out together: what lies between stays in its cache."""


def active_and_slope(kind: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return act(x) and its derivative; x is fp32 and left as it is. Source: Hendrycks & Gimpel 2016."""
    if kind == "relu":
        return x.relu(), (x > 0).float()
    if kind == "gelu_new":  # in the form of `gelu_tanh`
        share = torch.addcmul(GELU_LINEAR, x, x, value=GELU_CUBIC).mul_(x).sigmoid_()
        active, rise = x * share, torch.addcmul(GELU_LINEAR, x, x, value=3 * GELU_CUBIC)
        return active, torch.addcmul(active, active, share, value=-1).mul_(rise).add_(share)
    share = (x * math.sqrt(0.5)).erf_().add_(1).mul_(0.5)
    slope = (x * x).mul_(-0.5).exp_().mul_(x).mul_(1 / math.sqrt(2 * math.pi)).add_(share)
    return x * share, slope


class _Activate(torch.autograd.Function):
    """What the backward pass multiplies by is made while the activation is in cache, and kept, in place of inputs."""

    @staticmethod
    @as_given
    def forward(
        ctx: Any, kind: str, hidden: torch.Tensor, gate: torch.Tensor | None, rate: float, wants_gradients: bool
    ) -> torch.Tensor:
        mask, scale = keep_mask(hidden.shape, rate) if rate > 0 else (None, 1.0)
        out = torch.empty_like(hidden)
        by_hidden = torch.empty_like(hidden) if wants_gradients else None
        by_gate = torch.empty_like(gate) if gate is not None and wants_gradients else None
        rows = CHUNK_ROWS * torch.get_num_threads()
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            active, slope = active_and_slope(kind, hidden[part].float())
            factor = None if mask is None else mask[part].float().mul_(scale)
            if by_gate is not None:
                torch.mul(active, 1.0 if factor is None else factor, out=by_gate[part])
            if gate is not None:
                factor = gate[part].float() if factor is None else factor.mul_(gate[part])
            for made, place in ((active, out), (slope, by_hidden)):
                if place is not None:
                    torch.mul(made, 1.0 if factor is None else factor, out=place[part])
        ctx.save_for_backward(by_hidden, by_gate)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        by_hidden, by_gate = ctx.saved_tensors
        return None, grad * by_hidden, None if by_gate is None else grad * by_gate, None, None


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float, dtype: torch.dtype) -> torch.Tensor:
    """Scale each token to a root mean square of 1, then by the weight, and round to a dtype; x is [N, D]."""
    result: torch.Tensor = _RmsNorm.apply(x, weight, epsilon, dtype)  # type: ignore[no-untyped-call]
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
    """Return dropout(act(hidden) * gate), saving only its gradients by both inputs."""
    result: torch.Tensor = _Activate.apply(kind, hidden, gate, rate, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return result
