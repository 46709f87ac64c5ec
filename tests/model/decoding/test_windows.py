"""Rows in windows against each row by itself: torch's softmax in float64, and transformers' encoder."""

import random

import pytest
import torch

from t5ray.model.decoding.positions import PositionBias
from t5ray.model.decoding.weights import prepare
from t5ray.model.decoding.windows import SIZES, Windows
from tests.model.decoding.models import KINDS, make
from tests.model.decoding.test_encoder import long_row, states_of, theirs

HEADS, HEAD_SIZE = 3, 8
MIXED = sorted([64, 1, 1, *(random.Random(7).randint(1, 63) for _ in range(40))], reverse=True)


def position_bias() -> PositionBias:
    table = torch.randn(32, HEADS)
    return PositionBias(table, bidirectional=True, num_buckets=32, max_distance=40)


def alone(qkv: torch.Tensor, bias: PositionBias) -> torch.Tensor:
    """Return the attention of one row's tokens, [tokens, heads d], term by term."""
    query, key, value = qkv.double().view(len(qkv), 3, HEADS, HEAD_SIZE).unbind(1)
    scores = torch.einsum("qhd,khd->hqk", query, key) + bias.square(len(qkv)).double()
    return torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), value).flatten(1).float()


@pytest.mark.parametrize("lengths", [MIXED, [128, 100, 65, 28, 3], [1]], ids=["up to 64", "up to 128", "one token"])
def test_rows_in_windows_attend_to_themselves_alone(lengths: list[int]) -> None:
    torch.manual_seed(0)
    before, bias = 5, position_bias()
    qkv = torch.randn(before + sum(lengths), 3 * HEADS * HEAD_SIZE)
    out = torch.full((len(qkv), HEADS * HEAD_SIZE), 7.0)
    Windows(before, lengths).attend(qkv, bias, HEADS, out)
    assert (out[:before] == 7.0).all()  # not its rows
    expected = [alone(row, bias) for row in torch.split(qkv[before:], lengths)]
    torch.testing.assert_close(out[before:], torch.cat(expected), rtol=1e-5, atol=1e-5)


def test_each_layer_has_its_own_bias() -> None:
    torch.manual_seed(0)
    windows, qkv = Windows(0, [9, 4]), torch.randn(13, 3 * HEADS * HEAD_SIZE)
    for bias in (position_bias(), position_bias()):
        out = torch.empty(13, HEADS * HEAD_SIZE)
        windows.attend(qkv, bias, HEADS, out)
        torch.testing.assert_close(out[:9], alone(qkv[:9], bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("lengths", "size", "number"),
    [([14] * 8, 64, 2), ([60, 30, 30, 4, 4], 64, 2), ([64, 64, 1], 64, 3), ([65, 63, 60, 60], 128, 2), ([128], 128, 1)],
)
def test_windows_are_few(lengths: list[int], size: int, number: int) -> None:
    windows = Windows(0, lengths)
    assert (windows.size, len(windows.tokens)) == (size, size * number)
    assert windows.tokens[windows.places].tolist() == list(range(sum(lengths)))


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_states_are_as_near_to_exact_ones_as_those_of_transformers(kind: str) -> None:
    longest = SIZES[-1]
    rows = [long_row(length) for length in (700, longest + 1, longest, 90, 90, 64, 33, 33, 14, 5, 2)]
    model = make(kind)
    exact = [theirs(model, row) for row in rows]
    own = states_of(prepare(model, torch.bfloat16), rows)
    rounded = [theirs(model.to(torch.bfloat16), row).float() for row in rows]
    for states, right, rough in zip(own, exact, rounded, strict=True):
        assert (states - right).square().mean() <= 2 * (rough - right).square().mean()
