"""Decoder states to words: logits over the vocabulary, the best token, log-probabilities.

The head is the largest matrix of a small T5 and its product the largest tensor of a step. On a CPU it is computed in
slices of the vocabulary, whose maxima are taken while they are still in cache.
"""

import threading

import torch

from t5ray.model.decoding.weights import T5Weights

SLICE = 2048
"""Tokens of one slice."""


class Vocabulary:
    """The head of a T5, with a buffer for the logits of one step in each thread."""

    def __init__(self, model: T5Weights) -> None:
        """Lay out the head."""
        self._head = model.head
        self.size = len(model.head)
        is_sliced = model.device.type == "cpu" and self.size > SLICE
        self._slices = [part.t().contiguous() for part in torch.split(model.head, SLICE)] if is_sliced else []
        self._local = threading.local()

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return logits, fp32 [B, V], in a buffer that the next call overwrites."""
        if not self._slices:
            return (states @ self._head.t()).float()
        out = self._room(states)
        for number, weight in enumerate(self._slices):
            _product(states, weight, out[:, number * SLICE : number * SLICE + weight.shape[1]])
        return out

    def normalised(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits as `logits` does, and the logarithm of the sum of their exponentials, fp32 [B, 1].

        Log-probabilities are the difference.
        """
        if not self._slices:
            logits = self.logits(states)
            return logits, torch.logsumexp(logits, dim=-1, keepdim=True)
        out = self._room(states)
        sums = out.new_empty(len(states), len(self._slices))
        for number, weight in enumerate(self._slices):
            part = out[:, number * SLICE : number * SLICE + weight.shape[1]]
            _product(states, weight, part)
            torch.logsumexp(part, dim=-1, out=sums[:, number])
        return out, torch.logsumexp(sums, dim=-1, keepdim=True)

    def best(self, states: torch.Tensor) -> torch.Tensor:
        """Return the token of the highest logit, int64 [B]; of equals the first."""
        if not self._slices:
            return (states @ self._head.t()).argmax(dim=-1)
        out, rows = self._room(states), torch.arange(len(states))
        highest = out.new_empty(len(states), len(self._slices))
        for number, weight in enumerate(self._slices):
            logits = out[:, number * SLICE : number * SLICE + weight.shape[1]]
            _product(states, weight, logits)
            torch.amax(logits, dim=-1, out=highest[:, number])
        start = highest.argmax(dim=-1) * SLICE
        window = start[:, None] + torch.arange(SLICE)
        inside = out[rows[:, None], window.clamp_max(self.size - 1)]  # past the end the last token repeats: never first
        return (start + inside.argmax(dim=-1)).clamp_max(self.size - 1)

    def _room(self, states: torch.Tensor) -> torch.Tensor:
        buffer: torch.Tensor | None = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < len(states):
            buffer = self._local.buffer = torch.empty(len(states), self.size, device=states.device)
        return buffer[: len(states)]


def _product(states: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
    if states.dtype == out.dtype:
        torch.mm(states, weight, out=out)
    else:
        out.copy_(states @ weight)
