"""Logits in bf16 on a CPU, a row for each word: the head [V, D] times the states, [V, B].

oneDNN lays out the second factor of a product anew each time, and these are the few states instead of the whole head.
"""

import threading
from collections.abc import Iterator

import torch

SLICE = 2048
"""Words of one product: its logits are looked at while they are still in cache."""
WIDE_NUMBERS = 2**17
"""Logits in fp32 whose exponentials are summed at once, for the same reason."""
BLOCK = 64
"""Words of one block, of which SLICE is a multiple: the best word is looked for in the best block."""


class Room:
    """Room for numbers of one type in each thread, kept: pages that are in use already cost no time."""

    def __init__(self) -> None:
        """Take none yet."""
        self._local = threading.local()

    def take(self, size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Return room for so many numbers, which the thread's next call overwrites."""
        buffer: torch.Tensor | None = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < size:
            buffer = self._local.buffer = torch.empty(size, dtype=dtype, device=device)
        return buffer[:size]


class Words:
    """The head of a T5, as rows of words."""

    def __init__(self, head: torch.Tensor) -> None:
        """Take the head, [V, D]."""
        self._head, self._room, self._wide_room = head, Room(), Room()
        self._num_blocks = -(-len(head) // BLOCK)

    def best(self, states: torch.Tensor) -> torch.Tensor:
        """Return the word of the highest logit, int64 [B]; of equals the first."""
        blocks = self._blocks(states)
        blocks.view(-1, len(states))[len(self._head) :] = -torch.inf
        highest = states.new_empty(self._num_blocks, len(states))
        for words, _ in self._products(states, blocks):
            of_slice = slice(words.start // BLOCK, -(-words.stop // BLOCK))
            highest[of_slice] = maxima(blocks[of_slice], dim=1)
        best = highest.argmax(dim=0)
        return best * BLOCK + blocks[best, :, torch.arange(len(states))].argmax(dim=-1)

    def log_probabilities(self, states: torch.Tensor, rows: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of words after the states of rows, both int64 [Q], fp32 [Q]."""
        blocks = self._blocks(states)
        sums = torch.stack([self._log_sum(part) for _, part in self._products(states, blocks)])
        return blocks.view(-1, len(states))[words, rows].float() - torch.logsumexp(sums, dim=0)[rows]

    def fill(self, states: torch.Tensor, out: torch.Tensor) -> None:
        """Write the logits into room for them with a row for each of the states, fp32 [B, V]."""
        for words, part in self._products(states, self._blocks(states)):
            out[:, words] = part.t()

    def normalised(self, states: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Write the logits as `fill` does, and return the logarithm of the sum of their exponentials, fp32 [B, 1]."""
        sums = []
        for words, part in self._products(states, self._blocks(states)):
            out[:, words] = part.t()
            sums.append(self._log_sum(part))
        return torch.logsumexp(torch.stack(sums), dim=0)[:, None]

    def _blocks(self, states: torch.Tensor) -> torch.Tensor:
        """Return room for the logits, [V / BLOCK, BLOCK, B]; beyond the last word lies anything."""
        size = self._num_blocks * BLOCK * len(states)
        return self._room.take(size, states.dtype, states.device).view(self._num_blocks, BLOCK, len(states))

    def _products(self, states: torch.Tensor, blocks: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """Compute the logits slice by slice, and yield each slice's words and logits, [S, B]."""
        out, turned = blocks.view(-1, len(states)), states.t()
        for start in range(0, len(self._head), SLICE):
            words = slice(start, min(start + SLICE, len(self._head)))
            yield words, torch.mm(self._head[words], turned, out=out[words])

    def _log_sum(self, part: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of the sum of the exponentials of logits [S, B], fp32 [B]."""
        highest = maxima(part, dim=0).float()
        total = torch.zeros_like(highest)
        for piece in torch.split(part, max(1, WIDE_NUMBERS // part.shape[1])):
            wide = self._wide_room.take(piece.numel(), torch.float32, piece.device).view_as(piece)
            total += wide.copy_(piece).sub_(highest).exp_().sum(dim=0)
        return total.log_().add_(highest)


def maxima(numbers: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the maxima of bf16 numbers along a dimension.

    As integers their patterns rise with positive numbers and fall with negative ones, and torch compares integers
    eight times as fast. NaN may be passed over: `Decoder.is_finite` tells of it.
    """
    patterns = numbers.view(torch.int16)
    highest = patterns.amax(dim)
    return torch.where(highest < 0, patterns.amin(dim), highest).view(torch.bfloat16)
