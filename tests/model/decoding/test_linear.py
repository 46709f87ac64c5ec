"""Products with a matrix in oneDNN's blocks are those with the plain one."""

import pytest
import torch
from transformers.activations import ACT2FN

from t5ray.model.decoding import linear
from t5ray.model.decoding.linear import FUSED, Linear, takes_blocks
from t5ray.model.decoding.weights import prepare
from tests.model.decoding.models import decoder_over, make, token_rows

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
    narrow = torch.randn(rows, shape[0]).bfloat16()
    expected = narrow + exact
    assert (layer.add_to(narrow, x) - expected).abs().max() <= tolerance + 2**-8 * expected.abs().max()


@needs_blocks
@pytest.mark.parametrize("name", ["gelu_new", "gelu", "relu", "silu", "gelu_fast"])  # the last is none of oneDNN's
def test_activations_and_factors_follow_a_product_in_blocks(name: str) -> None:
    torch.manual_seed(3)
    weight, gate, x = ((torch.randn(rows, 32) / scale).bfloat16() for rows, scale in ((64, 6), (64, 6), (40, 1)))
    product = x.double() @ weight.double().t()  # of about 1: GELU's two forms differ by up to 0.0005 there
    rtol, atol = (2**-7, 1e-4) if name in FUSED else (2**-6, 2**-7)  # rounded before as well
    torch.testing.assert_close(Linear(weight, activation=name)(x).double(), ACT2FN[name](product), rtol=rtol, atol=atol)
    factors = torch.randn(40, 64).bfloat16()
    exact = factors.double() * (x.double() @ gate.double().t())
    torch.testing.assert_close(Linear(gate).scaled(x, factors).double(), exact, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3, 64, 300])
@pytest.mark.parametrize("name", [None, "gelu_new"])
def test_a_large_matrix_in_fp32_gives_the_products_of_the_plain_one(
    rows: int, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(rows)
    weight, x = torch.randn(1100, 512) / 20, torch.randn(rows, 512)
    states, wide = torch.randn(rows, 1100), torch.zeros(rows, 1300)
    exact = x.double() @ weight.double().t()
    layer, plain = Linear(weight, activation=name), Linear(weight)
    require_close(layer(x), exact if name is None else ACT2FN[name](exact))
    require_close(plain.add_to(states.clone(), x), states.double() + exact)
    require_close(plain.scaled(x, states.clone()), states.double() * exact)
    plain.into(wide[:, 100:1200], x)
    require_close(wide[:, 100:1200], exact)
    assert not wide[:, :100].any()
    assert not wide[:, 1200:].any()
    monkeypatch.setattr(linear, "takes_blocks", lambda _: False)
    require_close(Linear(weight, activation=name)(x), layer(x).double())


def require_close(found: torch.Tensor, exact: torch.Tensor) -> None:
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_matrices_and_other_types_stay_plain(dtype: torch.dtype) -> None:
    weight, x, states = (torch.randn(shape, dtype=dtype) for shape in ((7, 5), (3, 5), (3, 7)))
    assert not takes_blocks(weight)
    layer = Linear(weight)
    torch.testing.assert_close(layer(x), x @ weight.t())
    torch.testing.assert_close(layer.add_to(states.clone(), x), states + x @ weight.t())
    torch.testing.assert_close(layer.scaled(x, states.clone()), states * (x @ weight.t()))
    torch.testing.assert_close(Linear(weight, activation="relu")(x), (x @ weight.t()).relu())


@needs_blocks
@pytest.mark.parametrize("kind", ["t5", "t5-gated", "umt5"])
def test_a_decoders_states_are_as_near_to_fp32_where_torch_lacks_the_operations(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = make(kind), token_rows()

    def states(dtype: torch.dtype) -> torch.Tensor:
        weights = prepare(model, dtype)
        return decoder_over(weights, rows).step(torch.full((len(rows),), weights.start_id)).double()

    exact, blocked = states(torch.float32), states(torch.bfloat16)
    monkeypatch.setattr(linear, "takes_blocks", lambda _: False)
    plain = states(torch.bfloat16)
    error = (plain - exact).square().mean()
    assert 0 < error < 0.01 * exact.square().mean()
    assert (blocked - exact).square().mean() < 2 * error
