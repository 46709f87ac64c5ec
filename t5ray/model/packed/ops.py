"""What lies between T5's linear layers, over packed tokens, in PyTorch's own operations.

A CPU takes the hand-written versions in `cpu.py`, which give the same values in fewer passes over memory.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from t5ray.model.packed import cpu, cpu_attention
from t5ray.model.packed.layout import Layout


@dataclass(frozen=True)
class Scores:
    """What is added to attention's dot products."""

    bias: torch.Tensor | None
    """[H, S, K], T5's relative position bias, through which gradients flow; None in cross-attention"""
    mask: torch.Tensor | None
    """0 or -inf, broadcastable to [B, H, S, K]"""
    total: torch.Tensor | None
    """Both together [B*H, S, K], without gradient: made once for all layers; None where there is neither"""


def scores_of(
    bias: torch.Tensor | None, mask: torch.Tensor | None, queries: Layout, keys: Layout, dtype: torch.dtype
) -> Scores:
    """Add up bias and mask once for all layers that share them, and round them to the dtype of dot products."""
    if bias is None and mask is None:
        return Scores(None, None, None)
    parts = [part for part in (None if bias is None else bias.detach()[None], mask) if part is not None]
    whole = (parts[0] if len(parts) == 1 else parts[0] + parts[1]).to(dtype)
    shape = (queries.rows, queries.heads, queries.width, keys.width)
    return Scores(bias, mask, whole.expand(shape).reshape(-1, queries.width, keys.width))


def by_hand(*tensors: torch.Tensor) -> bool:
    """Say whether the CPU versions hold for these."""
    return all(t.device.type == "cpu" and t.dtype in (torch.float32, torch.bfloat16) for t in tensors)


def product_dtype(x: torch.Tensor) -> torch.dtype:
    """Return what matrix products of a tensor are computed in here: autocast's dtype, where that is on, or its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def rounds_shapes(weight: torch.Tensor) -> bool:
    """Say whether products with a weight should meet few shapes, because each new one takes time.

    On a CPU oneDNN compiles a kernel for each shape of a bf16 product that it has not met, or has forgotten: 3 to 8 ms,
    several times what the product takes. Nearly every step has a number of tokens that none before it had.
    """
    return weight.device.type == "cpu" and product_dtype(weight) == torch.bfloat16


def rounded_tokens(count: int) -> int:
    """Round a number of packed tokens up: there are 16 numbers below 1,024, and 16 from each power of 2 to the next.

    Example:
        100 -> 128, 1000 -> 1024, 1025 -> 1088, 9000 -> 9216
    """
    step = 64 << max(0, (count - 1).bit_length() - 11)
    return -(-count // step) * step


def rounded_width(x: torch.Tensor, value: int) -> torch.Tensor:
    """Pad rows [B, S] at their end: S to a multiple of 8, beyond 32 of 32."""
    width = x.shape[1]
    return functional.pad(x, (0, -width % (8 if width <= 32 else 32)), value=value)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Scale each token [D] to a root mean square of 1, in fp32, then by the weight (Zhang & Sennrich 2019)."""
    if by_hand(x, weight):
        return cpu.rms_norm(x, weight, epsilon, product_dtype(weight))
    normed = functional.rms_norm(x.float(), x.shape[-1:], eps=epsilon)
    return weight * (normed.to(weight.dtype) if weight.dtype == torch.bfloat16 else normed)


def dropout(x: torch.Tensor, rate: float) -> torch.Tensor:
    """Drop elements and scale the rest up."""
    if rate == 0:
        return x
    return cpu.dropout(x, rate) if by_hand(x) else functional.dropout(x, rate)


def add_dropped(residual: torch.Tensor, x: torch.Tensor, rate: float) -> torch.Tensor:
    """Return residual + dropout(x)."""
    if rate > 0 and by_hand(residual, x):
        return cpu.add_dropped(residual, x, rate)
    return residual + (functional.dropout(x, rate) if rate else x)


def activate(
    act: Callable[[torch.Tensor], torch.Tensor], kind: str, hidden: torch.Tensor, gate: torch.Tensor | None, rate: float
) -> torch.Tensor:
    """Return dropout(act(hidden) * gate).

    Args:
        act: the model's own activation, used where `cpu.py` does not know `kind`.
        kind: its name in the model's configuration.
        gate: [N, F], or None in T5 before version 1.1.
    """
    if kind in cpu.ACTIVATIONS and by_hand(hidden):
        return cpu.activate(kind, hidden, gate, rate)
    # transformers spells out gelu_new in eight operations; this is the same function in one
    active = functional.gelu(hidden, approximate="tanh") if kind == "gelu_new" else act(hidden)
    return dropout(active if gate is None else active * gate, rate)


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scores: Scores, queries: Layout, keys: Layout, rate: float
) -> torch.Tensor:
    """Attend as T5 does: dot products without 1/sqrt(d), plus bias, softmax, dropout of the weights.

    Args:
        q: [N of queries, H*d].
        k: [N of keys, H*d]; v likewise.
    Returns:
        [N of queries, H*d].
    """
    if by_hand(q, k, v):
        return cpu_attention.attention(q, k, v, scores.bias, scores.total, queries, keys, rate)
    parts = [part for part in (None if scores.bias is None else scores.bias[None], scores.mask) if part is not None]
    mask = None if not parts else parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def by_head(padded: torch.Tensor) -> torch.Tensor:
        return padded.view(queries.rows, queries.heads, *padded.shape[1:])

    out = functional.scaled_dot_product_attention(
        by_head(queries.pad(q)),
        by_head(keys.pad(k)),
        by_head(keys.pad(v)),
        attn_mask=None if mask is None else mask.to(q.dtype),
        dropout_p=rate,
        scale=1.0,
    )
    return queries.pack(out.flatten(0, 1))
