"""The packed forward against transformers' own, loss and gradients, on tiny models of each kind."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.nn.functional import cross_entropy
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from t5ray.model.numeric import set_dropout
from t5ray.model.packed import cpu, cpu_attention, loss, ops, packed, summed_loss

KINDS = {
    "t5": (T5Config, T5ForConditionalGeneration),
    "mt5": (MT5Config, MT5ForConditionalGeneration),
    "umt5": (UMT5Config, UMT5ForConditionalGeneration),
}
Gradients = dict[str, torch.Tensor | None]


def model_of(kind: str, *, feed_forward: str = "gated-gelu", tied: bool = True) -> Any:
    torch.manual_seed(0)
    config, model = KINDS[kind]
    sizes = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_decoder_layers": 2}
    made = model(
        config(
            **sizes,
            num_heads=4,
            feed_forward_proj=feed_forward,
            tie_word_embeddings=tied,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
    ).train()
    set_dropout(made, 0.0)
    return made


LONG, SHORT = (3, 6, 1, 6), (1, 2, 1, 1)
"""Target tokens of the rows: keys and values of cross-attention are made for the first, not for the second."""


def batch(targets: tuple[int, ...] = LONG) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    lengths, widest = torch.tensor([9, 5, 9, 2]), max(targets)
    mask = (torch.arange(9) < lengths[:, None]).long()
    ids = torch.randint(2, 50, (4, 9), generator=generator) * mask
    labels = torch.randint(2, 50, (4, widest), generator=generator)
    return ids, mask, labels.masked_fill(torch.arange(widest) >= torch.tensor(targets)[:, None], -100)


def gradients(model: Any) -> Gradients:
    found = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


def by_transformers(
    model: Any, smoothing: float = 0.0, targets: tuple[int, ...] = LONG, *, low: bool = False
) -> tuple[torch.Tensor, Gradients]:
    ids, mask, labels = batch(targets)
    decoder_ids = model.prepare_decoder_input_ids_from_labels(labels)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids, use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum", label_smoothing=smoothing)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), gradients(model)


def by_us(
    model: Any, smoothing: float = 0.0, targets: tuple[int, ...] = LONG, *, low: bool = False
) -> tuple[torch.Tensor, Gradients]:
    with packed(model):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            loss = summed_loss(model, *batch(targets), smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), gradients(model)


def assert_equal(ours: tuple[torch.Tensor, Gradients], theirs: tuple[torch.Tensor, Gradients]) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
    for name, expected in theirs[1].items():
        got = ours[1][name]
        assert (got is None) == (expected is None), name
        if got is not None and expected is not None:
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max() + 1), msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu", "gated-silu"])
@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients_are_those_of_transformers(kind: str, feed_forward: str, tied: bool) -> None:
    model = model_of(kind, feed_forward=feed_forward, tied=tied)
    assert_equal(by_us(model, 0.1), by_transformers(model, 0.1))


@pytest.mark.parametrize("kind", KINDS)
def test_so_they_are_where_targets_are_short(kind: str, unprojected: list[int]) -> None:
    model = model_of(kind)
    assert_equal(by_us(model, 0.1, SHORT), by_transformers(model, 0.1, SHORT))
    assert len(unprojected) == 2  # blocks of the decoder
    by_us(model, 0.1, LONG)
    assert len(unprojected) == 2


@pytest.fixture
def unprojected(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What grows with each cross-attention that makes no keys and values."""
    calls: list[int] = []
    real = cpu_attention.unprojected

    def counting(*args: Any) -> torch.Tensor:
        calls.append(1)
        return real(*args)

    monkeypatch.setattr(cpu_attention, "unprojected", counting)
    return calls


def test_keys_that_are_never_made_see_the_same_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("t5")
    set_dropout(model, 0.3)
    torch.manual_seed(5)
    without = by_us(model, targets=SHORT)
    monkeypatch.setattr(cpu_attention, "is_cheaper_unprojected", lambda *_: False)
    torch.manual_seed(5)
    assert_equal(without, by_us(model, targets=SHORT))


def untied(kind: str) -> Any:
    """A model with a head of its own: a T5 made from a configuration shares it, whatever the configuration says."""
    model = model_of(kind, tied=False)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.config.tie_word_embeddings = False
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_hand", [True, False])
def test_a_head_of_its_own_gets_its_own_gradient(kind: str, by_hand: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not by_hand:
        monkeypatch.setattr("t5ray.model.packed.ops.by_hand", lambda *tensors: False)
    model = untied(kind)
    ours, theirs = by_us(model, 0.1), by_transformers(model, 0.1)
    assert_equal(ours, theirs)
    head, shared = ours[1]["lm_head.weight"], ours[1]["shared.weight"]
    assert head is not None
    assert shared is not None
    assert not torch.equal(head, shared)


@pytest.mark.parametrize("kind", ["t5", "umt5"])
@pytest.mark.parametrize("targets", [LONG, SHORT])
def test_checkpointed_gradients_are_those_of_transformers(kind: str, targets: tuple[int, ...]) -> None:
    model = model_of(kind)
    theirs = by_transformers(model, targets=targets)
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert_equal(by_us(model, targets=targets), theirs)


def test_checkpointing_draws_the_same_dropout_again() -> None:
    model = model_of("t5")
    set_dropout(model, 0.3)
    torch.manual_seed(5)
    plain = by_us(model)
    model.activation_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(5)
    assert_equal(by_us(model), plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize(
    ("targets", "multiple", "source_tokens", "target_tokens"),
    [(LONG, 10, 30, 20), (LONG, 1000, 64, 32), (SHORT, 8, 32, 8), (SHORT, 1000, 64, 32)],
)
def test_rounded_shapes_change_nothing(
    kind: str,
    by_hand: bool,
    targets: tuple[int, ...],
    multiple: int,
    source_tokens: int,
    target_tokens: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There are 25 source and 16 or 5 target tokens, in 4 rows that are padded to 16 and 8 places."""
    monkeypatch.setattr(ops, "rounds_shapes", lambda weight: True)
    monkeypatch.setattr(ops, "rounded_tokens", lambda count: count + -count % multiple)
    if not by_hand:
        monkeypatch.setattr(ops, "by_hand", lambda *tensors: False)
    found: list[int] = []
    model = untied(kind)
    for stack in (model.encoder, model.decoder):
        last = stack.block[-1].layer[-1].DenseReluDense.wo
        last.register_forward_hook(lambda _, __, out: found.append(len(out.flatten(0, -2))))
    ours = by_us(model, 0.1, targets)
    assert found == [source_tokens, target_tokens]
    assert_equal(ours, by_transformers(model, 0.1, targets))


@pytest.mark.parametrize(("low", "expected"), [(False, set(range(51, 71))), (True, {64, 128})])
def test_bf16_products_on_a_cpu_meet_few_shapes(low: bool, expected: set[int]) -> None:
    """Each new one is compiled, which takes longer than the product. There are 51 to 70 tokens."""
    model, found = model_of("t5"), set[int]()
    model.encoder.block[0].layer[-1].DenseReluDense.wi_0.register_forward_hook(lambda _, __, out: found.add(len(out)))
    for tokens in range(50, 70):
        ids = torch.full((2, 40), 5)
        mask = (torch.arange(40) < torch.tensor([[40], [tokens - 39]])).long()
        with packed(model), torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            summed_loss(model, ids, mask, torch.tensor([[3], [4]]))
    assert found == expected


def test_how_tokens_and_widths_are_rounded() -> None:
    counts = [1, 64, 65, 1000, 1025, 2048, 2049, 9000]
    assert [ops.rounded_tokens(count) for count in counts] == [64, 64, 128, 1024, 1088, 2048, 2176, 9216]
    assert len({ops.rounded_tokens(count) for count in range(1, 16_385)}) == 80
    widths = [ops.rounded_width(torch.zeros(1, width), 0).shape[1] for width in (1, 8, 9, 32, 33, 65)]
    assert widths == [8, 8, 16, 32, 64, 96]
    assert ops.rounded_width(torch.tensor([[7]]), -100).tolist() == [[7, *[-100] * 7]]


Dropped = Counter[tuple[int, float]]
"""How often dropout fell on so many elements at this rate."""


def dropped_by_transformers(model: Any, given: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> Dropped:
    found, dropout = Dropped(), functional.dropout

    def counting(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        if training and p:
            found[x.numel(), p] += 1
        return dropout(x, p, training, inplace)

    with monkeypatch.context() as patch:
        patch.setattr(functional, "dropout", counting)
        model.set_attn_implementation("eager")
        model(**given)
    return found


def dropped_by_hand(model: Any, given: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> Dropped:
    found, draw = Dropped(), cpu.keep_mask

    def counting(shape: torch.Size, rate: float) -> tuple[torch.Tensor, float]:
        found[shape.numel(), rate] += 1
        return draw(shape, rate)

    with monkeypatch.context() as patch:
        for module in (cpu, cpu_attention):
            patch.setattr(module, "keep_mask", counting)
        with packed(model):
            summed_loss(model, given["input_ids"], given["attention_mask"], given["labels"])
    return found


def dropped_by_pytorch(model: Any, given: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> Dropped:
    found, dropout, attend = Dropped(), functional.dropout, functional.scaled_dot_product_attention

    def counting(x: torch.Tensor, p: float) -> torch.Tensor:
        found[x.numel(), p] += 1
        return dropout(x, p)

    def attending(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, dropout_p: float, **more: Any) -> torch.Tensor:
        found[q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2], dropout_p] += 1
        return attend(q, k, v, dropout_p=dropout_p, **more)

    with monkeypatch.context() as patch:
        patch.setattr("t5ray.model.packed.ops.by_hand", lambda *tensors: False)
        patch.setattr(functional, "dropout", counting)
        patch.setattr(functional, "scaled_dot_product_attention", attending)
        with packed(model):
            summed_loss(model, given["input_ids"], given["attention_mask"], given["labels"])
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ours", [dropped_by_hand, dropped_by_pytorch])
@pytest.mark.parametrize("targets", [1, 6])
def test_dropout_falls_where_transformers_has_it(
    kind: str, ours: Callable[..., Dropped], targets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row of 9 tokens, so that nothing is padding, and the rate that each place is told."""
    model = model_of(kind)
    set_dropout(model, 0.3)
    ids, labels = torch.arange(2, 11)[None], torch.arange(2, 2 + targets)[None]
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    expected = dropped_by_transformers(model, given, monkeypatch)
    assert sum(expected.values()) == 2 + 3 * 4 + 2 + 2 * 6  # both ends of a stack; attention, its output, feed-forward
    assert ours(model, given, monkeypatch) == expected


def test_pytorch_s_own_operations_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs take these."""
    monkeypatch.setattr("t5ray.model.packed.ops.by_hand", lambda *tensors: False)
    for kind in KINDS:
        model = model_of(kind)
        assert_equal(by_us(model, 0.1), by_transformers(model, 0.1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", [LONG, SHORT])
@pytest.mark.parametrize("weights", ["fp32", "bf16", "bf16, wo in fp32"])
def test_bf16_is_as_near_as_transformers_in_bf16(kind: str, targets: tuple[int, ...], weights: str) -> None:
    """Both against transformers in fp32: loss, and all gradients as one vector."""
    model = model_of(kind)
    exact = by_transformers(model, targets=targets)
    if weights != "fp32":
        model.to(torch.bfloat16)
    if "wo" in weights:  # as transformers loads it
        for name, module in model.named_modules():
            if name.endswith(".wo"):
                module.float()
    low = weights == "fp32"
    ours, theirs = by_us(model, targets=targets, low=low), by_transformers(model, targets=targets, low=low)
    assert abs(float(ours[0] - exact[0])) <= max(1.5 * abs(float(theirs[0] - exact[0])), 0.005 * float(exact[0]))
    assert distance(ours[1], exact[1]) <= (1.2 if low else 1.5) * distance(theirs[1], exact[1])
    assert distance(theirs[1], exact[1]) < 0.2 * distance({}, exact[1])


@pytest.mark.parametrize("weights", ["fp32", "bf16", "bf16, wo in fp32"])
@pytest.mark.parametrize("low", [True, False])
def test_activations_take_no_detour_to_the_last_product(weights: str, low: bool) -> None:
    """They come in the dtype that it is computed in: not in its weight's, from which autocast would take them back."""
    model, seen = model_of("t5"), set()
    if weights != "fp32":
        model.to(torch.bfloat16)
    for name, module in model.named_modules():
        if name.endswith(".wo"):
            if "wo" in weights:
                module.float()
            module.register_forward_pre_hook(lambda module, given: seen.add(given[0].dtype))
    by_us(model, low=low)
    assert seen == {torch.bfloat16 if low or weights == "bf16" else torch.float32}


def test_checkpointed_bf16_is_the_same() -> None:
    """Its backward pass runs the forward pass again, where autocast is off by then."""
    model = model_of("t5")
    plain = by_us(model, low=True)
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert_equal(by_us(model, low=True), plain)


def test_validation_makes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    model, kept = model_of("t5", tied=False), []
    monkeypatch.setattr(loss, "_added", lambda *args: kept.append(args))
    with torch.inference_mode(), packed(model):
        quiet = summed_loss(model, *batch())
    assert not kept
    monkeypatch.undo()
    torch.testing.assert_close(by_us(model)[0], quiet)


@pytest.mark.parametrize("device_has_cpu_versions", [True, False])
def test_logits_are_never_whole_in_fp32(device_has_cpu_versions: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not device_has_cpu_versions:
        monkeypatch.setattr("t5ray.model.packed.ops.by_hand", lambda *tensors: False)
    seen, real = [], loss._loss_and_odds

    def counting(logits: torch.Tensor, *rest: Any) -> Any:
        seen.append(logits.shape)
        return real(logits, *rest)

    monkeypatch.setattr(loss, "CHUNK_TOKENS", 4)
    monkeypatch.setattr(loss, "_loss_and_odds", counting)
    by_us(model_of("t5"))
    assert len(seen) == 4  # of 16 target tokens


def distance(found: dict[str, Any], exact: dict[str, Any]) -> float:
    """Return the length of the difference of two gradients; what `found` lacks is 0."""
    parts = [
        (found[name].float() if name in found else 0) - value for name, value in exact.items() if value is not None
    ]
    return float(torch.cat([part.flatten() for part in parts]).norm())


def test_frozen_weights_get_no_gradient() -> None:
    model = model_of("t5", tied=False)
    model.shared.weight.requires_grad_(False)
    model.encoder.block[0].requires_grad_(False)
    model.decoder.block[0].requires_grad_(False)
    for targets in (LONG, SHORT):
        ours, theirs = by_us(model, targets=targets), by_transformers(model, targets=targets)
        assert ours[1]["shared.weight"] is None
        assert_equal(ours, theirs)


def test_a_frozen_encoder_asks_for_no_gradient() -> None:
    model = model_of("t5", tied=False)
    model.encoder.requires_grad_(False)
    model.shared.requires_grad_(False)
    assert_equal(by_us(model, targets=SHORT), by_transformers(model, targets=SHORT))


def test_adapters_are_called_as_modules() -> None:
    peft = pytest.importorskip("peft")
    model = model_of("t5", tied=False)
    settings = peft.LoraConfig(r=2, target_modules=["q", "v", "wo"], init_lora_weights=False)
    peft.inject_adapter_in_model(settings, model)
    for targets in (LONG, SHORT):
        ours, theirs = by_us(model, targets=targets), by_transformers(model, targets=targets)
        assert ours[1]["encoder.block.0.layer.0.SelfAttention.q.lora_A.default.weight"] is not None
        assert_equal(ours, theirs)


def test_generation_is_untouched_inside_and_the_model_afterwards() -> None:
    model = model_of("t5").eval()
    ids, mask, _ = batch()
    before = model.generate(ids, attention_mask=mask, max_new_tokens=4)
    with packed(model):
        assert torch.equal(model.generate(ids, attention_mask=mask, max_new_tokens=4), before)
    assert "forward" not in vars(model)
    assert all("forward" not in vars(block) for block in model.encoder.block)
