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


class PositionBias:
    """The bias of one stack's layer, for lengths up to the longest asked for so far.

    Threads may share it: each goes on with the table that it read or made, whatever another one stores meanwhile.
    """

    def __init__(self, table: torch.Tensor, *, bidirectional: bool, num_buckets: int, max_distance: int) -> None:
        """Take the embedding [num_buckets, heads] of a layer."""
        self._table = table
        self._bidirectional, self._num_buckets, self._max_distance = bidirectional, num_buckets, max_distance
        self._known = torch.empty(0)
        self._causal = torch.empty(0)

    def square(self, length: int) -> torch.Tensor:
        """Return the bias [heads, length, length]; row i belongs to the attending position i."""
        known = self._known
        if known.dim() < 3 or known.shape[-1] < length:
            known = self._known = self._compute(max(64, 1 << (length - 1).bit_length()))
        return known[:, :length, :length]

    def causal(self, positions: torch.Tensor, width: int) -> torch.Tensor:
        """Return the bias [B, heads, 1, width] of the first `width` positions, for one attending position per row.

        Args:
            positions: of the attending tokens, int64 [B], each below `width`; what comes later is closed to them.
        """
        causal = self._causal
        if len(causal) < width:
            square = self.square(max(64, 1 << (width - 1).bit_length()))
            later = torch.ones(square.shape[1:], dtype=torch.bool, device=square.device).triu(1)
            causal = self._causal = square.masked_fill(later, -torch.inf).transpose(0, 1).contiguous()
        return causal[:, :, :width][positions].unsqueeze(2)

    def _compute(self, length: int) -> torch.Tensor:
        positions = torch.arange(length, device=self._table.device)
        found = buckets(
            positions[None, :] - positions[:, None],
            bidirectional=self._bidirectional,
            num_buckets=self._num_buckets,
            max_distance=self._max_distance,
        )
        return self._table[found].permute(2, 0, 1).contiguous()
