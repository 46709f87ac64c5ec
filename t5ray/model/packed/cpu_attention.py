"""Attention on CPUs, with a backward pass of its own, in two orders of multiplication that give the same.

`attention` takes keys and values as T5 projects them. `unprojected` never makes them: with e the encoder's output, a
head's scores are q (e Wk^T)^T = (q Wk) e^T and its output a (e Wv^T) = (a e) Wv^T, so projecting queries and what they
gather does for projecting all keys. Where targets are short this takes a part of the operations. DeepSeek-AI 2024
(DeepSeek-V2, 2.1.2) absorb their key projections so.
"""

from typing import Any

import torch

from t5ray.model.packed.cpu import as_given, keep_mask
from t5ray.model.packed.layout import Layout


class _Attention(torch.autograd.Function):
    @staticmethod
    @as_given
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
        weights, mask, dropped, ctx.scale = _weights(q, k, total, rate)
        ctx.queries, ctx.keys, ctx.has_bias = queries, keys, bias is not None
        ctx.save_for_backward(q, k, v, weights, mask, dropped)
        return queries.pack(_times(dropped, v, ctx.scale))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, weights, mask, dropped = ctx.saved_tensors
        queries, keys = ctx.queries, ctx.keys
        grad = queries.pad(grad, clean=True)  # a padded query must not reach keys and values
        dv = _times(dropped.mT, grad, ctx.scale)
        dscores = _scores_gradient(grad, v, weights, mask, ctx.scale)
        dbias = (
            dscores.view(queries.rows, queries.heads, *dscores.shape[1:]).sum(0, dtype=torch.float32)
            if ctx.has_bias
            else None
        )
        dq, dk = torch.bmm(dscores, k), torch.bmm(dscores.mT, q)
        return queries.pack(dq), keys.pack(dk), keys.pack(dv), dbias, None, None, None, None


class _Unprojected(torch.autograd.Function):
    @staticmethod
    @as_given
    def forward(
        ctx: Any,
        q: torch.Tensor,
        seen: torch.Tensor,
        key_weight: torch.Tensor,
        value_weight: torch.Tensor,
        mask: torch.Tensor | None,
        queries: Layout,
        rate: float,
    ) -> torch.Tensor:
        heads = queries.heads
        q, wk, wv = _by_head(q, heads), _of_heads(key_weight, heads), _of_heads(value_weight, heads)
        probes = queries.pad_heads(torch.bmm(q, wk))
        weights, kept, dropped, ctx.scale = _weights(probes, seen, mask, rate)
        gathered = queries.pack_heads(_times(dropped, seen, ctx.scale))
        ctx.queries = queries
        ctx.save_for_backward(q, seen, wk, wv, probes, weights, kept, dropped, gathered)
        return _from_heads(torch.bmm(gathered, wv.mT))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, seen, wk, wv, probes, weights, kept, dropped, gathered = ctx.saved_tensors
        queries, wants = ctx.queries, ctx.needs_input_grad
        grad = _by_head(grad, queries.heads)
        dwv = torch.bmm(grad.mT, gathered).flatten(0, 1) if wants[3] else None
        dgathered = queries.pad_heads(torch.bmm(grad, wv), clean=True)
        dscores = _scores_gradient(dgathered, seen, weights, kept, ctx.scale)
        dseen = None
        if wants[1]:
            dseen = _times(dropped.mT, dgathered, ctx.scale).baddbmm_(dscores.mT, probes)
        dprobes = queries.pack_heads(torch.bmm(dscores, seen))
        dwk = torch.bmm(q.mT, dprobes).flatten(0, 1) if wants[2] else None
        return _from_heads(torch.bmm(dprobes, wk.mT)), dseen, dwk, dwv, None, None, None


class _Padded(torch.autograd.Function):
    @staticmethod
    @as_given
    def forward(ctx: Any, x: torch.Tensor, layout: Layout) -> torch.Tensor:
        ctx.layout = layout
        return x.index_select(0, layout.token_at).view(layout.rows, layout.width, -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad.flatten(0, 1).index_select(0, ctx.layout.places), None


def _weights(
    q: torch.Tensor, k: torch.Tensor, added: torch.Tensor | None, rate: float
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, float]:
    """Return attention weights, which of them dropout keeps, those that it keeps, and what the rest is scaled by."""
    scores = torch.bmm(q, k.mT) if added is None else torch.baddbmm(added, q, k.mT)
    weights = torch.softmax(scores, dim=-1)
    if rate == 0:
        return weights, None, weights, 1.0
    mask, scale = keep_mask(weights.shape, rate)
    return weights, mask, weights * mask, scale


def _scores_gradient(
    grad: torch.Tensor, v: torch.Tensor, weights: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    dweights = _times(grad, v.mT, scale)
    if mask is not None:
        dweights.mul_(mask)
    dscores: torch.Tensor = torch.ops.aten._softmax_backward_data(dweights, weights, -1, weights.dtype)
    return dscores


def _times(a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """Return scale * a @ b, in one pass."""
    return torch.bmm(a, b) if scale == 1 else torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=scale)


def _by_head(x: torch.Tensor, heads: int) -> torch.Tensor:
    """View [N, H*d] as [H, N, d]."""
    return x.view(len(x), heads, -1).transpose(0, 1)


def _from_heads(x: torch.Tensor) -> torch.Tensor:
    """Lay [H, N, d] out as [N, H*d]."""
    return x.transpose(0, 1).flatten(1)


def _of_heads(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """View a projection [H*d, D] as [H, d, D]."""
    return weight.view(heads, -1, weight.shape[-1])


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


def unprojected(
    q: torch.Tensor,
    seen: torch.Tensor,
    key_weight: torch.Tensor,
    value_weight: torch.Tensor,
    mask: torch.Tensor | None,
    queries: Layout,
    rate: float,
) -> torch.Tensor:
    """Attend over vectors whose keys and values are never made.

    Args:
        q: [N, H*d].
        seen: padded [B, K, D].
        key_weight: [H*d, D]; value_weight likewise.
        mask: 0 or -inf, broadcastable to [B, H*S, K].
    Returns:
        [N, H*d].
    """
    result: torch.Tensor = _Unprojected.apply(  # type: ignore[no-untyped-call]
        q, seen, key_weight, value_weight, mask, queries, rate
    )
    return result


def padded(x: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Spread [N, D] to [B, S, D]; padding holds some token's values, and what uses it must mask it."""
    result: torch.Tensor = _Padded.apply(x, layout)  # type: ignore[no-untyped-call]
    return result


def is_cheaper_unprojected(queries: Layout, keys: Layout, inner: int, width: int) -> bool:
    """Say whether `unprojected` multiplies less than projecting keys and values does.

    Args:
        inner: H*d, the width of keys.
        width: D, of what is attended to.
    Example:
        flan-T5-small (inner 384, width 512), sources of 87 tokens -> up to 39 target tokens each
    """
    pairs = queries.rows * queries.width * keys.width
    unprojected_cost = len(queries.places) * inner * width + pairs * queries.heads * width
    return unprojected_cost < len(keys.places) * inner * width + pairs * inner
