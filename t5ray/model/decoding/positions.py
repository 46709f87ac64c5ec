"""Relative position bias of T5: distances in buckets, small ones exact, large ones logarithmic."""

import math

import torch


def buckets(distances: torch.Tensor, *, bidirectional: bool, num_buckets: int, max_distance: int) -> torch.Tensor:
    """Return the bucket of each distance (attended position less attending one), int64 of the same shape.

    Example:
        distances [-2, 0, 1], bidirectional, 32 buckets, max_distance 128 -> [2, 0, 17]
    Source: mesh_tensorflow transformer_layers.py; written out so that float rounding is transformers' own.
    """
    start = torch.zeros_like(distances)
    if bidirectional:
        num_buckets //= 2
        start = (distances > 0).long() * num_buckets
        size = distances.abs()
    else:
        size = (-distances).clamp_min(0)
    exact = num_buckets // 2
    ratio = torch.log(size.float() / exact) / math.log(max_distance / exact) * (num_buckets - exact)
    large = (exact + ratio.clamp_min(0).long()).clamp_max(num_buckets - 1)
    return start + torch.where(size < exact, size, large)


KEPT_LENGTH = 512
"""Longest texts whose squares are kept; 8 heads' take 8 MiB. A longer text's is made when asked for, and let go."""


class PositionBias:
    """The bias of one stack's layer: kept by distance, [heads, 2 n - 1] for the longest text so far, of n tokens.

    Threads may share it: each goes on with the table that it read or made, whatever another one stores meanwhile.
    """

    def __init__(self, table: torch.Tensor, *, bidirectional: bool, num_buckets: int, max_distance: int) -> None:
        """Take the embedding [num_buckets, heads] of a layer."""
        self._table = table
        self._bidirectional, self._num_buckets, self._max_distance = bidirectional, num_buckets, max_distance
        self._by_distance = torch.empty(0)
        self._known = torch.empty(0)
        self._causal = torch.empty(0)

    def square(self, length: int) -> torch.Tensor:
        """Return the bias [heads, length, length]; row i belongs to the attending position i."""
        if length > KEPT_LENGTH:
            return self.backwards(length).flip(1)
        known = self._known
        if known.dim() < 3 or known.shape[-1] < length:
            known = self._known = self.backwards(_room(length)).flip(1)
        return known[:, :length, :length]

    def backwards(self, length: int) -> torch.Tensor:
        """Return the bias with its rows in reverse order, row 0 the last position's, without making the square.

        Each row is the one before it a place further on, so this is a view of 2 length - 1 numbers a head.
        """
        known = self._by_distance
        if known.dim() < 2 or known.shape[-1] < 2 * length - 1:
            known = self._by_distance = self._compute(_room(length))
        middle = known.shape[-1] // 2
        return known[:, middle - length + 1 : middle + length].unfold(1, length, 1)

    def causal(self, positions: torch.Tensor, width: int) -> torch.Tensor:
        """Return the bias [B, heads, 1, width] of the first `width` positions, for one attending position per row.

        Args:
            positions: of the attending tokens, int64 [B], each below `width`; what comes later is closed to them.
        """
        causal = self._causal
        if causal.dim() < 2 or causal.shape[-1] < 2 * width - 1:
            causal = self._compute(_room(width))
            causal[:, causal.shape[-1] // 2 + 1 :] = -torch.inf
            self._causal = causal  # only now: other threads read it
        middle = causal.shape[-1] // 2
        rows = causal[:, : middle + width].unfold(1, width, 1).transpose(0, 1)  # by how far before `middle` they begin
        return rows[middle - positions].unsqueeze(2)

    def _compute(self, length: int) -> torch.Tensor:
        """Return the bias of the distances from 1 - length to length - 1."""
        found = buckets(
            torch.arange(1 - length, length, device=self._table.device),
            bidirectional=self._bidirectional,
            num_buckets=self._num_buckets,
            max_distance=self._max_distance,
        )
        return self._table[found].t().contiguous()


def _room(length: int) -> int:
    """Return the length that a table is made for."""
    return max(64, 1 << (length - 1).bit_length())
