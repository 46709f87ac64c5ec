"""Short rows side by side in windows of one size, so that attention takes many of them in one call.

Attention in bf16 on a CPU calls oneDNN for each row and head. For a dozen tokens that takes about as long as for 32,
and longer for sizes that are no multiples of 32. So rows share windows of a good size, in which each is open to itself
alone.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional

from t5ray.model.decoding.positions import PositionBias

SIZES = (64, 128)
"""Places of a window, as few as its longest row needs; longer rows are no faster in windows than by themselves."""


class Windows:
    """N windows of W places for the tokens of some rows, which lie one after the other."""

    def __init__(self, start: int, lengths: Sequence[int]) -> None:
        """Put rows, longest first and none longer than the largest window, into few windows.

        Each row goes where the least room is left that it fits in.

        Args:
            start: the rows' first token among all tokens.
            lengths: tokens of each.
        """
        self.size = size = next(size for size in SIZES if size >= lengths[0])
        begins, number = _fit(lengths, size)
        sizes = torch.tensor(lengths)
        rows = torch.arange(len(lengths)).repeat_interleave(sizes)
        tokens = torch.arange(len(rows))
        self._part = slice(start, start + len(rows))
        self.places = (torch.tensor(begins) - sizes.cumsum(0) + sizes)[rows] + tokens
        """Place of each token, int64 [tokens]."""
        self.tokens = torch.zeros(number * size, dtype=torch.int64).index_copy_(0, self.places, tokens)
        """Token at each place, int64 [N W]; an empty one has the first."""
        row = torch.full((number * size,), -1).index_copy_(0, self.places, rows).view(number, 1, size)
        is_own = row[..., None] == row[:, :, None]
        self._mask = torch.zeros(is_own.shape).masked_fill_(~is_own, -torch.inf)
        self._last: tuple[PositionBias, torch.Tensor] | None = None

    def attend(self, qkv: torch.Tensor, bias: PositionBias, heads: int, out: torch.Tensor) -> None:
        """Let each token attend to those of its row.

        Args:
            qkv: of all tokens, [all, 3 heads d].
            out: for all tokens, [all, heads d].
        """
        shape = (-1, self.size, 3, heads, out.shape[1] // heads)
        query, key, value = qkv[self._part][self.tokens].view(shape).permute(2, 0, 3, 1, 4)
        mask = self._biased(bias)
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
        torch.index_select(found.transpose(1, 2).reshape(-1, out.shape[1]), 0, self.places, out=out[self._part])

    def _biased(self, bias: PositionBias) -> torch.Tensor:
        """Return what is added to scores, fp32 [N, heads, W, W]; kept, as most T5's layers share one bias."""
        if self._last is None or self._last[0] is not bias:
            self._last = bias, self._mask + bias.square(self.size)
        return self._last[1]


def _fit(lengths: Sequence[int], size: int) -> tuple[list[int], int]:
    """Return the first place of each row, and how many windows there are."""
    windows_with: list[list[int]] = [[] for _ in range(size + 1)]  # by the room that they have left
    begins, number = [], 0
    for length in lengths:
        room = next((room for room in range(length, size) if windows_with[room]), size)
        if room == size:
            window, number = number, number + 1
        else:
            window = windows_with[room].pop()
        begins.append((window + 1) * size - room)
        windows_with[room - length].append(window)
    return begins, number
