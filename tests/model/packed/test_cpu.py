"""The hand-written operations against PyTorch's automatic gradients, and the dropout masks against their rate."""

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, gelu, relu

from t5ray.model.packed import cpu, cpu_attention, loss
from t5ray.model.packed.layout import layout_of
from t5ray.model.packed.ops import scores_of


def test_layout_example() -> None:
    layout = layout_of(torch.tensor([[True, True], [True, False]]), heads=1)
    assert layout.places.tolist() == [0, 1, 2]
    assert layout.to_padded.tolist() == [0, 1, 2, 0]
    assert layout.holes is not None
    assert layout.holes.tolist() == [3]
    x = torch.arange(6.0).view(3, 2)
    assert layout.pad(x, clean=True).tolist() == [[[0, 1], [2, 3]], [[4, 5], [0, 0]]]
    assert torch.equal(layout.pack(layout.pad(x)), x)


def test_rms_norm_s_gradient() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(5, 16, requires_grad=True), torch.randn(16, requires_grad=True)
    expected = torch.nn.functional.rms_norm(x, (16,), weight, 1e-6)
    grad = torch.randn(5, 16)
    wanted = torch.autograd.grad(expected, (x, weight), grad)
    got = cpu.rms_norm(x, weight, 1e-6, torch.float32)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, (x, weight), grad), wanted, rtol=1e-4, atol=1e-5)


BF16: dict[str, Any] = {"rtol": 2**-7, "atol": 2**-7}
"""bf16 keeps 8 bits: half a unit in the last place is 2^-9 of a value, and some results are rounded more than once."""


def test_rms_norm_rounds_to_bf16_at_its_end_only() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(5, 16, requires_grad=True), torch.randn(16, requires_grad=True)
    exact = torch.nn.functional.rms_norm(x, (16,), weight, 1e-6)
    grad = torch.randn(5, 16).bfloat16()
    wanted = torch.autograd.grad(exact, (x, weight), grad.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = cpu.rms_norm(x, weight, 1e-6, torch.bfloat16)
    assert torch.equal(got, cpu.rms_norm(x, weight, 1e-6, torch.float32).bfloat16())
    torch.testing.assert_close(torch.autograd.grad(got, (x, weight), grad), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("residual", [torch.float32, torch.bfloat16])
def test_adding_what_is_bf16(residual: torch.dtype) -> None:
    torch.manual_seed(0)
    before, x = torch.randn(5, 16).to(residual).requires_grad_(), torch.randn(5, 16).bfloat16().requires_grad_()
    torch.manual_seed(1)
    got = cpu.add_dropped(before, x, 0.25)
    torch.manual_seed(1)
    mask, scale = cpu.keep_mask(x.shape, 0.25)
    assert got.dtype == residual
    expected = before.float() + x.float() * mask * scale
    exact = residual == torch.float32  # else what is added, below 4, is rounded first
    torch.testing.assert_close(got.float(), expected, rtol=1e-6 if exact else 2**-8, atol=1e-6 if exact else 2**-7)
    grad = torch.randn(5, 16).to(residual)
    through, by_x = torch.autograd.grad(got, (before, x), grad)
    assert torch.equal(through, grad)
    torch.testing.assert_close(by_x.float(), grad.float() * mask * scale, **BF16)


@pytest.mark.parametrize("kind", cpu.ACTIVATIONS)
@pytest.mark.parametrize("gated", [True, False])
def test_activations_with_dropout(kind: str, gated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "CHUNK_ROWS", 1)
    torch.manual_seed(0)
    hidden, gate = torch.randn(6, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True) if gated else None
    inputs = (hidden,) if gate is None else (hidden, gate)
    torch.manual_seed(1)
    got = cpu.activate(kind, hidden, gate, 0.25)
    torch.manual_seed(1)
    mask, scale = cpu.keep_mask(hidden.shape, 0.25)
    active = relu(hidden) if kind == "relu" else gelu(hidden, approximate="tanh" if kind == "gelu_new" else "none")
    expected = (active if gate is None else active * gate) * mask * scale
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got.sum(), inputs), torch.autograd.grad(expected.sum(), inputs))


@pytest.mark.parametrize("kind", cpu.ACTIVATIONS)
def test_activations_in_bf16_are_rounded_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "CHUNK_ROWS", 4)
    torch.manual_seed(0)
    low = hidden, gate = [(3 * torch.randn(6, 8)).bfloat16().requires_grad_() for _ in range(2)]
    wide = [x.detach().float().requires_grad_() for x in low]
    got, exact = cpu.activate(kind, hidden, gate, 0.0), cpu.activate(kind, wide[0], wide[1], 0.0)
    assert torch.equal(got, exact.bfloat16())
    grad = torch.randn(6, 8).bfloat16()
    for one, wanted in zip(
        torch.autograd.grad(got, low, grad), torch.autograd.grad(exact, wide, grad.float()), strict=True
    ):
        torch.testing.assert_close(one.float(), wanted, **BF16)


@pytest.mark.parametrize("kind", cpu.ACTIVATIONS)
def test_slopes_far_out(kind: str) -> None:
    """Against PyTorch's in fp64, where nothing cancels and nothing overflows."""
    x = torch.linspace(-40, 40, 801)
    exact = x.double().requires_grad_()
    active = relu(exact) if kind == "relu" else gelu(exact, approximate="tanh" if kind == "gelu_new" else "none")
    (slope,) = torch.autograd.grad(active.sum(), exact)
    got = cpu.active_and_slope(kind, x)
    torch.testing.assert_close(got[0].double(), active.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got[1].double(), slope, rtol=1e-5, atol=1e-6)


def test_attention_with_dropout() -> None:
    torch.manual_seed(0)
    layout = layout_of(torch.tensor([[True] * 3, [True, True, False]]), heads=2)
    q, k, v = (torch.randn(5, 8, requires_grad=True) for _ in range(3))
    torch.manual_seed(1)
    hidden = torch.zeros(2, 1, 1, 3).masked_fill_(~layout.real[:, None, None], -math.inf)
    total = hidden.expand(2, 2, 3, 3).reshape(4, 3, 3)
    got = cpu_attention.attention(q, k, v, None, total, layout, layout, 0.25)
    torch.manual_seed(1)
    mask, scale = cpu.keep_mask(torch.Size((4, 3, 3)), 0.25)
    scores = layout.pad(q) @ layout.pad(k).mT + total
    expected = layout.pack((scores.softmax(-1) * mask * scale) @ layout.pad(v, clean=True))
    torch.testing.assert_close(got, expected)
    grad = torch.randn(5, 8)
    wanted = torch.autograd.grad(expected, (q, k, v), grad)
    torch.testing.assert_close(torch.autograd.grad(got, (q, k, v), grad), wanted)


def test_attention_in_bf16() -> None:
    torch.manual_seed(0)
    layout = layout_of(torch.tensor([[True] * 3, [True, True, False]]), heads=2)
    low = [torch.randn(5, 8).bfloat16().requires_grad_() for _ in range(3)]
    wide = [x.detach().float().requires_grad_() for x in low]
    bias = torch.randn(2, 3, 3, requires_grad=True)
    scores = scores_of(bias, None, layout, layout, torch.bfloat16)
    assert scores.total is not None

    def attend(x: list[torch.Tensor], total: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return cpu_attention.attention(x[0], x[1], x[2], bias, total, layout, layout, 0.25)

    got, exact = attend(low, scores.total), attend(wide, scores.total.float())
    torch.testing.assert_close(got.float(), exact, **BF16)
    grad = torch.randn(5, 8).bfloat16()
    gradients = torch.autograd.grad(got, [*low, bias], grad)
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16] * 3 + [torch.float32]
    for one, wanted in zip(gradients, torch.autograd.grad(exact, [*wide, bias], grad.float()), strict=True):
        torch.testing.assert_close(one.float(), wanted, rtol=0.02, atol=0.02)


def test_padding_that_is_packed_has_a_place_of_its_own() -> None:
    """Two rows of 4 places with 3 and 1 tokens; packed are 4 tokens, then the first 2 places of padding."""
    layout = layout_of(
        torch.tensor([[True, True, True, False], [True, False, False, False]]), heads=1, rounded=lambda count: 6
    )
    assert (layout.num_real, layout.places.tolist()) == (4, [0, 1, 2, 4, 3, 5])
    packed = torch.arange(1.0, 7.0)[:, None]
    assert layout.pad(packed).flatten().tolist() == [1, 2, 3, 5, 4, 6, 1, 1]
    assert layout.pad(packed, clean=True).flatten().tolist() == [1, 2, 3, 0, 4, 0, 0, 0]
    torch.testing.assert_close(layout.pack(layout.pad(packed)), packed)


def test_what_is_cheaper_unprojected() -> None:
    """flan-T5-small: 6 heads of 64, width 512. Per head: T (64 512 + 512 S) against S 64 512 + 64 S T, T in all."""

    def cheaper(targets: int, sources: int) -> bool:
        queries, keys = (layout_of(torch.ones(2, width, dtype=torch.bool), heads=6) for width in (targets, sources))
        return cpu_attention.is_cheaper_unprojected(queries, keys, inner=384, width=512)

    assert [targets for targets in range(1, 90) if cheaper(targets, 87)] == list(range(1, 40))
    assert not cheaper(74, 100_000)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.99])
def test_masks_keep_their_share(rate: float) -> None:
    torch.manual_seed(0)
    mask, scale = cpu.keep_mask(torch.Size((1000, 1001)), rate)
    assert scale == pytest.approx(1 / (1 - rate))
    assert float(mask.float().mean()) == pytest.approx(1 - rate, abs=5 * math.sqrt(rate * (1 - rate) / 1_001_000))


def test_each_element_is_dropped_at_the_rate() -> None:
    """Ten thousand masks of 4 by 3 at a rate between two thresholds (0.1 is 25.6 of 256)."""
    torch.manual_seed(0)
    masks = torch.stack([cpu.keep_mask(torch.Size((4, 3)), 0.1)[0] for _ in range(10_000)]).double()
    torch.testing.assert_close(
        masks.mean(0), torch.full((4, 3), 0.9).double(), rtol=0, atol=4 * math.sqrt(0.09 / 10_000)
    )
    together = masks.flatten(1).T.cov().fill_diagonal_(0)  # elements know nothing of each other, in a row or not
    torch.testing.assert_close(together, torch.zeros(12, 12).double(), rtol=0, atol=5 * 0.09 / math.sqrt(10_000))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_chunks_give_the_loss_of_the_whole(smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK_TOKENS", 4)
    monkeypatch.setattr(loss, "ALIGNED", 4)  # two chunks without padding, one with
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 20, bias=False)
    hidden, labels = torch.randn(10, 8, requires_grad=True), torch.randint(20, (10,))
    expected = cross_entropy(head(hidden), labels, reduction="sum", label_smoothing=smoothing)
    wanted = torch.autograd.grad(expected * 0.5, (hidden, head.weight))
    got = loss.summed_cross_entropy(hidden, head, labels, smoothing)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got * 0.5, (hidden, head.weight)), wanted)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("tokens", [4, 512])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_in_bf16_is_that_of_rounded_logits(
    smoothing: float, tokens: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One word is all but certain for its token: the small difference of its probability and 1 must survive."""
    monkeypatch.setattr(loss, "CHUNK_TOKENS", tokens)
    monkeypatch.setattr(loss, "SLICE_WORDS", 8)
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 20, bias=False)
    hidden, labels = torch.randn(10, 8).bfloat16().float(), torch.randint(20, (10,))
    with torch.no_grad():
        head.weight.copy_(head.weight.bfloat16())
        hidden[3] = (130 * head.weight[labels[3]]).bfloat16()
    hidden.requires_grad_()
    logits = head(hidden)
    assert 0.999 < float(logits[3].detach().softmax(-1)[labels[3]]) < 0.99999
    rounded = logits + (logits.detach().bfloat16() - logits.detach())  # bf16 values, gradients straight through
    expected = cross_entropy(rounded, labels, reduction="sum", label_smoothing=smoothing)
    wanted = torch.autograd.grad(expected * 0.5, (hidden, head.weight))
    given = hidden.detach().bfloat16().requires_grad_()
    head.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
        got = loss.summed_cross_entropy(given, head, labels, smoothing)
    torch.testing.assert_close(got, expected)
    found = [gradient.float() for gradient in torch.autograd.grad(got * 0.5, (given, head.weight))]
    torch.testing.assert_close(found, list(wanted), rtol=0.02, atol=0.005)
    torch.testing.assert_close(found[0][3], wanted[0][3], rtol=0.02, atol=2e-5)


@pytest.mark.parametrize("gated", [True, False])
def test_dropout_in_bf16(gated: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 8).bfloat16().requires_grad_()
    gate = torch.randn(6, 8).bfloat16().requires_grad_() if gated else None
    torch.manual_seed(1)
    dropped, active = cpu.dropout(x, 0.25), cpu.activate("relu", x, gate, 0.25)
    torch.manual_seed(1)
    (first, scale), (second, _) = cpu.keep_mask(x.shape, 0.25), cpu.keep_mask(x.shape, 0.25)
    torch.testing.assert_close(dropped.float(), x.float() * first * scale, **BF16)
    by_x = (1.0 if gate is None else gate.detach().float()) * second * scale
    torch.testing.assert_close(active.float(), x.float().relu() * by_x, **BF16)
    torch.testing.assert_close(torch.autograd.grad(dropped.sum(), x)[0].float(), first * scale, **BF16)
    found = torch.autograd.grad(active.sum(), (x,) if gate is None else (x, gate))
    torch.testing.assert_close(found[0].float(), (x > 0) * by_x, **BF16)
    if gate is not None:
        torch.testing.assert_close(found[1].float(), x.float().relu() * second * scale, **BF16)
