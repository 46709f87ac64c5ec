"""Decoder states to words: logits over the vocabulary, the best token, log-probabilities.

The head is the largest matrix of a small T5 and its product the largest tensor of a step. On a CPU it is computed in
slices of the vocabulary, whose maxima are taken while they are still in cache. In bf16 the states are what the head is
multiplied with, [S, D] @ [D, B]: oneDNN lays out the second factor anew for each product, and that is the small one.
"""

import threading

import torch

from t5ray.model.decoding.weights import T5Weights

SLICE = 2048
"""Tokens of one slice."""
BLOCK = 64
"""Tokens of one block, of which SLICE is a multiple: the best token is looked for in the best block."""


class Vocabulary:
    """The head of a T5, with a buffer for the logits of one step in each thread."""

    def __init__(self, model: T5Weights) -> None:
        """Lay out the head."""
        self._head = model.head
        self.size = len(model.head)
        is_sliced = model.device.type == "cpu" and self.size > SLICE
        self._by_words = is_sliced and model.dtype == torch.bfloat16
        parts = torch.split(model.head, SLICE) if is_sliced else ()
        self._slices = [part if self._by_words else part.t().contiguous() for part in parts]
        self._local = threading.local()

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return logits, fp32 [B, V], in a buffer that the next call overwrites."""
        if not self._slices:
            return (states @ self._head.t()).float()
        out = self._room(states)
        for number in range(len(self._slices)):
            self._fill(number, states, out)
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
        for number in range(len(self._slices)):
            torch.logsumexp(self._fill(number, states, out), dim=-1, out=sums[:, number])
        return out, torch.logsumexp(sums, dim=-1, keepdim=True)

    def best(self, states: torch.Tensor) -> torch.Tensor:
        """Return the token of the highest logit, int64 [B]; of equals the first."""
        if not self._slices:
            return (states @ self._head.t()).argmax(dim=-1)
        if self._by_words:
            return self._best_by_words(states)
        out, rows = self._room(states), torch.arange(len(states))
        highest = out.new_empty(len(states), len(self._slices))
        for number in range(len(self._slices)):
            torch.amax(self._fill(number, states, out), dim=-1, out=highest[:, number])
        start = highest.argmax(dim=-1) * SLICE
        window = start[:, None] + torch.arange(SLICE)
        inside = out[rows[:, None], window.clamp_max(self.size - 1)]  # past the end the last token repeats: never first
        return (start + inside.argmax(dim=-1)).clamp_max(self.size - 1)

    def _best_by_words(self, states: torch.Tensor) -> torch.Tensor:
        """Return the best tokens from products [S, B]: first each column's best block of words, then its best word."""
        turned, many = states.t(), len(states)
        num_blocks, per_slice = -(-self.size // BLOCK), SLICE // BLOCK
        blocks = self._buffer("words", num_blocks * BLOCK * many, states).view(num_blocks, BLOCK, many)
        out, highest = blocks.view(-1, many), states.new_empty(num_blocks, many)
        out[self.size :] = -torch.inf
        for number, words in enumerate(self._slices):
            torch.mm(words, turned, out=out[number * SLICE : number * SLICE + len(words)])
            of_slice = slice(number * per_slice, (number + 1) * per_slice)
            torch.amax(blocks[of_slice], dim=1, out=highest[of_slice])
        best = highest.argmax(dim=0)
        return best * BLOCK + blocks[best, :, torch.arange(many)].argmax(dim=-1)

    def _fill(self, number: int, states: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Compute a slice's logits into their place of [B, V], and return that place."""
        weight = self._slices[number]
        size = len(weight) if self._by_words else weight.shape[1]
        place = out[:, number * SLICE : number * SLICE + size]
        if self._by_words:
            return place.copy_((weight @ states.t()).t())
        return torch.mm(states, weight, out=place)

    def _room(self, states: torch.Tensor) -> torch.Tensor:
        """Return room for logits, fp32 [B, V]."""
        return self._buffer("logits", len(states) * self.size, states.new_empty(0, dtype=torch.float32)).view(
            len(states), self.size
        )

    def _buffer(self, name: str, size: int, like: torch.Tensor) -> torch.Tensor:
        """Return room for so many numbers, of this thread alone: pages that are in use already cost no time."""
        buffer: torch.Tensor | None = getattr(self._local, name, None)
        if buffer is None or len(buffer) < size:
            buffer = like.new_empty(size)
            setattr(self._local, name, buffer)
        return buffer[:size]
