"""A transformers T5, mT5 or umT5 run over packed tokens, from token ids to the summed loss.

The weights stay the transformers module's own, and linear layers are called as modules: saving, freezing, LoRA, DDP,
gradient checkpointing and FSDP see the model that they know. Only where they are plain, the head and the keys and
values of cross-attention are reached by their weights.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from t5ray.model.numeric import scales_head
from t5ray.model.packed import cpu_attention, ops
from t5ray.model.packed.layout import Layout, key_mask, layout_of
from t5ray.model.packed.loss import summed_cross_entropy
from t5ray.model.packed.ops import Scores, scores_of


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """Let a T5 also be called as `summed_loss` has it; the context must hold until its gradient is worked out.

    What spreads the model over workers wraps it as before, and other calls do what they did.
    """
    blocks = [block for stack in (model.encoder, model.decoder) for block in stack.block]
    for block in blocks:
        block.forward = MethodType(_block_forward, block)
    model.forward = MethodType(_model_forward, model)
    try:
        yield
    finally:
        for module in (model, *blocks):
            del module.forward


def summed_loss(
    forward: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Return the cross-entropy summed over target tokens.

    Args:
        forward: the model inside `packed`, or what spreads it over workers.
        input_ids: int64 [B, S].
        attention_mask: int64 [B, S], 1 at tokens.
        labels: int64 [B, T], -100 at padding.
        smoothing: share of the target probability spread over the vocabulary.
    """
    loss: torch.Tensor = forward(
        input_ids=input_ids, attention_mask=attention_mask, packed_labels=labels, smoothing=smoothing
    )
    return loss


def _model_forward(
    model: Any,
    *args: Any,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    packed_labels: torch.Tensor | None = None,
    smoothing: float = 0.0,
    **named: Any,
) -> Any:
    """Go from token ids to the summed loss, or do as transformers does where there are no `packed_labels`."""
    if packed_labels is None or input_ids is None or attention_mask is None:
        return type(model).forward(model, *args, input_ids=input_ids, attention_mask=attention_mask, **named)
    rounded: Callable[[int], int] = int
    if ops.rounds_shapes(model.shared.weight):
        rounded = ops.rounded_tokens
        input_ids = ops.rounded_width(input_ids, model.config.pad_token_id)
        attention_mask = ops.rounded_width(attention_mask, 0)
        packed_labels = ops.rounded_width(packed_labels, -100)
    sources = layout_of(attention_mask.bool(), model.config.num_heads, rounded)
    targets = layout_of(packed_labels >= 0, model.config.num_heads, rounded)
    decoder_ids = model.prepare_decoder_input_ids_from_labels(packed_labels)
    ids = torch.cat([input_ids.flatten()[sources.places], decoder_ids.flatten()[targets.places]])
    # both stacks share one table: looked up once, its gradient is made once
    embedded = model.shared(ids).split([len(sources.places), len(targets.places)])
    encoded = _encode(model.encoder, embedded[0], sources)
    decoded = _decode(model.decoder, embedded[1], encoded, targets, sources)
    if scales_head(model.config):
        decoded = decoded * model.model_dim**-0.5
    real = slice(targets.num_real)
    return summed_cross_entropy(decoded[real], model.lm_head, packed_labels.flatten()[targets.places[real]], smoothing)


def _encode(stack: Any, x: torch.Tensor, layout: Layout) -> torch.Tensor:
    mask = key_mask(layout, layout, causal=False)
    return _run(stack, x, layout, mask, (), {})


def _decode(stack: Any, x: torch.Tensor, encoded: torch.Tensor, targets: Layout, sources: Layout) -> torch.Tensor:
    mask, seen = key_mask(targets, targets, causal=True), key_mask(targets, sources, causal=False)
    if _goes_unprojected(stack, encoded, targets, sources):
        encoded, cross = (
            cpu_attention.padded(encoded, sources),
            Scores(None, None if seen is None else seen[:, 0], None),
        )
    else:
        cross = scores_of(None, seen, targets, sources, ops.product_dtype(encoded))
    return _run(stack, x, targets, mask, (encoded,), {"sources": sources, "cross": cross})


def _goes_unprojected(stack: Any, encoded: torch.Tensor, targets: Layout, sources: Layout) -> bool:
    """Say whether cross-attention can and should do without keys and values."""
    attentions = [block.layer[1].EncDecAttention for block in stack.block]
    projections = [projection for attention in attentions for projection in (attention.k, attention.v)]
    return (
        all(type(projection) is nn.Linear and ops.by_hand(projection.weight) for projection in projections)
        and ops.by_hand(encoded)
        # bf16 makes products cheap, and this way passes over more memory
        and ops.product_dtype(encoded) == torch.float32
        and cpu_attention.is_cheaper_unprojected(targets, sources, *projections[0].weight.shape)
    )


def _run(
    stack: Any, x: torch.Tensor, layout: Layout, mask: torch.Tensor | None, more: tuple[Any, ...], named: dict[str, Any]
) -> torch.Tensor:
    x = ops.dropout(x, _rate(stack.dropout))
    scores = Scores(None, mask, None)
    for block in stack.block:
        # the bias is an argument of its own, so that checkpointing and FSDP see its gradient
        x, bias, total = block(x, scores.bias, *more, layout=layout, scores=scores, **named)
        scores = Scores(bias, mask, total)
    x = ops.rms_norm(x, stack.final_layer_norm.weight, stack.final_layer_norm.variance_epsilon)
    return ops.dropout(x, _rate(stack.dropout))


def _block_forward(
    block: Any, *args: Any, layout: Layout | None = None, scores: Scores | None = None, **named: Any
) -> Any:
    """Run one block over packed tokens, or as transformers does where there is no layout.

    transformers keeps checkpoints in the `forward` that this one takes the place of.
    """
    if layout is None or scores is None:
        return type(block).forward(block, *args, **named)
    run = partial(_run_block, block, layout=layout, scores=scores, **named)
    if block.gradient_checkpointing and block.training:
        return checkpoint(run, *args, use_reentrant=False)
    return run(*args)


def _run_block(
    block: Any,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    encoded: torch.Tensor | None = None,
    *,
    layout: Layout,
    scores: Scores,
    sources: Layout | None = None,
    cross: Scores | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Run one block.

    Args:
        x: [N, D].
        bias: the position bias of the block before.
        encoded: [N of sources, D], for a decoder's block; padded [B, S, D] where keys and values are not to be made.
        scores: of the block before; its mask holds for all.
    Returns:
        x, and the bias and total scores that the next block may share.
    """
    own, attention = Scores(bias, scores.mask, scores.total), block.layer[0].SelfAttention
    if attention.has_relative_attention_bias:  # T5: the first block's holds for all; umT5: each has its own
        bias = attention.compute_bias(layout.width, layout.width, device=x.device)[0]
        own = scores_of(bias, scores.mask, layout, layout, ops.product_dtype(block.layer[0].layer_norm.weight))
    x = _attend(block.layer[0], attention, x, None, own, layout, layout)
    if encoded is not None and sources is not None and cross is not None:
        x = _attend(block.layer[1], block.layer[1].EncDecAttention, x, encoded, cross, layout, sources)
    return _feed_forward(block.layer[-1], x), own.bias, own.total


def _attend(
    layer: Any,
    attention: Any,
    x: torch.Tensor,
    encoded: torch.Tensor | None,
    scores: Scores,
    queries: Layout,
    keys: Layout,
) -> torch.Tensor:
    normed = ops.rms_norm(x, layer.layer_norm.weight, layer.layer_norm.variance_epsilon)
    q, rate = attention.q(normed), attention.dropout if attention.training else 0.0
    if encoded is not None and encoded.ndim == 3:
        weights = attention.k.weight, attention.v.weight
        mixed = cpu_attention.unprojected(q, encoded, *weights, scores.mask, queries, rate)
    else:
        seen = normed if encoded is None else encoded
        mixed = ops.attention(q, attention.k(seen), attention.v(seen), scores, queries, keys, rate)
    return ops.add_dropped(x, attention.o(mixed), _rate(layer.dropout))


def _feed_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    dense = layer.DenseReluDense
    normed = ops.rms_norm(x, layer.layer_norm.weight, layer.layer_norm.variance_epsilon)
    if hasattr(dense, "wi_0"):
        hidden, gate = dense.wi_0(normed), dense.wi_1(normed)
    else:
        hidden, gate = dense.wi(normed), None
    active = ops.activate(dense.act, _kind(dense.act), hidden, gate, _rate(dense.dropout))
    if isinstance(dense.wo, nn.Linear):  # transformers keeps this one in fp32 in a bf16 model
        active = active.to(ops.product_dtype(dense.wo.weight))
    return ops.add_dropped(x, dense.wo(active), _rate(layer.dropout))


def _kind(act: nn.Module) -> str:
    return {"NewGELUActivation": "gelu_new", "GELUActivation": "gelu", "ReLU": "relu"}.get(type(act).__name__, "")


def _rate(dropout: nn.Dropout) -> float:
    return dropout.p if dropout.training else 0.0
