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
from t5ray.model.decoding.places import PlaceGroup, group
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
        self.width, self._capacity = width, capacity
        self.ages = torch.zeros(places * width, dtype=torch.int64, device=model.device)
        """Tokens that each text has had, int64 [B]."""
        self.oldest = 0
        """Tokens of the text that has had most."""
        self._sum = torch.zeros((), device=model.device)  # of all states that were ever returned
        self._lengths = torch.ones(places, dtype=torch.int64, device=model.device)
        self._states = torch.zeros(places, longest, model.width, dtype=model.dtype, device=model.device)
        # Products with the states of an empty place must stay finite: its first position is open.
        self._mask = torch.full((places, longest), torch.finfo(model.dtype).min, dtype=model.dtype, device=model.device)
        self._mask[:, 0] = 0.0
        self._groups: list[PlaceGroup] | None = None  # made once they are attended to
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

    @property
    def longest(self) -> int:
        """Tokens of the longest input that there is room for."""
        return self._states.shape[1]

    @property
    def is_finite(self) -> bool:
        """Whether every state so far was a number, also of what was selected from this one."""
        return bool(self._sum.isfinite())

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
        self._groups = None
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
        if self._groups is None:
            reaches = self._lengths.tolist()
            self._groups = group(self._states, self._mask, reaches, self.width * model.num_heads)
        if self.oldest == self._own[0].shape[1]:
            for number, cache in enumerate(self._own):  # one after the other, so that few are there twice
                self._own[number] = self._grown(cache)
        states = functional.embedding(tokens, model.embeddings).float()
        newest = torch.arange(len(tokens), device=model.device) * self._own[0].shape[1] + self.ages
        biases: dict[int, torch.Tensor] = {}
        for layer, own in zip(model.decoder, self._own, strict=True):
            if id(layer.bias) not in biases:
                bias = layer.bias.causal(self.ages, self.oldest + 1)
                biases[id(layer.bias)] = bias if model.device.type == "cpu" else bias.to(model.dtype)
            states = self._attend_self(states, layer, own, newest, biases[id(layer.bias)])
            states = self._attend_cross(states, layer, self._groups)
            states = feed_forward(states, layer.feed_forward, model)
        self.ages += 1
        self.oldest += 1
        out = norm(states, model.decoder_norm, model)
        self._sum += out.sum()
        return out if model.head_scale == 1.0 else out * model.head_scale

    def keep(self, texts: torch.Tensor) -> None:
        """Give up all places but some, int64 [B'], each in its place or in an earlier one's; for W = 1."""
        count = len(texts)
        moved = (texts != torch.arange(count, device=texts.device)).nonzero()[:, 0]
        sources = texts[moved]
        for tensor in (self.ages, self._lengths, self._states, self._mask):
            tensor[moved] = tensor[sources]
        for cache in self._own:
            cache[moved, : self.oldest] = cache[sources, : self.oldest]
        self.ages, self._lengths = self.ages[:count], self._lengths[:count]
        self._states, self._mask = self._states[:count], self._mask[:count]
        self._own = [cache[:count] for cache in self._own]
        self.oldest, self._groups = int(self.ages.max()), None

    def select(
        self, texts: torch.Tensor, places: torch.Tensor | None = None, inputs: "Decoder | None" = None
    ) -> "Decoder":
        """Return the state of some texts, int64 [B'], in their order; a text may come several times.

        Args:
            places: the places whose states they read, int64 [R']. None: each text its own, for W = 1.
            inputs: whose places these are. None: this decoder's.
        """
        places, inputs = texts if places is None else places, inputs or self
        self._groups = None  # most that are selected from take no step any more
        chosen = Decoder.__new__(Decoder)
        chosen.model, chosen.width, chosen._capacity = self.model, self.width, self._capacity
        chosen._sum = self._sum
        chosen.ages, chosen.oldest = self.ages[texts], self.oldest
        chosen._lengths = inputs._lengths[places]
        longest = int(chosen._lengths.max())
        chosen._states, chosen._mask = inputs._states[places, :longest], inputs._mask[places, :longest]
        chosen._groups = None
        chosen._own = []
        for cache in self._own:
            found = cache.new_zeros(len(texts), *cache.shape[1:])
            found[:, : self.oldest] = cache[texts, : self.oldest]
            chosen._own.append(found)
        return chosen

    def release(self) -> None:
        """Let the encoder's states go; there is no step after this one."""
        self._states, self._mask, self._groups = self._states[:0].clone(), self._mask[:0].clone(), None

    def reorder(self, texts: torch.Tensor) -> None:
        """Let texts go on from one another, int64 [B], within their places."""
        for cache in self._own:
            cache[:, : self.oldest] = cache[texts, : self.oldest]

    def _new_cache(self, tokens: int) -> torch.Tensor:
        """Return room for keys and values, [B, tokens, 2, H, d]; zeros, as what is closed must stay finite."""
        model = self.model
        shape = (len(self.ages), tokens, 2, model.num_heads, model.head_size)
        return torch.zeros(shape, dtype=model.dtype, device=model.device)

    def _grown(self, cache: torch.Tensor) -> torch.Tensor:
        tokens = cache.shape[1]
        found = self._new_cache(min(2 * tokens, max(self._capacity, tokens + 1)))
        found[:, :tokens] = cache
        return found

    def _attend_self(
        self,
        states: torch.Tensor,
        layer: DecoderLayer,
        cache: torch.Tensor,
        newest: torch.Tensor,
        bias: torch.Tensor,
    ) -> torch.Tensor:
        """Add attention to a text's own tokens.

        Args:
            newest: where in the flat cache each text's newest token belongs, int64 [B].
            bias: [B, H, 1, S] for the first S tokens; fp32 on a CPU.
        """
        model, texts = self.model, len(states)
        qkv = layer.qkv(norm(states, layer.norm, model))
        query, new = qkv.tensor_split((model.num_heads * model.head_size,), dim=1)
        cache.view(-1, new.shape[1]).index_copy_(0, newest, new)
        if self.oldest == 0:  # a first token sees itself alone
            return layer.out.add_to(states, new.chunk(2, dim=1)[1])
        keys, values = cache[:, : bias.shape[-1]].permute(2, 0, 3, 1, 4)
        query = query.view(texts, model.num_heads, 1, model.head_size)
        inner = functional.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=1.0)
        return layer.out.add_to(states, inner.view(texts, -1))

    def _attend_cross(self, states: torch.Tensor, layer: DecoderLayer, groups: list[PlaceGroup]) -> torch.Tensor:
        model, texts = self.model, len(states)
        query = layer.cross_q(norm(states, layer.cross_norm, model)).view(texts, model.num_heads, model.head_size)
        turned = torch.bmm(query.transpose(0, 1), layer.cross_k).view(model.num_heads, self.places, self.width, -1)
        turned = turned.permute(1, 2, 0, 3).reshape(self.places, self.width * model.num_heads, model.width)
        parts = [part.attend(turned) for part in groups]
        means = (parts[0] if len(parts) == 1 else torch.cat(parts)).view(texts, model.num_heads, model.width)
        inner = torch.bmm(means.transpose(0, 1), layer.cross_v).transpose(0, 1).reshape(texts, -1)
        return layer.cross_out.add_to(states, inner)
