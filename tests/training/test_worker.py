"""A worker does job after job on one model: what a job did to it is gone before the next."""

import gc
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from t5ray.data.tokens import TokenisedData
from t5ray.model.loading import LoadedModel, load_model
from t5ray.training import worker
from t5ray.training.group import Group
from t5ray.training.loop import fine_tune
from t5ray.training.mailbox import Job, Mailbox
from t5ray.training.plan import RunFailed, RunPlan
from t5ray.training.rows import RowScores, judge_rows
from t5ray.training.trainee import made_ready
from t5ray.training.worker import WarmModel, WorkerSetup, _do
from tests.training.running import curves, run

TENSORS = (torch.Tensor, torch.nn.Parameter)
TECHNIQUES: dict[str, dict[str, Any]] = {
    "pure bf16": {"precision": "bf16_pure"},
    "frozen": {"freeze_embeddings": True, "freeze_layers": 1},
    "averaged": {"ema_decay": 0.9, "layer_decay": 0.5},
    "adapted": {"lora_rank": 4, "lora_targets": "all", "lora_dropout": 0.1},
    "checkpointed": {"gradient_checkpointing": True, "dropout": 0.3},
}


def train(loaded: LoadedModel, data: TokenisedData, plan: RunPlan) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = []

    def report(told: dict[str, Any]) -> bool:
        reports.append(told)
        return True

    fine_tune(loaded, data, plan, group=Group(), report=report, tick=lambda pulse: None)
    return reports


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_technique_leaves_no_trace(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path, technique: str
) -> None:
    short = plan.config.model_copy(update={"max_epochs": 1})
    plan = replace(plan, config=short)
    expected, weights = run(tiny_t5, data, replace(plan, folder=tmp_path / "fresh"))
    rough = replace(plan, config=short.model_copy(update=TECHNIQUES[technique]), folder=tmp_path / "other")
    warm = WarmModel(str(tiny_t5))
    other = train(warm.pristine(rough.config, Group()), data, rough)
    assert curves(other) != curves(expected)  # it does something
    loaded = warm.pristine(plan.config, Group())
    assert curves(train(loaded, data, replace(plan, folder=tmp_path / "warm"))) == curves(expected)
    again = loaded.model.state_dict()
    assert list(again) == list(weights)
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_frozen_embeddings_need_no_gradient_in_the_slot_where_checkpoints_were_kept(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path
) -> None:
    """transformers hooks the embeddings for checkpoints of another kind, and leaves the hooks there."""
    short = plan.config.model_copy(update={"max_epochs": 1, "gradient_checkpointing": True})
    warm = WarmModel(str(tiny_t5))
    train(warm.pristine(short, Group()), data, replace(plan, config=short))
    frozen = short.model_copy(update={"freeze_embeddings": True})
    with made_ready(warm.pristine(frozen, Group()), frozen, Group()) as trainee:
        assert not trainee.loaded.model.shared(torch.tensor([[3, 4]])).requires_grad


def tensor_bytes() -> int:
    """Return what all tensors of this process take."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # looking at an object may wake its deprecation
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in gc.get_objects() if type(t) in TENSORS}
    return sum(storage.nbytes() for storage in storages.values())


def test_a_run_leaves_no_tensor_behind(tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path) -> None:
    warm, used = WarmModel(str(tiny_t5)), []
    for number, technique in enumerate(({}, *TECHNIQUES.values(), {})):
        config = plan.config.model_copy(update={"max_epochs": 1, **technique})
        train(warm.pristine(config, Group()), data, replace(plan, config=config, folder=tmp_path / str(number)))
        used.append(tensor_bytes())
    assert used == used[:1] * len(used)


def diverge(loaded: LoadedModel, data: TokenisedData, plan: RunPlan) -> None:
    wild = plan.config.model_copy(update={"learning_rate": 1e30, "max_grad_norm": None, "optimizer": "sgd"})
    with pytest.raises(RunFailed, match="must be finite"):
        train(loaded, data, replace(plan, config=wild))


def be_stopped(loaded: LoadedModel, data: TokenisedData, plan: RunPlan) -> None:
    rough = replace(plan, config=plan.config.model_copy(update={"learning_rate": 1e-2, "dropout": 0.3}))
    stop = lambda _: False  # noqa: E731
    assert len(fine_tune(loaded, data, rough, group=Group(), report=stop, tick=lambda _: None).reports) == 1


@pytest.mark.parametrize("end", [diverge, be_stopped])
def test_a_run_that_diverged_or_was_stopped_leaves_no_trace(
    tiny_t5: Path,
    data: TokenisedData,
    plan: RunPlan,
    tmp_path: Path,
    end: Callable[[LoadedModel, TokenisedData, RunPlan], None],
) -> None:
    expected, weights = run(tiny_t5, data, replace(plan, folder=tmp_path / "fresh"))
    warm = WarmModel(str(tiny_t5))
    end(warm.pristine(plan.config, Group()), data, replace(plan, folder=tmp_path / "other"))
    loaded = warm.pristine(plan.config, Group())
    assert curves(train(loaded, data, replace(plan, folder=tmp_path / "warm"))) == curves(expected)
    assert all(torch.equal(weight, weights[name]) for name, weight in loaded.model.state_dict().items())


@pytest.mark.parametrize(("gpus", "device"), [(0.0, "cpu"), (1.0, "cuda"), (2.0, "cuda")])
def test_a_worker_computes_on_a_gpu_only_where_it_was_given_one(
    tiny_t5: Path,
    data: TokenisedData,
    gpu_in_sight: None,
    monkeypatch: pytest.MonkeyPatch,
    gpus: float,
    device: str,
) -> None:
    devices = list[str]()
    monkeypatch.setattr(worker, "Group", lambda given: devices.append(given.type))
    monkeypatch.setattr(ray, "get", lambda held: held)
    box = Mailbox()
    box.close()
    worker.serve(WorkerSetup(str(tiny_t5), data, box, torch.get_num_threads(), gpu_share=gpus))
    assert devices == [device]


@pytest.mark.parametrize("fails", [True, False])
def test_a_gpu_too_small_to_judge_rows_fails_the_run_and_not_the_worker(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    def run_out(*given: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    if fails:
        monkeypatch.setattr(worker, "judge_rows", run_out)
    box, short = Mailbox(), plan.config.model_copy(update={"max_epochs": 1})
    job = Job(1, replace(plan, config=short, judge_rows=True))
    box.submit(job)
    box.decide(1, 1, True)
    _do(job, load_model(str(tiny_t5)), data, Group(), box)
    last = box.next_message(1, 1, wait_s=0)
    assert last is not None
    assert (last.rows is None) == fails
    cause = "out of GPU memory: CUDA out of memory. Tried to allocate 2.00 GiB. Give a worker more of a GPU"
    assert not fails or str(last.failure).startswith(cause)
    assert box.is_over(1, wait_s=0)


def test_weights_that_are_gone_when_rows_are_judged_fail_the_run_and_not_the_worker(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def when_they_are_gone(*given: Any) -> RowScores:
        shutil.rmtree(plan.folder)
        return judge_rows(*given)

    monkeypatch.setattr(worker, "judge_rows", when_they_are_gone)
    box, short = Mailbox(), plan.config.model_copy(update={"max_epochs": 1})
    box.submit(Job(1, replace(plan, config=short, judge_rows=True)))
    box.decide(1, 1, True)
    _do(Job(1, replace(plan, config=short, judge_rows=True)), load_model(str(tiny_t5)), data, Group(), box)
    last = box.next_message(1, 1, wait_s=0)
    assert last is not None
    assert f"{plan.folder}/best-8" in str(last.failure)
    assert box.is_over(1, wait_s=0)


class Gone(BaseException):
    """The process is gone."""


def test_a_worker_that_is_killed_while_it_judges_rows_trains_no_more_than_the_last_epoch_again(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*given: Any) -> None:
        raise Gone

    steps: list[int] = []
    monkeypatch.setattr(worker._Throttle, "due", lambda *given: True)
    job = Job(1, replace(plan, judge_rows=True, shares_disk=True))
    for judge in (killed, judge_rows):
        monkeypatch.setattr(worker, "judge_rows", judge)
        box, steps = Mailbox(), []
        monkeypatch.setattr(box, "tick", lambda pulse, steps=steps: steps.append(pulse.step))
        box.submit(job)
        for epoch in (1, 2, 3):
            box.decide(1, epoch, True)
        with suppress(Gone):
            _do(job, load_model(str(tiny_t5)), data, Group(), box)
    assert steps == list(range(17, 25))  # 8 steps an epoch
    last = box.next_message(1, 3, wait_s=0)
    assert last is not None
    assert last.rows is not None
    assert not list(plan.folder.glob("*.pt"))


def test_a_technique_whose_run_fails_leaves_no_trace(tiny_t5: Path, data: TokenisedData, plan: RunPlan) -> None:
    warm = WarmModel(str(tiny_t5))
    bad = plan.config.model_copy(update={"freeze_layers": 9, "lora_rank": 2})
    with pytest.raises(RunFailed, match="`freeze_layers <= 2` must hold for this model, but got 9"):
        train(warm.pristine(bad, Group()), data, replace(plan, config=bad))
    model = warm.pristine(plan.config, Group()).model
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert list(model.state_dict()) == list(load_model(str(tiny_t5)).model.state_dict())
