"""Tiny models of every kind in the T5 family, and inputs, that the decoding tests share."""

from typing import Any

import pytest
import torch
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from t5ray.model.decoding import decoder as decoding
from t5ray.model.decoding import places as attention
from t5ray.model.decoding.decoder import Decoder
from t5ray.model.decoding.encoder import encode
from t5ray.model.decoding.weights import T5Weights
from tests.tiny import CHARACTERS, character_tokenizer

GROUPINGS = {
    "each place alone": (1, 0),
    "one group": (attention.GROUP_NUMBERS, 0),
    "pairs": (attention.GROUP_NUMBERS, 64),
}
"""How places are attended to -> GROUP_NUMBERS and PAIR_TOKENS."""
KINDS = ("t5", "t5-untied", "t5-gated", "t5-gated-untied", "mt5", "umt5")
CAP = 14

TEXTS = [
    "the quick brown fox jumps over the lazy dog, twice",
    "a tale of two cities",
    "42 is the answer",
    "it was the age!",
    "zz top",
    "b",
    "",
]
"""Sorted by length, as the encoder wants them; two are of one length."""


def make(kind: str, *, seed: int = 0) -> PreTrainedModel:
    """Return a tiny model of random weights, spread so that its outputs vary in text and length."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": len(CHARACTERS) + 3,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "relative_attention_max_distance": 20,
        "feed_forward_proj": "gated-gelu" if "gated" in kind or "mt5" in kind else "relu",
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    if kind == "mt5":
        model = MT5ForConditionalGeneration(MT5Config(**sizes))
    elif kind == "umt5":
        model = UMT5ForConditionalGeneration(UMT5Config(**sizes))
    else:
        model = T5ForConditionalGeneration(T5Config(**sizes, tie_word_embeddings="untied" not in kind))
    if "untied" in kind or kind == "mt5":
        model.lm_head.weight = torch.nn.Parameter(0.05 * torch.randn_like(model.lm_head.weight))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
        model.lm_head.weight[1] *= 1.5  # texts end, at different lengths
    return model.eval()


def token_rows() -> list[list[int]]:
    """Return the texts as tokens, longest first."""
    return list(character_tokenizer()(TEXTS).input_ids)


def padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """Return what transformers takes."""
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [0] * (width - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
    }


def decoder_over(weights: T5Weights, rows: list[list[int]], *, width: int = 1) -> Decoder:
    """Return a fresh decoder over some rows."""
    return Decoder.over(weights, encode(weights, rows), CAP, width=width)


def until_end(row: list[int]) -> list[int]:
    """Return a row's tokens up to its end of sequence, included."""
    return row[: row.index(1) + 1] if 1 in row else row


def regroup(patch: pytest.MonkeyPatch, grouping: str) -> list[int]:
    """Have places attended to in one of the groupings; return a list that gets the pairs of each group."""
    pairs = list[int]()

    def noted(*args: Any) -> list[attention.PlaceGroup]:
        found = group(*args)
        pairs.extend(part.places.stop - part.places.start - len(part.states) for part in found)
        return found

    group = attention.group
    numbers, tokens = GROUPINGS[grouping]
    patch.setattr(attention, "GROUP_NUMBERS", numbers)
    patch.setattr(attention, "PAIR_TOKENS", tokens)
    patch.setattr(decoding, "group", noted)
    return pairs
