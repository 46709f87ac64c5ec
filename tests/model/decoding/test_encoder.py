"""The encoder's states against transformers', for rows too long to have their position bias kept as a square."""

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
    weights, rows = prepare(make("umt5"), dtype), [long_row(400), *token_rows()]
    kept = states_of(weights, rows)
    monkeypatch.setattr(encoder, "KEPT_LENGTH", 0)
    close = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(states_of(weights, rows), kept, rtol=close, atol=close)


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
