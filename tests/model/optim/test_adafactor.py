"""Adafactor held to transformers' own, whole and in blocks."""

import pytest
import torch
from transformers.optimization import Adafactor as Reference

from t5ray.model.optim import adafactor


@pytest.mark.parametrize("numbers", [1, 12, 1000], ids=["a row a block", "ragged blocks", "one block"])
@pytest.mark.parametrize("scale_parameter", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_updates_are_those_of_transformers_however_a_matrix_is_cut(
    monkeypatch: pytest.MonkeyPatch, numbers: int, scale_parameter: bool, weight_decay: float
) -> None:
    monkeypatch.setattr(adafactor, "CPU_BLOCK", numbers)
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((7, 5), (1, 9), (6,), (2, 3))]
    theirs = [torch.nn.Parameter(weight.detach().clone()) for weight in ours]
    rule = adafactor.Adafactor(
        [{"params": ours, "weight_decay": weight_decay}], lr=0.02, scale_parameter=scale_parameter
    )
    reference = Reference(
        theirs, lr=0.02, scale_parameter=scale_parameter, relative_step=False, weight_decay=weight_decay
    )
    for size in (1.0, 30.0, 1e-3, 0.0):
        for one, other in zip(ours[:3], theirs, strict=False):  # the last has no gradient
            one.grad = size * torch.randn_like(one)
            if one.shape == (7, 5):
                one.grad[2:5] = 0.0  # as rows of embeddings that no input has
            other.grad = one.grad.clone()
        rule.step()
        reference.step()
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_what_divides_the_gradient_is_as_if_it_had_been_divided() -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Linear(5, 7) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    rule = adafactor.Adafactor(ours.parameters(), lr=0.02)
    reference = Reference(theirs.parameters(), lr=0.02, scale_parameter=False, relative_step=False)
    for divisor in (1.0, 8.0, 0.5):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad / divisor
        rule.grad_scale = torch.tensor(divisor)
        rule.step()
        reference.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_matrices_keep_a_row_and_a_column() -> None:
    layer = torch.nn.Linear(5, 7)
    rule = adafactor.Adafactor(layer.parameters(), lr=0.02)
    for weight in layer.parameters():
        weight.grad = torch.ones_like(weight)
    rule.step()
    kept = {tuple(t.shape) for state in rule.state.values() for t in state.values() if isinstance(t, torch.Tensor)}
    assert kept == {(7,), (5,)}
