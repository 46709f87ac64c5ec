"""Decoder states to words: logits over the vocabulary, the best token, log-probabilities.

The head is the largest matrix of a small T5 and its product the largest tensor of a step. On a CPU it is computed in
slices of the vocabulary, whose maxima are taken while they are still in cache.
"""

import torch

from t5ray.model.decoding.linear import Linear
from t5ray.model.decoding.weights import T5Weights
from t5ray.model.decoding.words import SLICE, Room, Words


class Vocabulary:
    """The head of a T5."""

    def __init__(self, model: T5Weights) -> None:
        """Lay out the head."""
        self._head = model.head
        self.size = len(model.head)
        is_sliced = model.device.type == "cpu" and self.size > SLICE
        self._words = Words(model.head) if is_sliced and model.dtype == torch.bfloat16 else None
        parts = torch.split(model.head, SLICE) if is_sliced and self._words is None else ()
        self._slices = [Linear(part) for part in parts]
        self._room = Room()

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return logits, fp32 [B, V], in room that the thread's next call overwrites."""
        if self._words is not None:
            out = self._place(states)
            self._words.fill(states, out)
            return out
        if not self._slices:
            return (states @ self._head.t()).float()
        out = self._place(states)
        for number, weight in enumerate(self._slices):
            weight.into(out[:, number * SLICE : number * SLICE + weight.num_outputs], states)
        return out

    def logits_of(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits of some tokens, int64 [W], after each of the states, fp32 [B, W]."""
        return (states @ self._head[tokens].t()).float()

    def normalised(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits as `logits` does, and the logarithm of the sum of their exponentials, fp32 [B, 1].

        Log-probabilities are the difference.
        """
        if self._words is not None:
            out = self._place(states)
            return out, self._words.normalised(states, out)
        if not self._slices:
            logits = self.logits(states)
            return logits, torch.logsumexp(logits, dim=-1, keepdim=True)
        out = self._place(states)
        sums = out.new_empty(len(states), len(self._slices))
        for number, weight in enumerate(self._slices):
            part = out[:, number * SLICE : number * SLICE + weight.num_outputs]
            weight.into(part, states)
            torch.logsumexp(part, dim=-1, out=sums[:, number])
        return out, torch.logsumexp(sums, dim=-1, keepdim=True)

    def log_probabilities(self, states: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of some tokens, fp32 [Q].

        Args:
            rows: the states that each comes after, int64 [Q].
            tokens: int64 [Q].
        """
        if self._words is not None:
            return self._words.log_probabilities(states, rows, tokens)
        logits, log_sum = self.normalised(states)
        return logits[rows, tokens] - log_sum[rows, 0]

    def best(self, states: torch.Tensor) -> torch.Tensor:
        """Return the token of the highest logit, int64 [B]; of equals the first."""
        if self._words is not None:
            return self._words.best(states)
        if not self._slices:
            return (states @ self._head.t()).argmax(dim=-1)
        out, rows = self._place(states), torch.arange(len(states))
        highest = out.new_empty(len(states), len(self._slices))
        for number, weight in enumerate(self._slices):
            part = out[:, number * SLICE : number * SLICE + weight.num_outputs]
            weight.into(part, states)
            torch.amax(part, dim=-1, out=highest[:, number])
        start = highest.argmax(dim=-1) * SLICE
        window = start[:, None] + torch.arange(SLICE)
        inside = out[rows[:, None], window.clamp_max(self.size - 1)]  # past the end the last token repeats: never first
        return (start + inside.argmax(dim=-1)).clamp_max(self.size - 1)

    def _place(self, states: torch.Tensor) -> torch.Tensor:
        size = len(states) * self.size
        return self._room.take(size, torch.float32, states.device).view(len(states), self.size)
