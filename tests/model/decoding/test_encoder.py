"""The encoder's states against transformers': rows whose keys reach into others, and rows whose bias is no square."""

from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from t5ray.model.decoding import encoder
from t5ray.model.decoding.encoder import encode
from t5ray.model.decoding.weights import T5Weights, prepare
from tests.model.decoding.models import KINDS, make, token_rows


def long_row(length: int) -> list[int]:
    return [3 + place * place % 60 for place in range(length - 1)] + [1]


@torch.inference_mode()
def states_of(weights: T5Weights, rows: list[list[int]]) -> list[torch.Tensor]:
    found = list[torch.Tensor]()
    for part in encode(weights, rows):
        for start, length in zip(part.starts.tolist(), part.lengths.tolist(), strict=True):
            found.append(part.states[start : start + length].float())
    return found


@torch.inference_mode()
def theirs(model: Any, row: list[int]) -> torch.Tensor:
    found: torch.Tensor = model.encoder(input_ids=torch.tensor([row])).last_hidden_state[0]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_long_rows_are_those_of_transformers(kind: str) -> None:
    model, rows = make(kind), [long_row(700), long_row(513), long_row(513)[::-1], long_row(512), long_row(9)]
    for own, row in zip(states_of(prepare(model), rows), rows, strict=True):
        torch.testing.assert_close(own, theirs(model, row), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_are_the_same_whether_the_square_is_kept_or_not(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "REACHING_TOKENS", 0)
    weights, rows = prepare(make("umt5"), dtype), [long_row(400), *token_rows()]
    kept = states_of(weights, rows)
    monkeypatch.setattr(encoder, "KEPT_LENGTH", 0)
    close = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(states_of(weights, rows), kept, rtol=close, atol=close)


SHORT = [40, 33, 33, 32, 31, 31, 31, 17, 16, 15, 15, 14, 2, 1]
CHUNKS = {
    "many lengths": SHORT,
    "one length": [14] * 9,
    "one row": [14],
    "none can reach on": [10, 3],
    "multiples of 16": [48, 32, 16],
    "over many rows": [3] * 9 + [1] * 20,
    "the longest that reach": [255, 250, 241, 20],
}


@pytest.mark.parametrize("lengths", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("kind", KINDS)
def test_states_of_short_rows_are_those_of_transformers(kind: str, lengths: list[int]) -> None:
    model = make(kind)
    rows = [[(token + place) % 60 + 2 for token in long_row(length)] for place, length in enumerate(lengths)]
    for own, row in zip(states_of(prepare(model), rows), rows, strict=True):
        torch.testing.assert_close(own, theirs(model, row), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_padded_rows_give_what_those_of_one_length_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout of GPUs, on a CPU."""
    model, rows = make("t5-gated"), [long_row(length) for length in SHORT]
    weights = prepare(model)
    monkeypatch.setattr(encoder, "_on_cpu", partial(encoder._padded, weights))
    for own, row in zip(states_of(weights, rows), rows, strict=True):
        torch.testing.assert_close(own, theirs(model, row), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_states_are_as_near_to_exact_ones_as_those_of_transformers(kind: str) -> None:
    model, rows = make(kind), [long_row(length) for length in (600, 257, 256, 100, *SHORT)]
    exact = [theirs(model, row) for row in rows]
    own = states_of(prepare(model, torch.bfloat16), rows)
    rounded = [theirs(model.to(torch.bfloat16), row).float() for row in rows]
    for states, right, rough in zip(own, exact, rounded, strict=True):
        assert (states - right).square().mean() <= 2 * (rough - right).square().mean()


@pytest.mark.parametrize(
    ("lengths", "reaches"),
    [
        ([40, 14, 14, 3, 3, 3], [(1, 48), (2, 16), (3, 3)]),
        ([14] * 9, [(8, 16), (1, 14)]),
        ([3] * 9, [(4, 16), (5, 3)]),
        ([300, 300, 256, 16], [(2, 300), (1, 256), (1, 16)]),
    ],
)
def test_keys_reach_to_a_multiple_of_16_where_tokens_follow(lengths: list[int], reaches: list[tuple[int, int]]) -> None:
    _, starts, groups = encoder._on_cpu([[3] * length for length in lengths])
    assert starts.tolist() == [sum(lengths[:row]) for row in range(len(lengths))]
    assert [(group.rows, group.reach) for group in groups] == reaches


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the largest tensor that anything makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        sizes = [leaf.untyped_storage().nbytes() for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]
        self.size_bytes = max(self.size_bytes, *sizes, 0)
        return found


def test_no_tensor_grows_with_the_square_of_a_long_row() -> None:
    weights, length = prepare(make("umt5")), 3000
    with Largest() as seen:
        states_of(weights, [long_row(length)])
    assert length * 64 * 4 <= seen.size_bytes < length * length
