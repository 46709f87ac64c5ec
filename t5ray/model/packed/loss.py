"""Cross-entropy over a large vocabulary, its gradient worked out in the forward pass, some tokens at a time.

So logits [tokens, V] exist for one chunk only, once, in place; PyTorch's own way keeps logits, log-probabilities and
their gradient, each for all positions. Source: Hsu et al. 2024 (Liger Kernel) do this on GPUs.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

CHUNK_TOKENS = 512
"""Target tokens whose logits exist at once: 64 MB in fp32 at T5's 32,128 words."""


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, smoothing: float
    ) -> torch.Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        dhidden = torch.empty_like(hidden) if wants_hidden else None
        dweight = torch.empty_like(weight) if wants_weight else None
        for start in range(0, len(hidden), CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            loss, dlogits = _loss_and_gradient(hidden[part] @ weight.T, labels[part], smoothing)
            total += loss
            if dhidden is not None:
                torch.mm(dlogits, weight, out=dhidden[part])
            if dweight is not None:
                torch.addmm(dweight, dlogits.T, hidden[part], beta=float(start > 0), out=dweight)
        ctx.save_for_backward(dhidden, dweight)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        dhidden, dweight = ctx.saved_tensors
        # both are this call's own and used once: scaled in place
        return (
            None if dhidden is None else dhidden.mul_(grad),
            None if dweight is None else dweight.mul_(grad),
            None,
            None,
        )


def _loss_and_gradient(
    logits: torch.Tensor, labels: torch.Tensor, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed loss, and its gradient in the memory of the logits.

    Source: Szegedy et al. 2016 for the smoothed targets: (1 - s) at the label plus s / V everywhere.
    """
    logits.sub_(logits.amax(-1, keepdim=True))
    picked = logits.gather(-1, labels[:, None])
    loss = -(1 - smoothing) * picked.sum()
    if smoothing:
        loss -= smoothing * logits.mean(-1).sum()
    gradient = logits.exp_()  # once, for the loss and for its gradient
    total = gradient.sum(-1, keepdim=True)
    loss += total.log().sum()
    gradient.div_(total)
    gradient.scatter_add_(-1, labels[:, None], gradient.new_full((len(labels), 1), smoothing - 1))
    if smoothing:
        gradient.sub_(smoothing / logits.shape[-1])
    return loss, gradient


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
    plain = type(head) is nn.Linear and hidden.dtype == head.weight.dtype == torch.float32
    if plain and not torch.is_autocast_enabled(hidden.device.type):
        loss: torch.Tensor = _LinearCrossEntropy.apply(hidden, head.weight, labels, smoothing)  # type: ignore[no-untyped-call]
        return loss
    logits = head(hidden).float()
    return functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
