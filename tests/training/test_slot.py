"""Warm slots on a real Ray: as clean as a fresh process, and the same however many workers share a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from t5ray.data.tokens import TokenisedData
from t5ray.training.loop import RunPlan
from t5ray.training.slot import Slot, SlotSpec

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


def test_a_later_run_in_a_warm_slot_gives_the_bits_of_a_fresh_one(
    local_ray: None, tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path
) -> None:
    other = replace(
        plan, folder=tmp_path / "other", config=plan.config.model_copy(update={"learning_rate": 1e-2, "dropout": 0.3})
    )
    with slot_of(tiny_t5, data, tmp_path, workers=1) as fresh:
        expected = follow(fresh, plan)
    with slot_of(tiny_t5, data, tmp_path, workers=1) as warm:
        follow(warm, other)
        assert losses(follow(warm, replace(plan, folder=tmp_path / "again"))) == losses(expected)


def test_in_process_and_worker_process_give_the_same_bits(
    local_ray: None, tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path
) -> None:
    with slot_of(tiny_t5, data, tmp_path, workers=1) as apart:
        expected = follow(apart, plan)
    with slot_of(tiny_t5, data, tmp_path, workers=1, in_process=True) as here:
        assert losses(follow(here, replace(plan, folder=tmp_path / "here"))) == losses(expected)


@pytest.mark.parametrize("batch_size", [16, 1])
def test_two_workers_give_the_losses_of_one(
    local_ray: None, tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path, batch_size: int
) -> None:
    still = replace(plan, config=plan.config.model_copy(update={"dropout": 0.0, "batch_size": batch_size}))
    with slot_of(tiny_t5, data, tmp_path, workers=1, in_process=True) as one:
        expected = follow(one, still)
    with slot_of(tiny_t5, data, tmp_path, workers=2) as two:
        found = follow(two, replace(still, folder=tmp_path / "two"))
    assert [pytest.approx(pair, rel=1e-3) for pair in losses(expected)] == losses(found)
    assert [r["value"] for r in found] == [r["value"] for r in expected]


def test_a_stopped_run_makes_room_for_the_next(
    local_ray: None, tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path
) -> None:
    with slot_of(tiny_t5, data, tmp_path, workers=1, in_process=True) as slot:
        slot.start(plan)
        assert slot.next_message().report is not None
        slot.decide(1, go_on=False)
        slot.settle()
        assert len(follow(slot, replace(plan, folder=tmp_path / "next"))) == 3


def test_a_worker_that_dies_is_replaced_and_the_run_goes_on(
    local_ray: None, tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path
) -> None:
    import psutil

    with slot_of(tiny_t5, data, tmp_path, workers=1) as undisturbed:
        expected = follow(undisturbed, plan)
    with slot_of(tiny_t5, data, tmp_path, workers=1) as slot:
        slot.start(replace(plan, folder=tmp_path / "killed"))
        first = slot.next_message()
        assert first.report is not None
        workers = [p for p in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(p.info["cmdline"] or [])]
        assert len(workers) == 1
        workers[0].kill()
        reports = [first.report]
        slot.decide(1, go_on=True)
        while not reports[-1]["final"]:
            message = slot.next_message()
            assert message.report is not None
            reports.append(message.report)
            slot.decide(message.report["epoch"], go_on=True)
        slot.settle()
    assert losses(reports) == losses(expected)
