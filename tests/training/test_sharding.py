"""Sharded over two processes (FSDP2 over gloo) a run has the losses of copies (DDP), and what it saves is whole."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch.multiprocessing.spawn import start_processes
from transformers import AutoModelForSeq2SeqLM

from t5ray.config import TrainingConfig
from t5ray.data.tokens import TokenisedData
from t5ray.model.loading import load_model
from t5ray.training import loop, step
from t5ray.training.checkpoint import load_last
from t5ray.training.group import Group
from t5ray.training.plan import RunPlan
from t5ray.training.trainee import Trainee
from tests.training.conftest import plan_in
from tests.training.running import curves, kept, run

WORKERS = 2
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"ema_decay": 0.9, "micro_batch_tokens": 100, "gradient_checkpointing": True},
    "adapted": {"lora_rank": 4, "freeze_layers": 1},
}
EACH_VARIANT = pytest.mark.parametrize(
    "told", ["plain", pytest.param("adapted", marks=pytest.mark.long)], indirect=True
)
PURE = {"precision": "bf16_pure"}
Told = dict[str, list[dict[str, Any]]]


class CutOff(Exception):
    """The plug is pulled."""


def _train(model: str, data: TokenisedData, plan: RunPlan, kind: list[bool]) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = []

    def report(told: dict[str, Any]) -> bool:
        reports.append(told)
        return True

    real = Trainee.state

    def spied(trainee: Trainee) -> dict[str, Any]:
        kind.append(trainee.sharded)
        return real(trainee)

    with mock.patch.object(Trainee, "state", spied):
        loop.fine_tune(load_model(model), data, plan, group=Group(), report=report, tick=lambda pulse: None)
    return reports


def _cut_off_after(steps: int) -> Callable[..., Any]:
    """A step function that fails on every worker after some steps."""
    real = step.optimizer_step
    done: list[int] = []

    def one(*args: Any) -> Any:
        if len(done) == steps:
            raise CutOff
        done.append(1)
        return real(*args)

    return one


def _all_runs(rank: int, store: str, model: str, data: TokenisedData, plan: RunPlan, variant: str, out: str) -> None:
    """Train with copies, sharded, sharded with an interruption, and in bf16; worker 0 writes what was told."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORKERS)
    told: Told = {}
    for way in ("ddp", "fsdp", "fsdp-cut-off", "ddp-pure"):
        settings = PURE if way == "ddp-pure" else VARIANTS[variant]
        update = {**settings, "parallel": way[:4].rstrip("-"), "checkpoint_every_s": 1e-9}
        here = replace(plan, config=plan.config.model_copy(update=update), folder=plan.folder / way)
        kind: list[bool] = []
        if way == "fsdp-cut-off":
            with mock.patch.object(loop, "optimizer_step", _cut_off_after(1)), pytest.raises(CutOff):
                _train(model, data, here, kind)
            dist.barrier()  # worker 0 has written
            saved = load_last(here.folder)
            assert saved is not None
            assert saved[1].step == 1
        told[way] = _train(model, data, here, kind)
        assert set(kind) == {way.startswith("fsdp")}
    if rank == 0:
        Path(out).write_bytes(pickle.dumps(told))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


def _plan(folder: Path) -> RunPlan:
    return plan_in(folder, dropout=0.0, max_epochs=1, batch_size=64)


@pytest.fixture(scope="module")
def told(request: pytest.FixtureRequest, tiny_t5: Path, data: TokenisedData, place: Path) -> Told:
    """What the runs of one variant told; two processes make them all."""
    variant = request.param
    out = place / f"{variant}.told"
    arguments = (str(place / f"{variant}.store"), str(tiny_t5), data, _plan(place / variant), variant, str(out))
    start_processes(_all_runs, arguments, nprocs=WORKERS, start_method="spawn")  # type: ignore[no-untyped-call]
    found: Told = pickle.loads(out.read_bytes())  # noqa: S301 (our own)
    return found


@EACH_VARIANT
def test_sharded_runs_have_the_losses_of_copies(told: Told) -> None:
    copies, parts = (torch.tensor(curves(told[way])) for way in ("ddp", "fsdp"))
    assert torch.allclose(parts, copies, rtol=1e-4)


@EACH_VARIANT
def test_a_sharded_run_that_was_cut_off_ends_as_an_undisturbed_one(told: Told) -> None:
    whole, resumed = (torch.tensor(curves(told[way])) for way in ("fsdp", "fsdp-cut-off"))
    assert torch.allclose(resumed, whole, rtol=1e-5)


@EACH_VARIANT
def test_what_a_sharded_run_keeps_is_a_plain_t5(told: Told, place: Path, request: pytest.FixtureRequest) -> None:
    runs = place / request.node.callspec.params["told"]
    copies, parts = (AutoModelForSeq2SeqLM.from_pretrained(kept(runs / way)).state_dict() for way in ("ddp", "fsdp"))
    assert list(parts) == list(copies)
    assert all(torch.allclose(parts[name], copies[name], atol=1e-4) for name in copies)


@pytest.mark.parametrize("told", ["plain"], indirect=True)
def test_two_workers_in_pure_bf16_have_the_losses_of_one(
    told: Told, tiny_t5: Path, data: TokenisedData, tmp_path: Path
) -> None:
    plan = _plan(tmp_path)
    one, _ = run(tiny_t5, data, replace(plan, config=plan.config.model_copy(update=PURE)))
    for two, alone in zip(curves(told["ddp-pure"]), curves(one), strict=True):
        assert two[:2] == pytest.approx(alone[:2], rel=0.02)


def test_adafactor_cannot_be_sharded() -> None:
    with pytest.raises(ValidationError, match="parallel=fsdp cannot shard Adafactor's factored state"):
        TrainingConfig(parallel="fsdp", optimizer="adafactor")
