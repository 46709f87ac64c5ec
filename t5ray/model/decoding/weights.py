"""A T5's matrices as scoring wants them: query, key and value in one product, activations part of theirs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from t5ray.model.decoding.linear import Linear
from t5ray.model.decoding.positions import PositionBias
from t5ray.model.numeric import scales_head


@dataclass(frozen=True)
class FeedForward:
    """Weights of one feed-forward part."""

    norm: torch.Tensor
    wi: Linear
    """D to F, activated."""
    gate: Linear | None
    """D to F, multiplied with what is activated; None where there is no such gate."""
    wo: Linear
    """F to D."""

    @property
    def num_weights(self) -> int:
        """Numbers in the matrices."""
        return sum(matrix.num_weights for matrix in (self.wi, self.gate, self.wo) if matrix is not None)


@dataclass(frozen=True)
class EncoderLayer:
    """Weights of one encoder layer; H heads of d numbers each."""

    norm: torch.Tensor
    qkv: Linear
    """D to 3 H d."""
    out: Linear
    """H d to D."""
    bias: PositionBias
    feed_forward: FeedForward


@dataclass(frozen=True)
class DecoderLayer:
    """Weights of one decoder layer: self-attention, attention over the encoder's states, feed-forward."""

    norm: torch.Tensor
    qkv: Linear
    out: Linear
    bias: PositionBias
    cross_norm: torch.Tensor
    cross_q: Linear
    """D to H d."""
    cross_k: torch.Tensor
    """Each head's keys, turned to be multiplied with its query instead of with the encoder's states, [H, d, D]."""
    cross_v: torch.Tensor
    """Each head's values, to be multiplied with its weighted mean of the encoder's states, [H, D, d]."""
    cross_out: Linear
    feed_forward: FeedForward


@dataclass(frozen=True)
class T5Weights:
    """All of a T5 that scoring needs. A snapshot: make it again once the model was trained on."""

    embeddings: torch.Tensor
    """[V, D]"""
    encoder: Sequence[EncoderLayer]
    encoder_norm: torch.Tensor
    decoder: Sequence[DecoderLayer]
    decoder_norm: torch.Tensor
    head: torch.Tensor
    """[V, D]"""
    head_scale: float
    """Factor on the decoder's states before the head: d_model ** -0.5 where T5 ties head and embeddings, else 1."""
    num_heads: int
    head_size: int
    eps: torch.Tensor
    """What norms add to a mean of squares: a number, which `torch.addcmul` wants as a tensor; on the CPU."""
    start_id: int
    pad_id: int
    eos_id: int

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embeddings.device

    @property
    def width(self) -> int:
        """D."""
        return self.embeddings.shape[1]

    @property
    def step_numbers(self) -> int:
        """Numbers in the matrices that a decoder's step multiplies with."""
        layer = self.decoder[0]
        matrices = (layer.qkv, layer.out, layer.cross_q, layer.cross_out, layer.feed_forward)
        return self.head.numel() + len(self.decoder) * sum(matrix.num_weights for matrix in matrices)

    @property
    def dtype(self) -> torch.dtype:
        """What matrix products compute with."""
        return self.encoder[0].qkv.dtype


@torch.no_grad()
def prepare(model: PreTrainedModel, dtype: torch.dtype = torch.float32) -> T5Weights:
    """Lay out the weights of a transformers T5, mT5 or UMT5.

    Args:
        dtype: of matrix products. Norms, position biases and residual sums stay in fp32.
    """
    config: Any = model.config
    act = config.dense_act_fn
    return T5Weights(
        embeddings=model.shared.weight.detach(),
        encoder=[_encoder_layer(*parts, act, dtype) for parts in _layers(model.encoder.block)],
        encoder_norm=model.encoder.final_layer_norm.weight.detach().float(),
        decoder=[_decoder_layer(*parts, act, dtype) for parts in _layers(model.decoder.block)],
        decoder_norm=model.decoder.final_layer_norm.weight.detach().float(),
        head=model.lm_head.weight.detach().to(dtype),
        head_scale=config.d_model**-0.5 if scales_head(config) else 1.0,
        num_heads=config.num_heads,
        head_size=config.d_kv,
        eps=torch.tensor(config.layer_norm_epsilon, dtype=torch.float32, device="cpu"),
        start_id=config.decoder_start_token_id,
        pad_id=config.pad_token_id,
        eos_id=config.eos_token_id,
    )


def _joined(dtype: torch.dtype, *linears: Any) -> Linear:
    """Return several linear layers of the same inputs as one, whose outputs stand side by side."""
    return Linear(torch.cat([_weight(linear) for linear in linears]).to(dtype))


def _weight(linear: Any) -> torch.Tensor:
    """Return a layer's matrix [out, in], with what adapters add that are not merged into it."""
    weight: torch.Tensor = linear.weight.detach()
    if hasattr(linear, "get_delta_weight") and not linear.merged:
        for name in linear.active_adapters:
            weight = weight + linear.get_delta_weight(name).detach()
    return weight


def _by_head(linear: Any, heads: int, dtype: torch.dtype) -> torch.Tensor:
    """Return a layer's matrix as [heads, out / heads, in]."""
    weight = _weight(linear).to(dtype)
    return weight.view(heads, -1, weight.shape[1]).contiguous()


def _layers(blocks: Any) -> Iterator[tuple[Any, PositionBias]]:
    """Yield each layer with its position bias: UMT5 has one each, the others share the first layer's."""
    bias = None
    for block in blocks:
        attention = block.layer[0].SelfAttention
        if attention.has_relative_attention_bias or bias is None:
            bias = _bias(attention)
        yield block, bias


def _bias(attention: Any) -> PositionBias:
    return PositionBias(
        attention.relative_attention_bias.weight.detach().float(),
        bidirectional=not attention.is_decoder,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )


def _feed_forward(layer: Any, act: str, dtype: torch.dtype) -> FeedForward:
    dense = layer.DenseReluDense
    is_gated = hasattr(dense, "wi_0")
    return FeedForward(
        norm=layer.layer_norm.weight.detach().float(),
        wi=Linear(_weight(dense.wi_0 if is_gated else dense.wi).to(dtype), activation=act),
        gate=_joined(dtype, dense.wi_1) if is_gated else None,
        wo=_joined(dtype, dense.wo),
    )


def _encoder_layer(block: Any, bias: PositionBias, act: str, dtype: torch.dtype) -> EncoderLayer:
    attention, feed_forward = block.layer
    own = attention.SelfAttention
    return EncoderLayer(
        norm=attention.layer_norm.weight.detach().float(),
        qkv=_joined(dtype, own.q, own.k, own.v),
        out=_joined(dtype, own.o),
        bias=bias,
        feed_forward=_feed_forward(feed_forward, act, dtype),
    )


def _decoder_layer(block: Any, bias: PositionBias, act: str, dtype: torch.dtype) -> DecoderLayer:
    attention, cross, feed_forward = block.layer
    own, other = attention.SelfAttention, cross.EncDecAttention
    return DecoderLayer(
        norm=attention.layer_norm.weight.detach().float(),
        qkv=_joined(dtype, own.q, own.k, own.v),
        out=_joined(dtype, own.o),
        bias=bias,
        cross_norm=cross.layer_norm.weight.detach().float(),
        cross_q=_joined(dtype, other.q),
        cross_k=_by_head(other.k, other.n_heads, dtype),
        cross_v=_by_head(other.v, other.n_heads, dtype).transpose(1, 2).contiguous(),
        cross_out=_joined(dtype, other.o),
        feed_forward=_feed_forward(feed_forward, act, dtype),
    )
