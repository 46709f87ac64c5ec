"""Cross-entropy over a large vocabulary, its gradient worked out in the forward pass, some tokens at a time.

So logits [tokens, V] exist for one chunk only, once, in place; PyTorch's own way keeps logits, log-probabilities and
their gradient, each for all positions. Source: Hsu et al. 2024 (Liger Kernel) do this on GPUs.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from t5ray.model.packed import ops
from t5ray.model.packed.cpu import as_given

CHUNK_TOKENS = 512
"""Target tokens whose logits exist at once: 64 MB in fp32 at T5's 32,128 words."""
SLICE_WORDS = 2048
"""Words of the vocabulary whose exponentials are worked out together: what lies between stays in cache."""
ALIGNED = 32
"""Tokens are padded to a multiple, as products of bf16 and sums over words take up to four times as long between."""


class _LinearCrossEntropy(torch.autograd.Function):
    """Logits lie words-major, [V, M]: of the three products, two are faster so, the dearest four times."""

    @staticmethod
    @as_given
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        smoothing: float,
        dtype: torch.dtype,
        wants_gradients: bool,
    ) -> torch.Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        # without gradients, as in validation, autograd says that it wants them all the same
        wants_hidden, wants_weight = (wants_gradients and wants for wants in ctx.needs_input_grad[:2])
        low = weight.to(dtype)
        dhidden = torch.empty_like(hidden) if wants_hidden else None
        dweight: torch.Tensor | None = None
        even = smoothing / len(weight)  # what smoothing takes from each word's gradient
        for start in range(0, len(hidden), CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            h, count = hidden[part].to(dtype), len(hidden[part])
            h = functional.pad(h, (0, 0, 0, -count % ALIGNED))
            loss, odds, sums = _loss_and_odds(torch.mm(low, h.T), labels[part], smoothing)
            total += loss
            if dhidden is not None:
                of_part = (odds.T @ low)[:count].float().div_(sums[:count, None])
                dhidden[part] = of_part.sub_(even * low.sum(0, dtype=torch.float32)) if even else of_part
            if wants_weight:
                dweight = _added(dweight, odds, (h.float() / sums[:, None]).to(dtype))
                if even:
                    dweight = dweight.float().sub_(even * h.sum(0, dtype=torch.float32))
        ctx.save_for_backward(dhidden, dweight)
        ctx.dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        dhidden, dweight = ctx.saved_tensors
        # both are this call's own and used once: they may be overwritten
        return (
            None if dhidden is None else dhidden.mul_(grad),
            None if dweight is None else _scaled(dweight, grad, ctx.dtype),
            *(None, None, None, None),
        )


def _scaled(x: torch.Tensor, factor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return x [V, D] times a number, in a dtype; x itself is overwritten where it has that dtype."""
    if x.dtype == dtype:
        return x.mul_(factor)
    scaled = torch.empty_like(x, dtype=dtype)
    for start in range(0, len(x), SLICE_WORDS):  # what is widened is multiplied while it is in cache
        part = slice(start, start + SLICE_WORDS)
        scaled[part].copy_(x[part]).mul_(factor)
    return scaled


def _added(so_far: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the sum of products: of several in fp32, of one as it comes."""
    if so_far is None:
        return a @ b
    return so_far.addmm_(a, b) if a.dtype == so_far.dtype == torch.float32 else so_far.float().add_(a @ b)


def _loss_and_odds(
    logits: torch.Tensor, labels: torch.Tensor, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the summed loss, and its gradient in the memory of the logits, each token's yet to be divided by its sum.

    So exponentials are made once. A label's own entry is worked out in fp32: near a probability of 1 it is the small
    difference of two large numbers.

    Args:
        logits: [V, M].
        labels: int64 [M'], of the first tokens; logits beyond are padding, which counts for nothing.
        smoothing: share of the target probability spread over the vocabulary; its gradient is left out here.
    Returns:
        Loss; odds [V, M]; sums, fp32 [M].
    Source: Szegedy et al. 2016 for the smoothed targets: (1 - s) at the label plus s / V everywhere.
    """
    count = len(labels)
    highest = logits.amax(0).float()
    picked = logits[:, :count].gather(0, labels[None])[0].float().sub_(highest[:count])
    loss = -(1 - smoothing) * picked.sum()
    if smoothing:
        loss -= smoothing * (logits.mean(0, dtype=torch.float32) - highest)[:count].sum()
    sums = torch.zeros_like(highest)
    for start in range(0, len(logits), SLICE_WORDS):
        part = logits[start : start + SLICE_WORDS]
        odds = (part.float() if part.dtype != torch.float32 else part.clone()).sub_(highest).exp_()
        sums += odds.sum(0)
        part.copy_(odds)
    loss += sums[:count].log().sum()
    own = picked.exp() - (1 - smoothing) * sums[:count]
    # scatter_ copies all logits of bf16 to fp32 and back
    logits.index_put_((labels, torch.arange(count, device=labels.device)), own.to(logits.dtype))
    return loss, logits, sums


def summed_cross_entropy(
    hidden: torch.Tensor, head: nn.Module, labels: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Return the cross-entropy of the head's logits, summed over tokens.

    Args:
        hidden: [M, D], the decoder's output where there is a label, scaled as the head wants it.
        head: the model's output layer; anything but a plain `nn.Linear` is called as it is.
        labels: int64 [M].
        smoothing: share of the target probability spread over the vocabulary.
    """
    if type(head) is nn.Linear and (ops.by_hand(hidden, head.weight) or _is_fp32(hidden, head.weight)):
        more = smoothing, ops.product_dtype(head.weight), torch.is_grad_enabled()
        loss: torch.Tensor = _LinearCrossEntropy.apply(hidden, head.weight, labels, *more)  # type: ignore[no-untyped-call]
        return loss
    logits = head(hidden).float()
    return functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)


def _is_fp32(*tensors: torch.Tensor) -> bool:
    """Say whether products of these are computed in fp32, on whatever device."""
    return all(tensor.dtype == ops.product_dtype(tensor) == torch.float32 for tensor in tensors)
