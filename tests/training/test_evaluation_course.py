"""When a run is judged, when it stops, and whose weights it keeps."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from t5ray.data.tokens import TokenisedData
from t5ray.model.loading import LoadedModel, load_model
from t5ray.training import loop
from t5ray.training.checkpoint import StateWriter
from t5ray.training.group import Group
from t5ray.training.plan import Pulse, RunPlan
from t5ray.training.validation import Validation
from tests.training.running import Weights, run


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Weights]:
    """The weights at each evaluation; validation losses are 0.45, 0.40, 0.42, 0.30, ..."""
    seen: list[Weights] = []
    losses: Iterator[float] = iter([0.45, 0.40, 0.42, 0.30, 0.50, 0.60])

    def scripted(loaded: LoadedModel, *_: Any, **__: Any) -> Validation:
        seen.append({name: weight.clone() for name, weight in loaded.model.state_dict().items()})
        return Validation(next(losses), {"exact_match": 0.5}, 0.0)

    monkeypatch.setattr(loop, "validate", scripted)
    return seen


def planned(plan: RunPlan, **settings: Any) -> RunPlan:
    return replace(plan, objective="validation_loss", mode="min", config=plan.config.model_copy(update=settings))


def kept(plan: RunPlan, name: str = "best-*") -> Weights:
    (folder,) = plan.folder.glob(name)
    weights: Weights = AutoModelForSeq2SeqLM.from_pretrained(folder).state_dict()
    return weights


def same(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[name], other[name]) for name in other)


def test_the_run_stops_after_epoch_3_and_returns_epoch_2_s_weights(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, judged: list[Weights]
) -> None:
    patient = planned(plan, max_epochs=6, early_stopping_patience=1)
    reports, _ = run(tiny_t5, data, patient)
    assert [r["validation_loss"] for r in reports] == [0.45, 0.40, 0.42]
    assert [(r["final"], r["early_stopped"]) for r in reports] == [(False, False)] * 2 + [(True, True)]
    assert (reports[-1]["best_epoch"], reports[-1]["best_value"], reports[-1]["best_step"]) == (2, 0.40, 16)
    assert same(kept(patient), judged[1])
    assert not same(kept(patient), judged[2])
    assert [p.name for p in patient.folder.iterdir()] == ["best-16"]


def test_patience_watches_any_metric(tiny_t5: Path, data: TokenisedData, plan: RunPlan, judged: list[Weights]) -> None:
    config = {"max_epochs": 6, "early_stopping_patience": 2, "early_stopping_metric": "exact_match"}
    reports, _ = run(tiny_t5, data, planned(plan, **config))
    assert len(reports) == 3  # exact match stands at 0.5 from the first epoch on


def test_patience_may_watch_the_loss_beside_another_objective(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, judged: list[Weights]
) -> None:
    config = {"max_epochs": 6, "early_stopping_patience": 1, "early_stopping_metric": "validation_loss"}
    reports, _ = run(tiny_t5, data, replace(plan, config=plan.config.model_copy(update=config)))
    assert [r["validation_loss"] for r in reports] == [0.45, 0.40, 0.42]


def test_patience_may_watch_how_many_outputs_are_cut_off(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([0.5, 0.2, 0.4])
    monkeypatch.setattr(loop, "validate", lambda *_, **__: Validation(1.0, {"exact_match": 0.5}, next(shares)))
    config = {"max_epochs": 6, "early_stopping_patience": 1, "early_stopping_metric": "hit_cap"}
    reports, _ = run(tiny_t5, data, replace(plan, config=plan.config.model_copy(update=config)))
    assert [r["hit_cap"] for r in reports] == [0.5, 0.2, 0.4]


@pytest.mark.parametrize(("min_gain", "epochs"), [(0.04, 3), (0.06, 2)])
def test_a_gain_too_small_is_none(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, judged: list[Weights], min_gain: float, epochs: int
) -> None:
    config = {"max_epochs": 6, "early_stopping_patience": 1, "early_stopping_min_gain": min_gain}
    reports, _ = run(tiny_t5, data, planned(plan, **config))
    assert len(reports) == epochs  # 0.45, 0.40, 0.42


def test_states_are_saved_so_many_seconds_after_the_last_one(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, saved = 0.0, list[int]()

    def after_ten_seconds(pulse: Pulse) -> None:
        nonlocal now
        now += 10.0

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now, perf_counter=lambda: now))
    monkeypatch.setattr(StateWriter, "save", lambda self, state, progress, then: saved.append(progress.step))
    run(tiny_t5, data, planned(plan, checkpoint_every_s=25.0), tick=after_ten_seconds)
    assert saved == [3, 6, 8, 11, 14, 16, 19, 22]  # epochs of 8 steps; none at the end of the run


def test_an_epoch_judged_often_speaks_with_its_best_evaluation(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, judged: list[Weights]
) -> None:
    often = planned(plan, max_epochs=2, evaluate_every_steps=3)  # 8 steps an epoch: judged at 3, 6, 8
    reports, _ = run(tiny_t5, data, often)
    assert [[e["step"] for e in r["evaluations"]] for r in reports] == [[3, 6, 8], [11, 14, 16]]
    assert [r["value"] for r in reports] == [0.40, 0.30]
    assert [(r["best_epoch"], r["best_step"]) for r in reports] == [(1, 6), (2, 11)]
    assert same(kept(often), judged[3])


def test_patience_may_end_a_run_within_an_epoch(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, judged: list[Weights]
) -> None:
    often = planned(plan, max_epochs=2, evaluate_every_steps=2, early_stopping_patience=1)
    (report,) = run(tiny_t5, data, often)[0]
    assert (report["step"], report["final"], report["early_stopped"]) == (6, True, True)
    assert same(kept(often), judged[1])


def test_judging_often_does_not_change_what_is_learnt(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path
) -> None:
    _, seldom = run(tiny_t5, data, plan)
    often = replace(plan, folder=tmp_path / "often", config=plan.config.model_copy(update={"evaluate_every_steps": 3}))
    _, weights = run(tiny_t5, data, often)
    assert same(weights, seldom)


def test_what_is_judged_and_kept_is_the_average_of_the_weights(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path
) -> None:
    """Followed by hand: average = d * average + (1 - d) * weight, d = min(0.9, (1 + t) / (10 + t))."""
    loaded = load_model(str(tiny_t5))
    config = plan.config.model_copy(update={"ema_decay": 0.9, "max_epochs": 1})
    name = "decoder.block.1.layer.2.DenseReluDense.wi.weight"
    weight = loaded.model.get_parameter(name)
    average, steps = weight.detach().clone(), 0

    def follow(_: object) -> None:
        nonlocal average, steps
        steps += 1
        keep = min(0.9, (1 + steps) / (10 + steps))
        average = keep * average + (1 - keep) * weight.detach()

    averaged = replace(plan, config=config)
    loop.fine_tune(loaded, data, averaged, group=Group(), report=lambda _: True, tick=follow)
    assert steps == 8
    assert torch.allclose(kept(averaged)[name], average, atol=1e-6)
    assert not torch.allclose(weight, average, atol=1e-4)  # the live weights went on from the average
    plain = replace(plan, folder=tmp_path / "plain", config=plan.config.model_copy(update={"max_epochs": 1}))
    _, weights = run(tiny_t5, data, plain)
    assert torch.equal(weights[name], weight)  # and were not changed by it
