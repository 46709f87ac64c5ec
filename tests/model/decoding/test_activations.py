"""Activations against torch's and transformers' own."""

import pytest
import torch
from torch.nn import functional
from transformers.activations import ACT2FN

from t5ray.model.decoding.activations import activation


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_is_torchs_tanh_form(dtype: torch.dtype) -> None:
    x = torch.linspace(-12, 12, 1001, dtype=dtype)
    torch.testing.assert_close(activation("gelu_new")(x), functional.gelu(x, approximate="tanh"), rtol=1e-5, atol=1e-6)


def test_others_are_transformers_own() -> None:
    x = torch.linspace(-3, 3, 101)
    for name in ("relu", "gelu", "silu"):
        assert torch.equal(activation(name)(x), ACT2FN[name](x))
