"""Products with a matrix in oneDNN's blocks are those with the plain one."""

from collections.abc import Sequence

import pytest
import torch

from t5ray.config import DecodeConfig
from t5ray.model.decoding import linear
from t5ray.model.decoding.linear import Linear, takes_blocks
from t5ray.model.predictor import Predictor
from tests.model.decoding.models import make, token_rows
from tests.tiny import character_tokenizer

needs_blocks = pytest.mark.skipif(
    not takes_blocks(torch.zeros(1, 1, dtype=torch.bfloat16)), reason="oneDNN takes no bf16 on this CPU"
)


@needs_blocks
@pytest.mark.parametrize("shape", [(64, 32), (17, 33), (1, 5), (2048, 512)])
@pytest.mark.parametrize("rows", [1, 3, 64, 300])
def test_a_product_in_blocks_is_that_of_the_plain_matrix(shape: tuple[int, int], rows: int) -> None:
    torch.manual_seed(rows)
    weight, x = torch.randn(shape).bfloat16(), torch.randn(rows, shape[1]).bfloat16()
    exact = x.double() @ weight.double().t()
    layer = Linear(weight)
    tolerance = 2**-8 * exact.abs().max()  # of one rounding of a result
    assert (layer(x) - exact).abs().max() <= tolerance
    states = torch.randn(rows, shape[0])
    expected = states + exact
    assert layer.add_to(states, x) is states
    assert (states - expected).abs().max() <= tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_types_stay_plain(dtype: torch.dtype) -> None:
    weight, x, states = (torch.randn(shape, dtype=dtype) for shape in ((7, 5), (3, 5), (3, 7)))
    layer = Linear(weight)
    torch.testing.assert_close(layer(x), x @ weight.t())
    torch.testing.assert_close(layer.add_to(states.clone(), x), states + x @ weight.t())


@needs_blocks
@pytest.mark.parametrize("kind", ["t5", "t5-gated", "umt5"])
def test_a_model_predicts_the_same_where_torch_lacks_the_operations(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(kind)

    def predict() -> Sequence[str]:
        predictor = Predictor(model, character_tokenizer(), DecodeConfig(max_new_tokens=8), precision="bf16")
        return [found.text for found in predictor.predict(token_rows())]

    blocked = predict()
    monkeypatch.setattr(linear, "takes_blocks", lambda _: False)
    plain = predict()
    assert sum(map(str.__eq__, blocked, plain)) >= 0.7 * len(plain)  # roundings differ, and these weights are random
