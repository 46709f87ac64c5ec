"""Attention to states in places, whoever stands beside whom, against a softmax in float64 place by place."""

import pytest
import torch

from t5ray.model.decoding import places
from t5ray.model.decoding.places import PAIR_TOKENS, group

WIDTH, LONGEST = 16, 60


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("reaches", "budget", "lots"),
    [
        ([9, 7, 3, 30, 5], LONGEST * 5, [(2, 60), (1, 30)]),
        ([9, 7], LONGEST, [(1, 18)]),
        ([PAIR_TOKENS, 2], LONGEST * 5, [(1, 2 * PAIR_TOKENS)]),
        ([PAIR_TOKENS + 1, 2], LONGEST * 5, [(2, PAIR_TOKENS + 1)]),
        ([60, 30, 9, 9, 1], 60, [(1, 60), (1, 60), (1, 18)]),
        ([4], LONGEST, [(1, 4)]),
    ],
)
def test_each_place_sees_its_own_states(
    reaches: list[int], budget: int, lots: list[tuple[int, int]], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "GROUP_NUMBERS", budget * WIDTH)
    torch.manual_seed(0)
    states = torch.randn(len(reaches), LONGEST, WIDTH, dtype=dtype)
    is_open = torch.arange(LONGEST) < torch.tensor(reaches)[:, None]
    mask = torch.where(is_open, 0.0, torch.finfo(dtype).min).to(dtype)
    queries = torch.randn(len(reaches), 6, WIDTH, dtype=dtype)
    groups = group(states, mask, reaches, 6)
    assert [(len(part.states), part.states.shape[2]) for part in groups] == lots
    found = torch.cat([part.attend(queries) for part in groups]).view(queries.shape)
    for place, reach in enumerate(reaches):
        own = states[place, :reach].double()
        expected = (queries[place].double() @ own.t()).softmax(dim=-1) @ own
        close = 1e-5 if dtype == torch.float32 else 3e-2
        torch.testing.assert_close(found[place].double(), expected, rtol=close, atol=close)
