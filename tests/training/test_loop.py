"""The loop learns, repeats itself bit by bit, survives interruption, and does not depend on memory."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from t5ray.data.tokens import TokenisedData
from t5ray.model.loading import LoadedModel, load_model
from t5ray.training.group import Group
from t5ray.training.loop import fine_tune
from t5ray.training.plan import RunFailed, RunPlan
from tests.training.running import Weights, curves, go_on, kept, run


def test_the_loss_falls_below_guessing(tiny_t5: Path, data: TokenisedData, plan: RunPlan) -> None:
    config = plan.config.model_copy(update={"learning_rate": 1e-2, "max_epochs": 15})
    reports, _ = run(tiny_t5, data, replace(plan, config=config))
    assert [r["epoch"] for r in reports] == list(range(1, 16))
    assert reports[-1]["train_loss"] < math.log(8) / 2  # one of eight letters guessed, the end of sequence known
    assert reports[-1]["best_value"] > 0.5, [r["value"] for r in reports]
    assert [r["final"] for r in reports] == [False] * 14 + [True]


def test_the_reported_validation_loss_is_the_model_s_own(tiny_t5: Path, data: TokenisedData, plan: RunPlan) -> None:
    reports, weights = run(tiny_t5, data, plan)
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5)
    model.load_state_dict(weights)
    split, total, tokens = data.validation, 0.0, 0
    for i in range(len(split)):
        ids = torch.tensor(split.input_ids[split.input_offsets[i] : split.input_offsets[i + 1]].astype("int64"))[None]
        labels = torch.tensor(split.labels[split.label_offsets[i] : split.label_offsets[i + 1]].astype("int64"))[None]
        total += model(input_ids=ids, labels=labels).loss.item() * labels.numel()
        tokens += labels.numel()
    assert reports[-1]["validation_loss"] == pytest.approx(total / tokens, rel=1e-5)


def test_the_same_plan_gives_the_same_bits(tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path) -> None:
    one, weights = run(tiny_t5, data, plan)
    two, again = run(tiny_t5, data, replace(plan, folder=tmp_path / "second"))
    assert curves(one) == curves(two)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.mark.parametrize("micro", [{"micro_batch_size": 3}, {"micro_batch_tokens": 40}])
def test_losses_do_not_depend_on_the_micro_batch(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path, micro: dict[str, int]
) -> None:
    still = replace(plan, config=plan.config.model_copy(update={"dropout": 0.0}))
    whole, _ = run(tiny_t5, data, still)
    small = replace(still, folder=tmp_path / "small", config=still.config.model_copy(update=micro))
    parts, _ = run(tiny_t5, data, small)
    assert torch.allclose(torch.tensor(curves(whole)), torch.tensor(curves(parts)), rtol=1e-3)


def test_gradient_checkpointing_changes_no_loss(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path
) -> None:
    still = plan.config.model_copy(update={"dropout": 0.0, "max_epochs": 1})
    plain, _ = run(tiny_t5, data, replace(plan, config=still))
    config = still.model_copy(update={"gradient_checkpointing": True})
    saved, _ = run(tiny_t5, data, replace(plan, config=config, folder=tmp_path / "saved"))
    assert torch.allclose(torch.tensor(curves(plain)), torch.tensor(curves(saved)), rtol=1e-4)


def test_gradient_checkpointing_runs_each_block_again_in_the_backward_pass(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path
) -> None:
    def calls(**settings: Any) -> int:
        loaded, seen = load_model(str(tiny_t5)), list[bool]()
        loaded.model.decoder.block[1].layer[2].DenseReluDense.wi.register_forward_hook(
            lambda *_: seen.append(torch.is_grad_enabled())
        )
        config = plan.config.model_copy(update={"max_epochs": 1, **settings})
        fine_tune(loaded, data, replace(plan, config=config), group=Group(), report=go_on, tick=lambda _: None)
        return sum(seen)

    assert calls() == 8  # steps
    assert calls(gradient_checkpointing=True) == 2 * 8


def test_an_error_of_the_run_is_no_failure_of_its_settings(tiny_t5: Path, data: TokenisedData, plan: RunPlan) -> None:
    def break_down(_: object) -> None:
        raise ValueError("zip() argument 2 is shorter than argument 1")

    with pytest.raises(ValueError, match="is shorter than"):
        run(tiny_t5, data, plan, tick=break_down)


def test_best_holds_the_weights_of_the_best_epoch(tiny_t5: Path, data: TokenisedData, plan: RunPlan) -> None:
    snapshots: list[Weights] = []
    loaded = load_model(str(tiny_t5))

    def snapshot(report: dict[str, Any]) -> bool:
        snapshots.append({k: v.clone() for k, v in loaded.model.state_dict().items()})
        return True

    progress = fine_tune(loaded, data, plan, group=Group(), report=snapshot, tick=lambda pulse: None)
    best = AutoModelForSeq2SeqLM.from_pretrained(kept(plan.folder)).state_dict()
    expected = snapshots[progress.best_epoch - 1]
    assert all(torch.equal(best[name], expected[name]) for name in best)
    assert progress.best_value == max(r["value"] for r in progress.reports)


def test_a_stopped_run_leaves_only_its_best_weights(tiny_t5: Path, data: TokenisedData, plan: RunPlan) -> None:
    reports, _ = run(tiny_t5, data, plan, lambda report: report["epoch"] < 2)
    assert len(reports) == 2
    assert list(plan.folder.iterdir()) == [kept(plan.folder)]


def test_a_loss_that_is_not_finite_ends_the_run_with_its_cause(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan
) -> None:
    loaded: LoadedModel = load_model(str(tiny_t5))
    with torch.no_grad():
        loaded.model.shared.weight.fill_(math.inf)
    with pytest.raises(RunFailed, match="the loss must be finite, but is nan at step 1"):
        fine_tune(loaded, data, plan, group=Group(), report=go_on, tick=lambda pulse: None)


def test_the_objective_may_be_the_validation_loss(tiny_t5: Path, data: TokenisedData, plan: RunPlan) -> None:
    reports, _ = run(tiny_t5, data, replace(plan, objective="validation_loss", mode="min"))
    assert [r["value"] for r in reports] == [r["validation_loss"] for r in reports]
    assert reports[-1]["best_value"] == min(r["value"] for r in reports)


def test_learning_rate_history_follows_the_schedule(tiny_t5: Path, data: TokenisedData, plan: RunPlan) -> None:
    reports, _ = run(tiny_t5, data, plan)
    steps = [point["step"] for report in reports for point in report["history"]]
    rates = [point["learning_rate"] for report in reports for point in report["history"]]
    assert steps == list(range(1, 25))  # 128 rows in steps of 16, three epochs
    assert rates == pytest.approx([3e-3 * (1 - i / 24) for i in range(24)])
