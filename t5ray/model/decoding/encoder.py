"""Token ids to encoder states.

Rows come sorted by length. Products run over the tokens of many rows at once, [N, D]; attention runs over *groups* of
rows. On a CPU a group has rows of one length, so no padding is computed but a few keys; on a GPU, where many small
kernels cost more than padding, all rows form one padded group.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch.nn import functional

from t5ray.model.decoding.layers import feed_forward, norm
from t5ray.model.decoding.positions import KEPT_LENGTH, PositionBias
from t5ray.model.decoding.weights import T5Weights

CHUNK_TOKENS = 4096
"""Tokens encoded at once on a CPU: their inner states stay in its caches, and the allocator reuses their pages."""
VECTOR = 16
"""Numbers that a CPU's widest vectors hold: attention to 16 keys takes half as long as to 15."""
REACHING_TOKENS = 256
"""Longest rows whose keys are rounded up to a multiple of VECTOR; it helps longer ones little. The biases that are kept
for a chunk take 4 MiB a head at most."""


class Alike:
    """Rows of one length, on a CPU.

    Their keys may reach on, up to a multiple of VECTOR, into the rows that follow, which the bias closes. What is no
    number in one of those becomes none in the row, too.
    """

    def __init__(self, start: int, rows: int, length: int, reach: int) -> None:
        """Take rows that stand side by side.

        Args:
            start: their first token among all tokens.
            length: tokens of each row.
            reach: keys of each row; at least so many tokens follow from the last row's first one on, itself included.
        """
        self.rows, self.length, self.reach = rows, length, reach
        self._tokens = slice(start, start + rows * length)
        self._keys = slice(start, start + (rows - 1) * length + reach)
        self._last: tuple[PositionBias, torch.Tensor] | None = None

    def attend(self, qkv: torch.Tensor, bias: PositionBias, heads: int, out: torch.Tensor) -> None:
        """Let each token attend to those of its row.

        Args:
            qkv: of all tokens, [N, 3 heads d].
            bias: of the layer.
            heads: their number.
            out: for all tokens, [N, heads d].
        """
        width = out.shape[1]
        query = qkv[self._tokens, :width].view(self.rows, self.length, heads, -1).transpose(1, 2)
        both = qkv[self._keys, width:].unfold(0, self.reach, self.length)  # a view: [rows, 2 heads d, reach]
        key, value = both.view(self.rows, 2, heads, -1, self.reach).permute(1, 0, 2, 4, 3)
        if self.length > KEPT_LENGTH:
            # from the last query to the first, whose bias is a view: the square would take the most memory of all
            found = _attention(query.flip(2), key, value, bias.backwards(self.length)[None]).flip(2)
        else:
            found = _attention(query, key, value, self._reaching(bias))
        out[self._tokens].view(self.rows, self.length, heads, -1).copy_(found.transpose(1, 2))

    def _reaching(self, bias: PositionBias) -> torch.Tensor:
        """Return the bias, [1, heads, length, reach]; kept, as all layers of most T5s have the same."""
        if self.reach == self.length:
            return bias.square(self.length)[None]
        if self._last is None or self._last[0] is not bias:
            closed = (0, self.reach - self.length)
            self._last = bias, functional.pad(bias.square(self.length), closed, value=-torch.inf)[None]
        return self._last[1]


@dataclass(frozen=True)
class Padded:
    """Rows of any lengths, padded to that of the longest."""

    rows: int
    length: int
    """Tokens of each row, padding included."""
    mask: torch.Tensor
    """0 at tokens and a huge negative number at padding, [rows, 1, 1, length]."""

    def attend(self, qkv: torch.Tensor, bias: PositionBias, heads: int, out: torch.Tensor) -> None:
        """Let each token attend to those of its row, as `Alike.attend` does."""
        shape = (self.rows, self.length, 3, heads, out.shape[1] // heads)
        query, key, value = qkv.view(shape).permute(2, 0, 3, 1, 4)
        found = _attention(query, key, value, (bias.square(self.length) + self.mask).to(query.dtype))
        out.view(self.rows, self.length, heads, -1).copy_(found.transpose(1, 2))


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
        """Positions that the products ran over."""
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
    groups: Sequence[Alike | Padded]
    ids, starts, groups = _on_cpu(rows) if model.device.type == "cpu" else _padded(model, rows)
    lengths = torch.tensor([len(row) for row in rows])
    states = functional.embedding(ids, model.embeddings).float()
    for layer in model.encoder:
        qkv = layer.qkv(norm(states, layer.norm, model))
        inner = qkv.new_empty(len(qkv), model.num_heads * model.head_size)
        for group in groups:
            group.attend(qkv, layer.bias, model.num_heads, inner)
        states = feed_forward(layer.out.add_to(states, inner), layer.feed_forward, model)
    states = norm(states, model.encoder_norm, model)
    return Encoded(states, starts.to(model.device), lengths.to(model.device))


def _on_cpu(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor, list[Alike]]:
    """Return all ids, int64 [N], where each row begins, int64 [rows], and the groups that the rows form."""
    lengths = list(map(len, rows))
    starts = [0, *accumulate(lengths)]
    groups, first = list[Alike](), 0
    for length, run in groupby(lengths):
        count = len(list(run))
        groups += _alike(starts[first], count, length, starts[-1])
        first += count
    return torch.tensor([token for row in rows for token in row]), torch.tensor(starts[:-1]), groups


def _alike(start: int, rows: int, length: int, end: int) -> Iterator[Alike]:
    """Yield the groups of rows of one length: those whose keys can reach on, and those too near the last token."""
    reach = -(-length // VECTOR) * VECTOR if length <= REACHING_TOKENS else length
    reaching = min(rows, max(0, (end - reach - start) // length + 1))
    if reaching:
        yield Alike(start, reaching, length, reach)
    if reaching < rows:
        yield Alike(start + reaching * length, rows - reaching, length, length)


def _padded(model: T5Weights, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor, list[Padded]]:
    """Return the same for one group of rows, each as long as the longest."""
    device, width = model.device, max(map(len, rows))
    ids = torch.tensor([[*row, *[model.pad_id] * (width - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    padding = torch.arange(width, device=device) >= lengths[:, None]
    mask = torch.zeros(padding.shape, device=device).masked_fill_(padding, torch.finfo(model.dtype).min)
    starts = torch.arange(0, len(rows) * width, width)
    return ids.flatten(), starts, [Padded(len(rows), width, mask[:, None, None])]


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return attention [rows, heads, length, d] without scaling, as T5 has none.

    Args:
        bias: [1 or rows, heads, length, reach]; fp32 on a CPU, of the query's type on a GPU.
    """
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
