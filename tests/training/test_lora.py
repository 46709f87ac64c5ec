"""Adapters: what is trained, and the plain T5 that is kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from t5ray.data.tokens import TokenisedData
from t5ray.model.loading import load_model
from t5ray.training.group import Group
from t5ray.training.loop import fine_tune
from t5ray.training.plan import RunPlan
from tests.training.running import kept as kept_in

SETTINGS: dict[str, Any] = {"lora_rank": 4, "lora_alpha": 8.0, "lora_targets": "qv", "max_epochs": 1, "dropout": 0.0}


@pytest.fixture
def plan(plan: RunPlan) -> RunPlan:
    config = plan.config.model_copy(update={**SETTINGS, "schedule": "constant", "learning_rate": 1e-2})
    return replace(plan, config=config)


def test_the_kept_model_is_a_plain_t5_with_the_adapters_added(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan
) -> None:
    """W + alpha / rank * B A, by hand from the adapters after the last step; all else as it came."""
    loaded, factors = load_model(str(tiny_t5)), dict[str, torch.Tensor]()
    before = {name: weight.clone() for name, weight in loaded.model.state_dict().items()}

    def look(_: object) -> None:
        trained = {n: p for n, p in loaded.model.named_parameters() if p.requires_grad}
        factors.update({name: weight.detach().clone() for name, weight in trained.items()})

    fine_tune(loaded, data, plan, group=Group(), report=lambda _: True, tick=look)
    assert len(factors) == 2 * 2 * 6  # A and B of q and v, in two encoder and two times two decoder attentions
    kept = AutoModelForSeq2SeqLM.from_pretrained(kept_in(plan.folder)).state_dict()
    assert set(kept) == set(before)
    for name, weight in before.items():
        stem = name.removesuffix(".weight")
        low, high = (factors.get(f"{stem}.lora_{x}.t5ray.weight") for x in "AB")
        delta = torch.zeros(()) if low is None or high is None else 8.0 / 4 * high @ low
        assert torch.allclose(kept[name], weight + delta, atol=1e-6), name
    assert not torch.equal(
        kept["decoder.block.0.layer.0.SelfAttention.q.weight"], before["decoder.block.0.layer.0.SelfAttention.q.weight"]
    )


def test_the_first_loss_and_the_learning_are_those_of_peft(tiny_t5: Path, data: TokenisedData, plan: RunPlan) -> None:
    """One step of plain peft and AdamW on all rows gives the validation loss that the loop reports."""
    rows = len(data.train)
    config = plan.config.model_copy(update={"batch_size": rows, "max_grad_norm": None, "weight_decay": 0.0})
    seen: list[dict[str, Any]] = []
    loaded = load_model(str(tiny_t5))
    fine_tune(
        loaded, data, replace(plan, config=config), group=Group(),
        report=lambda report: seen.append(report) is None, tick=lambda pulse: None,  # type: ignore[func-returns-value]
    )  # fmt: skip
    torch.manual_seed(plan.config.seed)
    settings = peft.LoraConfig(r=4, lora_alpha=8.0, target_modules=["q", "v"])
    model = peft.get_peft_model(load_model(str(tiny_t5)).model, settings)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    _loss(model, data.train).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    expected = _loss(model.merge_and_unload(), data.validation).item()
    assert seen[0]["validation_loss"] == pytest.approx(expected, rel=1e-4)


def _loss(model: Any, split: Any) -> torch.Tensor:
    """Mean cross-entropy per target token, row by row."""
    total, tokens = torch.zeros(()), 0
    for i in range(len(split)):
        ids = torch.tensor(split.input_ids[split.input_offsets[i] : split.input_offsets[i + 1]].astype("int64"))[None]
        labels = torch.tensor(split.labels[split.label_offsets[i] : split.label_offsets[i + 1]].astype("int64"))[None]
        total = total + model(input_ids=ids, labels=labels).loss * labels.numel()
        tokens += labels.numel()
    return total / tokens
