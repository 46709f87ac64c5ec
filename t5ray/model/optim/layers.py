"""Which parameter of a T5 is what, told by its name: its block, whether it decays, whether it is frozen."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from t5ray.config import TrainingConfig

BLOCK = re.compile(r"(?:^|\.)(encoder|decoder)\.block\.(\d+)\.")
EMBEDDINGS = re.compile(r"(?:^|\.)(shared|embed_tokens)\.")
UNDECAYED = re.compile(r"bias|norm")


def decays(name: str) -> bool:
    """Say whether weight decay applies: not to norms and biases, `relative_attention_bias` among them.

    Source: transformers' `Trainer.get_decay_parameter_names`.
    """
    return UNDECAYED.search(name) is None


def num_blocks(model: nn.Module) -> dict[str, int]:
    """Return the number of blocks of the encoder and of the decoder."""
    found = [match for name, _ in model.named_parameters() if (match := BLOCK.search(name))]
    return {stack: max((int(m[2]) + 1 for m in found if m[1] == stack), default=0) for stack in ("encoder", "decoder")}


def depth_below_top(name: str, blocks: dict[str, int]) -> int:
    """Return how many blocks of its stack lie above a parameter; embeddings lie below all of them.

    Example:
        12 blocks each -> decoder.block.11: 0, encoder.block.0: 11, shared: 12, lm_head and final norms: 0
    """
    if match := BLOCK.search(name):
        return blocks[match[1]] - 1 - int(match[2])
    return max(blocks.values()) if EMBEDDINGS.search(name) else 0


def is_frozen(name: str, config: TrainingConfig) -> bool:
    """Say whether the settings keep a parameter as it is."""
    if EMBEDDINGS.search(name):
        return config.freeze_embeddings
    match = BLOCK.search(name)
    if config.freeze_encoder and (name.startswith("encoder.") or ".encoder." in name):
        return True
    return match is not None and int(match[2]) < config.freeze_layers


@contextmanager
def frozen(model: nn.Module, config: TrainingConfig) -> Iterator[None]:
    """Freeze what the settings say; at the end everything can be trained again.

    Raises:
        ValueError: nothing is left to train, or the model has fewer blocks than are to be frozen.
    """
    most = max(num_blocks(model).values())
    if config.freeze_layers > most:
        raise ValueError(f"`freeze_layers <= {most}` must hold for this model, but got {config.freeze_layers}")
    try:
        for name, parameter in model.named_parameters():
            if is_frozen(name, config):
                parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError("some parameter must be trained, but the freeze_ settings leave none")
        yield
    finally:
        model.requires_grad_(True)
