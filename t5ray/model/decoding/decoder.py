"""The decoder, a token at a time, for a batch whose rows come and go.

A batch has *places*. A place holds the encoder's states of a row, and W texts that read them; it can be filled again
once they have ended, while the others go on. What a text has had is kept as keys and values of its own tokens.

Keys and values of the encoder's states are never made. A head's product of query and keys, q (K s), is (K' q) s: each
query is turned by the matrix of the keys and then meets the states themselves, and the values' matrix turns their
weighted mean. That costs about as many operations as projecting inputs of twenty tokens, and far fewer for longer ones;
and what a step reads, and a row that moves takes along, is one tensor for all layers.
"""

from collections.abc import Iterable

import torch
from torch.nn import functional

from t5ray.model.decoding.encoder import Encoded
from t5ray.model.decoding.layers import feed_forward, norm
from t5ray.model.decoding.weights import DecoderLayer, T5Weights

FIRST_TOKENS = 32
"""Tokens of a text that there is room for at first; the room doubles as texts grow."""


class Decoder:
    """The decoding state of B = R W texts in R places."""

    def __init__(self, model: T5Weights, places: int, longest: int, capacity: int, *, width: int = 1) -> None:
        """Make empty places.

        Args:
            longest: tokens of the longest input.
            capacity: tokens a text can have.
            width: texts of a place, W.
        """
        self.model = model
        self.width = width
        self.ages = torch.zeros(places * width, dtype=torch.int64, device=model.device)
        """Tokens that each text has had, int64 [B]."""
        self.oldest = 0
        """Tokens of the text that has had most."""
        self._lengths = torch.ones(places, dtype=torch.int64, device=model.device)
        self._reach = longest
        """Positions of inputs that any place still needs."""
        self._states = torch.zeros(places, longest, model.width, dtype=model.dtype, device=model.device)
        # Products with the states of an empty place must stay finite: its first position is open.
        self._mask = torch.full((places, longest), torch.finfo(model.dtype).min, dtype=model.dtype, device=model.device)
        self._mask[:, 0] = 0.0
        self._own = [self._new_cache(min(capacity, FIRST_TOKENS)) for _ in model.decoder]

    @classmethod
    def over(cls, model: T5Weights, encoded: Iterable[Encoded], capacity: int, *, width: int = 1) -> "Decoder":
        """Start decoding over encoder states, `width` texts over each; rows keep their order."""
        parts = list(encoded)
        rows = sum(len(part.lengths) for part in parts)
        longest = max(int(part.lengths.max()) for part in parts)
        state = cls(model, rows, longest, capacity, width=width)
        places = torch.arange(rows, device=model.device)
        for part in parts:
            state.fill(places[: len(part.lengths)], part)
            places = places[len(part.lengths) :]
        return state

    @property
    def places(self) -> int:
        """R."""
        return len(self._states)

    def fill(self, places: torch.Tensor, encoded: Encoded) -> None:
        """Put rows into places, int64 [rows], and start their texts; no row is longer than the places' longest."""
        device, longest = self.model.device, self._states.shape[1]
        within = torch.arange(longest, device=device)
        is_open = within < encoded.lengths[:, None]
        source = (encoded.starts[:, None] + within)[is_open]
        target = (places[:, None] * longest + within)[is_open]
        self._states.view(-1, self.model.width).index_copy_(0, target, encoded.states[source].to(self.model.dtype))
        self._mask[places] = torch.where(is_open, 0.0, torch.finfo(self.model.dtype).min).to(self.model.dtype)
        self._lengths[places] = encoded.lengths
        self._reach = int(self._lengths.max())
        self.ages.view(-1, self.width)[places] = 0
        self.oldest = int(self.ages.max())

    def rest(self, texts: torch.Tensor, *, ended: bool) -> None:
        """Let texts, bool [B], start over, since nothing of theirs is wanted any more.

        Args:
            ended: whether some ended just now.
        """
        self.ages.masked_fill_(texts, 0)
        if ended:
            self.oldest = int(self.ages.max())

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Feed each text its next token.

        Args:
            tokens: int64 [B].
        Returns:
            The normed states [B, D], scaled for the head.
        """
        model = self.model
        if self.oldest == self._own[0].shape[-2]:
            self._own = [self._grown(cache) for cache in self._own]
        states = functional.embedding(tokens, model.embeddings).float()
        mask = self._mask[:, None, None, : self._reach]
        biases: dict[int, torch.Tensor] = {}
        for layer, own in zip(model.decoder, self._own, strict=True):
            if id(layer.bias) not in biases:
                biases[id(layer.bias)] = layer.bias.causal(self.ages, self.oldest + 1)
            states = self._attend_self(states, layer, own, biases[id(layer.bias)])
            states = self._attend_cross(states, layer, mask)
            states = feed_forward(states, layer.feed_forward, model)
        self.ages += 1
        self.oldest += 1
        out = norm(states, model.decoder_norm, model)
        return out if model.head_scale == 1.0 else out * model.head_scale

    def keep(self, texts: torch.Tensor) -> None:
        """Give up all places but some, int64 [B'] in rising order; for W = 1."""
        count = len(texts)
        for tensor in (self.ages, self._lengths, self._states, self._mask):
            tensor[:count] = tensor[texts]
        for cache in self._own:
            cache[:, :count, :, : self.oldest] = cache[:, texts, :, : self.oldest]
        self.ages, self._lengths = self.ages[:count], self._lengths[:count]
        self._states, self._mask = self._states[:count], self._mask[:count]
        self._own = [cache[:, :count] for cache in self._own]
        self.oldest, self._reach = int(self.ages.max()), int(self._lengths.max())

    def select(self, texts: torch.Tensor, places: torch.Tensor | None = None) -> "Decoder":
        """Return the state of some texts, int64 [B'], in their order; a text may come several times.

        Args:
            places: the places whose states they read, int64 [R']. None: each text its own, for W = 1.
        """
        places = texts if places is None else places
        chosen = Decoder.__new__(Decoder)
        chosen.model, chosen.width = self.model, self.width
        chosen.ages, chosen.oldest = self.ages[texts], self.oldest
        chosen._lengths = self._lengths[places]
        chosen._reach = int(chosen._lengths.max())
        chosen._states, chosen._mask = self._states[places, : chosen._reach], self._mask[places, : chosen._reach]
        chosen._own = []
        for cache in self._own:
            found = cache.new_zeros(2, len(texts), *cache.shape[2:])
            found[..., : self.oldest, :] = cache[:, texts, :, : self.oldest]
            chosen._own.append(found)
        return chosen

    def reorder(self, texts: torch.Tensor) -> None:
        """Let texts go on from one another, int64 [B], within their places."""
        for cache in self._own:
            cache[..., : self.oldest, :] = cache[:, texts, :, : self.oldest]

    def _new_cache(self, tokens: int) -> torch.Tensor:
        """Return room for keys and values, [2, B, H, tokens, d]; zeros, as what is closed must stay finite."""
        model = self.model
        shape = (2, len(self.ages), model.num_heads, tokens, model.head_size)
        return torch.zeros(shape, dtype=model.dtype, device=model.device)

    def _grown(self, cache: torch.Tensor) -> torch.Tensor:
        found = self._new_cache(2 * cache.shape[-2])
        found[..., : cache.shape[-2], :] = cache
        return found

    def _attend_self(
        self, states: torch.Tensor, layer: DecoderLayer, cache: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        model, texts = self.model, torch.arange(len(states), device=states.device)
        qkv = layer.qkv(norm(states, layer.norm, model)).view(len(states), 3, model.num_heads, model.head_size)
        keys, values = cache
        keys[texts, :, self.ages] = qkv[:, 1]
        values[texts, :, self.ages] = qkv[:, 2]
        width = bias.shape[-1]
        inner = _attention(qkv[:, 0], keys[:, :, :width], values[:, :, :width], bias)
        return layer.out.add_to(states, inner)

    def _attend_cross(self, states: torch.Tensor, layer: DecoderLayer, mask: torch.Tensor) -> torch.Tensor:
        model, many = self.model, len(states)
        query = layer.cross_q(norm(states, layer.cross_norm, model)).view(many, model.num_heads, model.head_size)
        turned = torch.bmm(query.transpose(0, 1), layer.cross_k).transpose(0, 1)
        turned = turned.reshape(self.places, 1, self.width * model.num_heads, model.width)
        memory = self._states[:, None, : self._reach]
        means = functional.scaled_dot_product_attention(turned, memory, memory, attn_mask=mask, scale=1.0)
        means = means.reshape(many, model.num_heads, model.width).transpose(0, 1)
        inner = torch.bmm(means, layer.cross_v).transpose(0, 1).reshape(many, -1)
        return layer.cross_out.add_to(states, inner)


def _attention(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return attention of one query per text and head, without scaling, as T5 has none.

    Args:
        query: [B, H, d].
        keys, values: [B, H, S, d].
        bias: added to the products, [B, H, 1, S].
    Returns:
        [B, H d].
    """
    texts, heads, size = query.shape
    if values.device.type == "cpu" and values.dtype == torch.bfloat16:  # a CPU's bmm of bf16 is slow for single rows
        query = query.unsqueeze(2)
        found = functional.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=1.0)
        return found.view(texts, heads * size)
    products = torch.bmm(query.reshape(texts * heads, 1, size), keys.flatten(0, 1).transpose(1, 2))
    weights = torch.softmax(products.view_as(bias) + bias, dim=-1, dtype=torch.float32).to(values.dtype)
    return torch.bmm(weights.flatten(0, 1), values.flatten(0, 1)).view(texts, heads * size)
