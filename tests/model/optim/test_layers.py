"""Which parameters decay less, or are frozen, on a T5 of two blocks a stack."""

from typing import Any

import pytest
import torch
from transformers import T5ForConditionalGeneration

from t5ray.config import TrainingConfig
from t5ray.model.optim import build_optimizer, frozen, set_learning_rate
from t5ray.model.optim.layers import depth_below_top, num_blocks
from tests.tiny import tiny_config


@pytest.fixture
def model() -> T5ForConditionalGeneration:
    made = T5ForConditionalGeneration(tiny_config(tied=False))
    made.lm_head.weight = torch.nn.Parameter(made.lm_head.weight.detach().clone())  # as flan-T5 loads
    return made


def trained(model: torch.nn.Module, **settings: Any) -> set[str]:
    """First words of the names of what is trained: `encoder.block.0`, `shared`, `lm_head`..."""
    with frozen(model, TrainingConfig.model_validate(settings)):
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {".".join(name.split(".")[:3]).removesuffix(".weight") for name in names}


EVERYTHING = {
    "shared", "lm_head", "encoder.block.0", "encoder.block.1", "encoder.final_layer_norm",
    "decoder.block.0", "decoder.block.1", "decoder.final_layer_norm",
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, set()),
        ({"freeze_embeddings": True}, {"shared"}),
        ({"freeze_encoder": True}, {"encoder.block.0", "encoder.block.1", "encoder.final_layer_norm"}),
        ({"freeze_layers": 1}, {"encoder.block.0", "decoder.block.0"}),
        ({"freeze_layers": 1, "freeze_embeddings": True}, {"shared", "encoder.block.0", "decoder.block.0"}),
    ],
)
def test_what_is_frozen(model: T5ForConditionalGeneration, settings: dict[str, Any], kept: set[str]) -> None:
    assert trained(model, **settings) == EVERYTHING - kept
    assert all(parameter.requires_grad for parameter in model.parameters())  # nothing is left behind


def test_more_blocks_than_there_are_cannot_be_frozen(model: T5ForConditionalGeneration) -> None:
    with pytest.raises(ValueError, match=r"`freeze_layers <= 2` must hold for this model, but got 3"):
        trained(model, freeze_layers=3)


def test_the_learning_rate_falls_from_block_to_block(model: T5ForConditionalGeneration) -> None:
    """By hand, factor 0.5: top blocks, head and final norms 1, bottom blocks 1/2, embeddings 1/4."""
    built = build_optimizer(model, TrainingConfig(layer_decay=0.5))
    set_learning_rate(built, 0.8)
    rate = {id(p): group["lr"] for group in built.param_groups for p in group["params"]}
    expected = {"shared": 0.2, "lm_head": 0.8, "final_layer_norm": 0.8, "block.0": 0.4, "block.1": 0.8}
    for name, parameter in model.named_parameters():
        (wanted,) = [value for part, value in expected.items() if part in name]
        assert rate[id(parameter)] == pytest.approx(wanted), name


def test_depth_counts_blocks_from_the_top() -> None:
    blocks = {"encoder": 12, "decoder": 12}
    names = {"decoder.block.11.layer.0.layer_norm.weight": 0, "encoder.block.0.layer.0.layer_norm.weight": 11}
    names |= {"shared.weight": 12, "lm_head.weight": 0, "encoder.final_layer_norm.weight": 0}
    assert {name: depth_below_top(name, blocks) for name in names} == names


def test_blocks_are_counted(model: T5ForConditionalGeneration) -> None:
    assert num_blocks(model) == {"encoder": 2, "decoder": 2}
