"""The hand-written operations against PyTorch's automatic gradients, and the dropout masks against their rate."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, gelu, relu

from t5ray.model.packed import cpu, cpu_attention, loss
from t5ray.model.packed.layout import layout_of


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
    got = cpu.rms_norm(x, weight, 1e-6)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, (x, weight), grad), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", cpu.ACTIVATIONS)
@pytest.mark.parametrize("gated", [True, False])
def test_activations_with_dropout(kind: str, gated: bool) -> None:
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
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 20, bias=False)
    hidden, labels = torch.randn(10, 8, requires_grad=True), torch.randint(20, (10,))
    expected = cross_entropy(head(hidden), labels, reduction="sum", label_smoothing=smoothing)
    wanted = torch.autograd.grad(expected * 0.5, (hidden, head.weight))
    got = loss.summed_cross_entropy(hidden, head, labels, smoothing)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got * 0.5, (hidden, head.weight)), wanted)
