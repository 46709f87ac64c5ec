"""The decoder, a token at a time: keys and values of the encoder's states once, of its own tokens as they come."""

from collections.abc import Iterable

import torch
from torch.nn import functional

from t5ray.model.decoding.encoder import Encoded, Group
from t5ray.model.decoding.layers import add_product, feed_forward, norm
from t5ray.model.decoding.weights import DecoderLayer, T5Weights


class Decoder:
    """The decoding state of B texts that all have had the same number of tokens.

    Texts may share encoder states: there are R of those, and each is read by B / R texts that follow each other.
    """

    def __init__(self, model: T5Weights, capacity: int) -> None:
        """Make an empty state.

        Args:
            capacity: tokens a text can have.
        """
        self.model = model
        self.length = 0
        """Tokens that each text has had."""
        self._capacity = capacity
        self._cross: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._own: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._mask: torch.Tensor | None = None

    @classmethod
    def over(cls, model: T5Weights, encoded: Iterable[Encoded], capacity: int, *, width: int = 1) -> "Decoder":
        """Start decoding over encoder states, `width` texts over each; rows keep their order."""
        state = cls(model, capacity)
        parts = list(encoded)
        groups = [group for part in parts for group in part.groups]
        rows, longest = sum(group.rows for group in groups), max(group.length for group in groups)
        for layer in model.decoder:
            shape = (rows, model.num_heads, longest, model.head_size)
            keys, values = (torch.zeros(shape, dtype=model.dtype, device=model.device) for _ in range(2))
            _fill_cross(keys, values, parts, layer, model)
            state._cross.append((keys, values))
            own = (rows * width, model.num_heads, capacity, model.head_size)
            state._own.append((keys.new_empty(own), keys.new_empty(own)))
        state._mask = _cross_mask(groups, longest, model)
        return state

    @property
    def rows(self) -> int:
        """R."""
        return len(self._cross[0][0])

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Feed each text its next token.

        Args:
            tokens: int64 [B].
        Returns:
            The normed states [B, D], scaled for the head.
        """
        model = self.model
        states = functional.embedding(tokens, model.embeddings).float()
        for layer, own, cross in zip(model.decoder, self._own, self._cross, strict=True):
            states = self._attend_self(states, layer, *own)
            states = self._attend_cross(states, layer, *cross)
            states = feed_forward(states, layer.feed_forward, model)
        self.length += 1
        out = norm(states, model.decoder_norm, model)
        return out if model.head_scale == 1.0 else out * model.head_scale

    def select(self, texts: torch.Tensor, rows: torch.Tensor | None = None) -> "Decoder":
        """Return the state of some texts, int64 [B'], in their order; a text may come several times.

        Args:
            rows: the encoder states they read, int64 [R']. None: each text its own, for B = R.
        """
        rows = texts if rows is None else rows
        chosen = Decoder(self.model, self._capacity)
        chosen.length = self.length
        chosen._mask = None if self._mask is None else self._mask[rows]
        chosen._cross = [(keys[rows], values[rows]) for keys, values in self._cross]
        chosen._own = [(self._select_own(keys, texts), self._select_own(values, texts)) for keys, values in self._own]
        return chosen

    def reorder(self, texts: torch.Tensor) -> None:
        """Let texts go on from one another, int64 [B], over the encoder states they have."""
        for pair in self._own:
            for tensor in pair:
                tensor[:, :, : self.length] = tensor[:, :, : self.length][texts]

    def _select_own(self, tensor: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Copy what was written only: the rest of a cache is empty space."""
        found = tensor.new_empty(len(texts), *tensor.shape[1:])
        found[:, :, : self.length] = tensor[:, :, : self.length][texts]
        return found

    def _attend_self(
        self, states: torch.Tensor, layer: DecoderLayer, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        model, now = self.model, self.length
        qkv = (norm(states, layer.norm, model) @ layer.qkv).view(len(states), 3, model.num_heads, 1, model.head_size)
        keys[:, :, now : now + 1] = qkv[:, 1]
        values[:, :, now : now + 1] = qkv[:, 2]
        bias = layer.bias.square(now + 1)[:, now : now + 1]
        inner = _attention(qkv[:, 0], keys[:, :, : now + 1], values[:, :, : now + 1], bias)
        return add_product(states, inner, layer.out)

    def _attend_cross(
        self, states: torch.Tensor, layer: DecoderLayer, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        model = self.model
        query = norm(states, layer.cross_norm, model) @ layer.cross_q
        query = query.view(len(keys), -1, model.num_heads, model.head_size).transpose(1, 2)
        return add_product(states, _attention(query, keys, values, self._mask), layer.cross_out)


def _attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return attention of M queries per row and head, without scaling, as T5 has none.

    Args:
        query: [R, H, M, d].
        keys, values: [R, H, S, d].
        bias: added to the products, broadcast to [R, H, M, S].
    Returns:
        [R M, H d].
    """
    rows, heads, many, size = query.shape
    products = torch.bmm(query.reshape(rows * heads, many, size), keys.flatten(0, 1).transpose(1, 2))
    weights = products.view(rows, heads, many, -1)
    if bias is not None:
        weights = weights + bias
    weights = torch.softmax(weights, dim=-1, dtype=torch.float32).to(values.dtype)
    found = torch.bmm(weights.flatten(0, 1), values.flatten(0, 1)).view(rows, heads, many, size)
    return found.transpose(1, 2).reshape(rows * many, heads * size)


def _fill_cross(
    keys: torch.Tensor, values: torch.Tensor, parts: Iterable[Encoded], layer: DecoderLayer, model: T5Weights
) -> None:
    row = 0
    for part in parts:
        projected = part.states @ layer.cross_kv
        for group in part.groups:
            tokens = projected[group.start : group.start + group.rows * group.length]
            both = tokens.view(group.rows, group.length, 2, model.num_heads, model.head_size).permute(2, 0, 3, 1, 4)
            keys[row : row + group.rows, :, : group.length] = both[0]
            values[row : row + group.rows, :, : group.length] = both[1]
            row += group.rows


def _cross_mask(groups: list[Group], width: int, model: T5Weights) -> torch.Tensor | None:
    """Return what closes padding to attention, [R, 1, 1, S]; None where there is none."""
    if all(group.mask is None and group.length == width for group in groups):
        return None
    closed = torch.finfo(model.dtype).min
    rows = []
    for group in groups:
        mask = torch.full((group.rows, 1, 1, width), closed, device=model.device)
        mask[..., : group.length] = 0.0 if group.mask is None else group.mask
        rows.append(mask)
    return torch.cat(rows)
