"""fp32 operations for CPUs, each with its own backward pass: fewer passes over memory, cheap random numbers.

Dropout masks come from numpy's SFC64, sixteen bits an element, seeded from torch's generator: `bernoulli_` spends more
time an element. A checkpointed recomputation draws the same masks, since torch restores its generator for it.
"""

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from t5ray.model.packed.layout import Layout

ACTIVATIONS = ("relu", "gelu_new", "gelu")
"""Activations that `activate` knows, by their names in transformers."""
LEVELS = 2**16


def keep_mask(shape: torch.Size, rate: float) -> tuple[torch.Tensor, float]:
    """Draw which elements dropout keeps.

    Returns:
        uint8 of that shape, 1 where kept; and what kept elements are multiplied by. The rate is met to 1/65536.
    """
    dropped = round(rate * LEVELS)
    seed = int(torch.randint(2**62, ()))
    words = np.random.Generator(np.random.SFC64(seed)).bit_generator.random_raw(-(-shape.numel() // 4))
    bits = torch.from_numpy(words.view(np.int16))[: shape.numel()].view(shape)
    return (bits >= dropped - LEVELS // 2).view(torch.uint8), LEVELS / (LEVELS - dropped)


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
        total: torch.Tensor = (x * ctx.scale).mul_(mask).add_(residual)
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
        ctx.save_for_backward(hidden, gate, mask)
        if gate is not None:
            active.mul_(gate)
        return active if mask is None else active.mul_(ctx.scale).mul_(mask)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, torch.Tensor, torch.Tensor | None, None]:
        hidden, gate, mask = ctx.saved_tensors
        if mask is not None:
            grad = (grad * ctx.scale).mul_(mask)
        if gate is None:
            return None, _act_backward(ctx.kind, grad, hidden), None, None
        return None, _act_backward(ctx.kind, grad * gate, hidden), _act(ctx.kind, hidden).mul_(grad), None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        bias: torch.Tensor | None,
        total: torch.Tensor | None,
        queries: Layout,
        keys: Layout,
        rate: float,
    ) -> torch.Tensor:
        q, k, v = queries.pad(q), keys.pad(k), keys.pad(v)
        scores = torch.bmm(q, k.mT) if total is None else torch.baddbmm(total, q, k.mT)
        weights = torch.softmax(scores, dim=-1)
        mask, ctx.scale = keep_mask(weights.shape, rate) if rate > 0 else (None, 1.0)
        ctx.queries, ctx.keys, ctx.has_bias = queries, keys, bias is not None
        ctx.save_for_backward(q, k, v, weights, mask)
        return queries.pack(torch.bmm(_dropped(weights, mask, ctx.scale), v))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, weights, mask = ctx.saved_tensors
        queries, keys = ctx.queries, ctx.keys
        grad = queries.pad(grad, clean=True)  # a padded query must not reach keys and values
        dv = torch.bmm(_dropped(weights, mask, ctx.scale).mT, grad)
        dweights = torch.bmm(grad, v.mT)
        if mask is not None:
            dweights.mul_(ctx.scale).mul_(mask)
        dscores = torch.ops.aten._softmax_backward_data(dweights, weights, -1, weights.dtype)
        dbias = dscores.unflatten(0, (queries.rows, queries.heads)).sum(0) if ctx.has_bias else None
        dq, dk = torch.bmm(dscores, k), torch.bmm(dscores.mT, q)
        return queries.pack(dq), keys.pack(dk), keys.pack(dv), dbias, None, None, None, None


def _dropped(weights: torch.Tensor, mask: torch.Tensor | None, scale: float) -> torch.Tensor:
    return weights if mask is None else (weights * scale).mul_(mask)


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


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    total: torch.Tensor | None,
    queries: Layout,
    keys: Layout,
    rate: float,
) -> torch.Tensor:
    """Attend over the padded form of packed tokens.

    Args:
        bias: [H, S, K], only to hand its gradient back; `total` [B*H, S, K] has its values, with the mask.
    """
    result: torch.Tensor = _Attention.apply(q, k, v, bias, total, queries, keys, rate)  # type: ignore[no-untyped-call]
    return result
