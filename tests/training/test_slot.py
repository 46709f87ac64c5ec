"""Warm slots on a real Ray: as clean as a fresh process, and the same however many workers share a run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from t5ray.data.augmented import TrainingTexts
from t5ray.data.rows import Example
from t5ray.data.tokens import TokenisedData
from t5ray.training.checkpoint import load_last
from t5ray.training.plan import RunPlan
from t5ray.training.slot import Slot, SlotSpec
from tests.training.conftest import TASK, WORDS
from tests.training.running import kept

pytestmark = pytest.mark.integration


@contextmanager
def slot_of(
    model: Path, data: TokenisedData, scratch: Path, *, workers: int, in_process: bool = False
) -> Iterator[Slot]:
    slot = Slot(SlotSpec(str(model), ray.put(data), workers, 1, 0.0, in_process, str(scratch)))
    try:
        yield slot
    finally:
        slot.close()


def follow(slot: Slot, plan: RunPlan) -> list[dict[str, Any]]:
    slot.start(plan)
    reports: list[dict[str, Any]] = []
    while not reports or not reports[-1]["final"]:
        message = slot.next_message()
        assert message.report is not None, message.failure
        reports.append(message.report)
        slot.decide(message.report["epoch"], go_on=True)
    slot.settle()
    return reports


def losses(reports: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [(r["train_loss"], r["validation_loss"]) for r in reports]


def test_a_warm_slot_is_as_clean_as_a_fresh_process_and_survives_the_loss_of_its_worker(
    local_ray: None, tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path
) -> None:
    rough = plan.config.model_copy(update={"learning_rate": 1e-2, "dropout": 0.3})
    with slot_of(tiny_t5, data, tmp_path, workers=1, in_process=True) as here:
        expected = losses(follow(here, replace(plan, folder=tmp_path / "here")))
        follow(here, replace(plan, folder=tmp_path / "rough here", config=rough))
        assert losses(follow(here, replace(plan, folder=tmp_path / "warm here"))) == expected
    with slot_of(tiny_t5, data, tmp_path, workers=1) as slot:
        assert losses(follow(slot, replace(plan, folder=tmp_path / "fresh"))) == expected
        follow(slot, replace(plan, folder=tmp_path / "other", config=rough))
        assert losses(follow(slot, replace(plan, folder=tmp_path / "warm"))) == expected
        often = plan.config.model_copy(update={"checkpoint_every_s": 1e-3})
        assert losses(_with_a_kill(slot, replace(plan, folder=tmp_path / "killed", config=often))) == expected
    killed, undisturbed = (kept(tmp_path / name) / "model.safetensors" for name in ("killed", "here"))
    assert killed.read_bytes() == undisturbed.read_bytes()


def _with_a_kill(slot: Slot, plan: RunPlan) -> list[dict[str, Any]]:
    """Follow a run whose worker is killed (SIGKILL) in its second epoch."""
    slot.start(plan)
    first = slot.next_message()
    assert first.report is not None
    slot.decide(1, go_on=True)
    while (saved := load_last(plan.folder)) is None or saved[1].step < 11:
        time.sleep(0.001)
    ours = psutil.Process().children(recursive=True)  # another Ray on this machine is not ours
    workers = [p for p in ours if "RayTrainWorker" in " ".join(p.cmdline())]
    assert len(workers) == 1
    workers[0].kill()
    reports = [first.report]
    while not reports[-1]["final"]:
        message = slot.next_message()
        assert message.report is not None
        reports.append(message.report)
        slot.decide(message.report["epoch"], go_on=True)
    slot.settle()
    return reports


def test_two_workers_give_the_losses_of_one(
    local_ray: None, tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path
) -> None:
    with (
        slot_of(tiny_t5, data, tmp_path, workers=1, in_process=True) as one,
        slot_of(tiny_t5, data, tmp_path, workers=2) as two,
    ):
        for batch_size in (16, 1):  # with one row a step, one of the two workers has nothing to do
            config = plan.config.model_copy(update={"dropout": 0.0, "batch_size": batch_size})
            alone = follow(one, replace(plan, config=config, folder=tmp_path / f"one-{batch_size}"))
            shared = follow(two, replace(plan, config=config, folder=tmp_path / f"two-{batch_size}"))
            assert losses(shared) == [pytest.approx(pair, rel=1e-3) for pair in losses(alone)]
            assert [r["value"] for r in shared] == [r["value"] for r in alone]


def test_a_stopped_run_makes_room_for_the_next(
    local_ray: None, tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path
) -> None:
    with slot_of(tiny_t5, data, tmp_path, workers=1, in_process=True) as slot:
        slot.start(plan)
        assert slot.next_message().report is not None
        slot.decide(1, go_on=False)
        slot.settle()
        assert len(follow(slot, replace(plan, folder=tmp_path / "next"))) == 3


def test_each_run_of_a_slot_trains_on_the_copies_that_it_asks_for(
    local_ray: None, tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path
) -> None:
    train = [w for i, w in enumerate(WORDS) if i % 5]  # the rows of `data.train`
    rows = [Example(f"first: {word}", (word[0],), "", ((7, 10),)) for word in train]
    texts = TrainingTexts.of(rows, TASK).with_translations({word: f"{word}!" for word in train})
    spec = SlotSpec(str(tiny_t5), ray.put(data), 1, 1, 0.0, True, str(tmp_path), ray.put(texts))
    slot = Slot(spec)
    try:
        steps = []
        for number, rate in enumerate((0.0, 1.0, 0.0)):
            changes = {"max_epochs": 1, "augment_back_translation_rate": rate}
            own = replace(plan, config=plan.config.model_copy(update=changes), folder=tmp_path / str(number))
            steps += [report["step"] for report in follow(slot, own)]
        assert steps == [128 // 16, 256 // 16, 128 // 16]
    finally:
        slot.close()
