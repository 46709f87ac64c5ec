"""Token ids to encoder states.

Rows come sorted by length. Products run over the tokens of many rows at once, [N, D]; attention runs over *groups* of
rows. On a CPU a group has rows of one length, so no padding is computed and no mask is needed, or short rows of any
lengths share windows; on a GPU, where many small kernels cost more than padding, all rows form one padded group with a
mask.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch.nn import functional

from t5ray.model.decoding.layers import feed_forward, norm
from t5ray.model.decoding.positions import KEPT_LENGTH
from t5ray.model.decoding.weights import EncoderLayer, T5Weights
from t5ray.model.decoding.windows import SIZES, Windows

CHUNK_TOKENS = 4096
"""Tokens encoded at once on a CPU: their inner states stay in its caches, and the allocator reuses their pages."""
MANUAL_ATTENTION_TOKENS = 256
"""Longest rows whose attention is spelled out on a CPU in fp32; beyond, torch's blocked kernel is faster."""


@dataclass(frozen=True)
class Group:
    """Rows that attention handles together."""

    start: int
    """Their first token among all tokens."""
    rows: int
    length: int
    """Tokens of each row, padding included."""
    mask: torch.Tensor | None
    """0 at tokens and a huge negative number at padding, [rows, 1, 1, length]; None where there is no padding."""


@dataclass(frozen=True)
class Encoded:
    """Encoder states of some rows."""

    states: torch.Tensor
    """[N, D]; padding may lie between the rows."""
    starts: torch.Tensor
    """Where each row's states begin, int64 [rows]."""
    lengths: torch.Tensor
    """Tokens of each row, int64 [rows]."""

    @property
    def padded_tokens(self) -> int:
        """Positions that were computed."""
        return len(self.states)

    def part(self, rows: slice) -> "Encoded":
        """Return some of the rows."""
        return Encoded(self.states, self.starts[rows], self.lengths[rows])

    def repeated(self, times: int) -> "Encoded":
        """Return each row several times in turn, over the same states."""
        return Encoded(self.states, self.starts.repeat_interleave(times), self.lengths.repeat_interleave(times))


def encode(model: T5Weights, rows: Sequence[Sequence[int]], budget: int = CHUNK_TOKENS) -> Iterator[Encoded]:
    """Yield the encoder states of rows that are sorted by length, longest first, in their order.

    Args:
        budget: positions encoded at once, at most; one row may exceed it alone.
    """
    is_cpu = model.device.type == "cpu"
    for part in _chunks(rows, min(budget, CHUNK_TOKENS) if is_cpu else budget, padded=not is_cpu):
        yield _encode(model, part)


def _chunks(rows: Sequence[Sequence[int]], budget: int, *, padded: bool) -> Iterator[Sequence[Sequence[int]]]:
    start, tokens = 0, 0
    for end, row in enumerate(rows):
        size = len(rows[start]) if padded else len(row)
        if tokens + size > budget and end > start:
            yield rows[start:end]
            start, tokens, size = end, 0, len(row)
        tokens += size
    yield rows[start:]


def _encode(model: T5Weights, rows: Sequence[Sequence[int]]) -> Encoded:
    ids, groups = _lay_out(model, rows)
    lengths = torch.tensor([len(row) for row in rows])
    places = torch.tensor([group.length for group in groups for _ in range(group.rows)])
    starts = places.cumsum(0) - places
    windows = None
    if model.device.type == "cpu" and model.dtype == torch.bfloat16:  # in fp32 they are no faster
        groups = [group for group in groups if group.length > SIZES[-1]]
        short = [len(row) for row in rows if len(row) <= SIZES[-1]]
        windows = Windows(len(ids) - sum(short), short) if short else None
    states = functional.embedding(ids, model.embeddings).float()
    for layer in model.encoder:
        states = _attend(states, groups, windows, layer, model)
        states = feed_forward(states, layer.feed_forward, model)
    states = norm(states, model.encoder_norm, model)
    return Encoded(states, starts.to(model.device), lengths.to(model.device))


def _lay_out(model: T5Weights, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, list[Group]]:
    """Return all ids, int64 [N], and the groups they form."""
    device = model.device
    if device.type == "cpu":
        sizes = [(length, sum(1 for _ in run)) for length, run in groupby(map(len, rows))]
        starts = [0]
        for length, count in sizes:
            starts.append(starts[-1] + length * count)
        groups = [Group(start, count, length, None) for start, (length, count) in zip(starts, sizes, strict=False)]
        return torch.tensor([token for row in rows for token in row], device=device), groups
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[model.pad_id] * (width - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    padding = torch.arange(width, device=device) >= lengths[:, None]
    mask = torch.zeros(padding.shape, device=device).masked_fill_(padding, torch.finfo(model.dtype).min)
    return ids.flatten(), [Group(0, len(rows), width, mask[:, None, None])]


def _attend(
    states: torch.Tensor, groups: Sequence[Group], windows: Windows | None, layer: EncoderLayer, model: T5Weights
) -> torch.Tensor:
    qkv = layer.qkv(norm(states, layer.norm, model))
    inner = qkv.new_empty(len(qkv), model.num_heads * model.head_size)
    if windows is not None:
        windows.attend(qkv, layer.bias, model.num_heads, inner)
    for group in groups:
        tokens = slice(group.start, group.start + group.rows * group.length)
        shape = (group.rows, group.length, 3, model.num_heads, model.head_size)
        query, key, value = qkv[tokens].view(shape).permute(2, 0, 3, 1, 4)
        if group.mask is None and group.length > KEPT_LENGTH:
            # from the last query to the first, whose bias is a view: the square would take the most memory of all
            found = _attention(query.flip(2), key, value, layer.bias.backwards(group.length)[None]).flip(2)
        else:
            bias = layer.bias.square(group.length)
            bias = bias.expand(1, -1, -1, -1) if group.mask is None else bias + group.mask
            found = _attention(query, key, value, bias)
        inner[tokens].view(group.rows, group.length, model.num_heads, -1).copy_(found.transpose(1, 2))
    return layer.out.add_to(states, inner)


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return attention [rows, heads, length, d] without scaling, as T5 has none.

    Args:
        bias: fp32, [1 or rows, heads, length, length].
    """
    is_cpu = query.device.type == "cpu"
    if is_cpu and query.dtype == torch.float32 and query.shape[2] <= MANUAL_ATTENTION_TOKENS:
        weights = (query @ key.transpose(2, 3)).add_(bias)
        return torch.softmax(weights, dim=-1) @ value
    mask = bias if is_cpu else bias.to(query.dtype)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
