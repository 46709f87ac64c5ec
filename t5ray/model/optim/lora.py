"""Low-rank adapters in place of full fine-tuning. Home of peft.

Each chosen matrix W becomes W + alpha / rank * B A, of which only A and B are trained; what is judged and kept is a
plain T5 with the sum as its matrix. Source: Hu et al. 2021, LoRA.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from t5ray.config import TrainingConfig

ADAPTER = "t5ray"
TARGETS = {
    "qv": ["q", "v"],
    "attention": ["q", "k", "v", "o"],
    "feed_forward": ["wi", "wi_0", "wi_1", "wo"],
    "all": ["q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"],
}


@contextmanager
def adapted(model: nn.Module, config: TrainingConfig) -> Iterator[None]:
    """Put adapters into a T5 and freeze the rest; at the end they are gone and everything can be trained again.

    Does nothing where `lora_rank` is 0. Matrices A are drawn from torch's generator, B starts at 0.
    """
    if not config.lora_rank:
        yield
        return
    import peft  # seconds, and only here

    settings = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=TARGETS[config.lora_targets],
    )
    try:
        peft.inject_adapter_in_model(settings, model, adapter_name=ADAPTER)
        yield
    finally:
        for parent, name, layer in list(_adapters(model)):
            setattr(parent, name, layer.base_layer)
        model.__dict__.pop("peft_config", None)
        model.requires_grad_(True)


@contextmanager
@torch.no_grad()
def merged(model: nn.Module) -> Iterator[None]:
    """Show a model with adapters as the plain T5 that it amounts to; afterwards all is as it was, bit by bit."""
    found = list(_adapters(model))
    for parent, name, layer in found:
        setattr(parent, name, _plain(layer))
    try:
        yield
    finally:
        for parent, name, layer in found:
            setattr(parent, name, layer)


def merged_weights(weights: Mapping[str, torch.Tensor], config: TrainingConfig) -> dict[str, torch.Tensor]:
    """Return named weights with adapters added to their matrices, under the names of a plain T5."""
    plain: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        if ".base_layer." in name:
            low, high = (weights[name.replace("base_layer", f"lora_{x}.{ADAPTER}")] for x in "AB")
            plain[name.replace(".base_layer", "")] = weight + config.lora_alpha / config.lora_rank * high @ low
        elif ".lora_" not in name:
            plain[name] = weight
    return plain


def _plain(layer: Any) -> nn.Linear:
    base = layer.base_layer
    plain = nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
    weight = base.weight + layer.get_delta_weight(ADAPTER).to(base.weight.dtype)
    plain.weight = nn.Parameter(weight, requires_grad=False)
    return plain.eval()


def _adapters(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """Yield each adapter with its parent and its name there."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if hasattr(child, "lora_A") and hasattr(child, "base_layer"):
                yield parent, name, child
