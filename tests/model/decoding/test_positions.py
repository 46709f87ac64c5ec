"""The position bias: buckets are transformers' own, and threads that share a table do not shorten it for each other."""

from typing import Any

import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from t5ray.model.decoding.positions import PositionBias, buckets


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_are_transformers_own(bidirectional: bool) -> None:
    distances = torch.arange(-700, 701)
    expected = T5Attention._relative_position_bucket(
        distances, bidirectional=bidirectional, num_buckets=32, max_distance=128
    )
    found = buckets(distances, bidirectional=bidirectional, num_buckets=32, max_distance=128)
    assert found.tolist() == expected.tolist()


def make(kind: type[PositionBias] = PositionBias) -> PositionBias:
    table = torch.arange(32 * 2, dtype=torch.float32).view(32, 2)
    return kind(table, bidirectional=False, num_buckets=32, max_distance=128)


@pytest.mark.parametrize("length", [1, 2, 64, 65, 513])
def test_each_place_has_the_bias_of_its_distances_bucket(length: int) -> None:
    table = torch.randn(32, 2, generator=torch.Generator().manual_seed(length))
    bias = PositionBias(table, bidirectional=True, num_buckets=32, max_distance=128)
    places = torch.arange(length)
    found = T5Attention._relative_position_bucket(
        places - places[:, None], bidirectional=True, num_buckets=32, max_distance=128
    )
    expected = table[found].permute(2, 0, 1)
    assert torch.equal(bias.square(length), expected)
    assert torch.equal(bias.backwards(length), expected.flip(1))


@pytest.mark.parametrize("width", [1, 64, 65, 513])
def test_a_token_sees_those_before_it_and_no_later_one(width: int) -> None:
    positions = torch.tensor([0, width // 2, width - 1])
    distances = torch.arange(width) - positions[:, None]
    buckets = T5Attention._relative_position_bucket(distances, bidirectional=False, num_buckets=32, max_distance=128)
    table = torch.arange(32 * 2, dtype=torch.float32).view(32, 2)
    expected = table[buckets].masked_fill(distances[:, :, None] > 0, -torch.inf).permute(0, 2, 1)
    assert torch.equal(make().causal(positions, width), expected[:, :, None])


class Raced(PositionBias):
    """Another thread stores a table for shorter texts right after each of ours."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in {"_by_distance", "_known", "_causal"} and value.dim() > 1:
            short = make()
            short.square(10)
            short.causal(torch.tensor([3]), 10)
            super().__setattr__(name, getattr(short, name))


class Watched(PositionBias):
    """Another thread reads each table at the moment at which it is stored."""

    seen: torch.Tensor

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "_causal" and value.dim() > 1:
            super().__setattr__("seen", self.causal(torch.tensor([3, 9]), 10))


def test_no_thread_reads_a_table_that_is_not_whole() -> None:
    watched, positions = make(Watched), torch.tensor([3, 9])
    assert isinstance(watched, Watched)
    watched.causal(positions, 10)
    assert torch.equal(watched.seen, make().causal(positions, 10))


def test_a_shorter_table_of_another_thread_is_no_harm() -> None:
    raced, alone, positions = make(Raced), make(), torch.tensor([99, 0])
    assert torch.equal(raced.square(100), alone.square(100))
    assert torch.equal(raced.causal(positions, 100), alone.causal(positions, 100))
