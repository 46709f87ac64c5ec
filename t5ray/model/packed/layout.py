"""Where packed tokens lie in padded attention.

Packed: the real tokens of B rows, one row after the other, and behind them as much padding as rounds N up, [N, D].
Padded: [B, H, S, d], S the longest row, rounded up. Linear layers, norms and dropout see packed tokens; only attention
needs the padded form, per head. Packed padding is attended by nobody, and its gradient is 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Layout:
    """The map between packed and padded tokens of one batch, for H heads."""

    rows: int
    """B"""
    width: int
    """S"""
    heads: int
    """H"""
    real: torch.Tensor
    """bool [B, S], True at tokens"""
    num_real: int
    """Packed tokens that are no padding: the first ones"""
    places: torch.Tensor
    """int64 [N]: each packed token's place in B*S"""
    token_at: torch.Tensor
    """int64 [B*S]: which packed token stands there; 0 at padding that is not packed"""
    to_padded: torch.Tensor
    """int64 [B*H*S]: which of the packed N*H head vectors stands there; 0 at padding that is not packed"""
    to_packed: torch.Tensor
    """int64 [N*H]: where in B*H*S each packed head vector stands"""
    holes: torch.Tensor | None
    """int64: the padding among B*H*S; None where there is none"""

    @property
    def has_padding(self) -> bool:
        """Whether some of the B*S places are padding."""
        return self.holes is not None

    def pad(self, packed: torch.Tensor, *, clean: bool = False) -> torch.Tensor:
        """Spread [N, H*d] to [B*H, S, d]; padding holds some token's values, or zeros where `clean`."""
        vectors = packed.reshape(len(self.to_packed), -1)
        padded = vectors.index_select(0, self.to_padded)
        if clean and self.holes is not None:
            padded = padded.index_fill(0, self.holes, 0.0)
        return padded.view(self.rows * self.heads, self.width, -1)

    def pad_heads(self, packed: torch.Tensor, *, clean: bool = False) -> torch.Tensor:
        """Spread [H, N, D] to [B, H*S, D], as `pad` does."""
        offsets = torch.arange(self.heads, device=packed.device) * len(self.places)
        places = (self.token_at.view(self.rows, 1, self.width) + offsets[:, None]).flatten()
        padded = packed.flatten(0, 1).index_select(0, places)
        if clean and self.holes is not None:
            padded = padded.index_fill_(0, self.holes, 0.0)
        return padded.view(self.rows, self.heads * self.width, -1)

    def pack_heads(self, padded: torch.Tensor) -> torch.Tensor:
        """Gather [B, H*S, D] to [H, N, D]."""
        places = self.to_packed.view(len(self.places), self.heads).T.flatten()
        return padded.flatten(0, 1).index_select(0, places).view(self.heads, len(self.places), -1)

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """Gather [B*H, S, d] to [N, H*d], leaving behind what is not packed."""
        vectors = padded.reshape(len(self.to_padded), -1)
        return vectors.index_select(0, self.to_packed).view(len(self.places), -1)


def layout_of(real: torch.Tensor, heads: int, rounded: Callable[[int], int] = int) -> Layout:
    """Work out the layout of one batch.

    Args:
        real: bool [B, S], True at tokens.
        rounded: number of tokens -> what N should be; it is less where the padding of the batch does not suffice.
    Example:
        real [[1, 1], [1, 0]], one head -> places [0, 1, 2], to_padded [0, 1, 2, 0], holes [3]
        the same, rounded to 4 -> places [0, 1, 2, 3], to_padded [0, 1, 2, 3], holes [3]
    """
    rows, width = real.shape
    places = real.flatten().nonzero().flatten()
    num_real = len(places)
    if spare := rounded(num_real) - num_real:
        places = torch.cat([places, (~real).flatten().nonzero().flatten()[:spare]])
    token = torch.zeros(rows * width, dtype=torch.int64, device=real.device)
    token[places] = torch.arange(len(places), device=real.device)
    head = torch.arange(heads, device=real.device)
    to_padded = (token.view(rows, 1, width) * heads + head[:, None]).flatten()
    row, position = places // width, places % width
    to_packed = ((row[:, None] * heads + head) * width + position[:, None]).flatten()
    holes = None
    if num_real < rows * width:
        holes = (~real)[:, None].expand(rows, heads, width).flatten().nonzero().flatten()
    return Layout(rows, width, heads, real, num_real, places, token, to_padded, to_packed, holes)


def key_mask(queries: Layout, keys: Layout, *, causal: bool) -> torch.Tensor | None:
    """Return what keeps attention from padding and, if `causal`, from later tokens: 0 or -inf, [B, 1, S or 1, K]."""
    hidden = ~keys.real[:, None, None] if keys.has_padding else None
    if causal:
        later = torch.ones(queries.width, keys.width, dtype=torch.bool, device=keys.real.device).triu(1)
        hidden = later[None, None] if hidden is None else hidden | later
    if hidden is None:
        return None
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, -torch.inf)
