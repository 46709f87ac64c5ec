"""How often a slot starts its group again, with groups that die as they are told to."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray.train.torch

from t5ray.config import DecodeConfig, TrainingConfig
from t5ray.errors import ClusterError
from t5ray.training.mailbox import Job, Mailbox, Message, RemoteMailbox
from t5ray.training.plan import RunPlan
from t5ray.training.slot import RESTARTS, Slot, SlotSpec
from tests.training.conftest import TASK

PLAN = RunPlan(TrainingConfig(), DecodeConfig(), TASK, "exact_match", "max", Path("x"))
DONE = Message(report={"epoch": 1, "final": True})
OUT_OF_MEMORY = Message(failure="out of GPU memory", spent=True)
Do = Callable[[Mailbox, Job], None]


@contextmanager
def slot_whose_groups(do: Do, monkeypatch: pytest.MonkeyPatch, restarts: int = RESTARTS) -> Iterator[Slot]:
    """A slot of two workers, which do every job like this."""
    box = Mailbox()

    class Group:
        def __init__(self, *given: Any, **more: Any) -> None:
            pass

        def fit(self) -> None:
            done = 0
            while isinstance(job := box.next_job(done, 10.0), Job):
                do(box, job)
                box.finish(job.number)
                done = job.number

    monkeypatch.setattr("t5ray.training.slot.WAIT_S", 0.05)
    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Group)
    monkeypatch.setattr(RemoteMailbox, "create", lambda callers: box)
    slot = Slot(SlotSpec("model", None, 2, 1, 0.0, False, "scratch", restarts=restarts))
    try:
        yield slot
    finally:
        slot.close()


def test_runs_that_are_out_of_memory_cost_the_next_one_no_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    deaths: list[int] = []

    def do(box: Mailbox, job: Job) -> None:
        if job.number <= RESTARTS + 2:
            box.post(job.number, OUT_OF_MEMORY)
            raise RuntimeError("the others wait for ever")
        if len(deaths) < RESTARTS:
            deaths.append(job.number)
            raise RuntimeError("killed")
        box.post(job.number, DONE)

    with slot_whose_groups(do, monkeypatch) as slot:
        for _ in range(RESTARTS + 2):
            slot.start(PLAN)
            assert slot.next_message() == OUT_OF_MEMORY
            slot.settle()
        slot.start(PLAN)
        assert slot.next_message() == DONE
        assert len(deaths) == RESTARTS


@pytest.mark.parametrize("restarts", [0, RESTARTS])
def test_a_job_that_kills_every_group_ends_the_slot_with_the_cause(
    monkeypatch: pytest.MonkeyPatch, restarts: int
) -> None:
    began: list[int] = []

    def do(box: Mailbox, job: Job) -> None:
        began.append(job.number)
        raise RuntimeError("killed by the kernel")

    with slot_whose_groups(do, monkeypatch, restarts) as slot:
        slot.start(PLAN)
        with pytest.raises(ClusterError, match=r"must stay alive, but ended: RuntimeError: killed by the kernel"):
            slot.next_message()
    assert began == [1] * (1 + restarts)


def test_each_epoch_may_cost_as_many_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    died = list[int]()

    def do(box: Mailbox, job: Job) -> None:
        for epoch in (1, 2, 3):
            if died.count(epoch) < RESTARTS:
                died.append(epoch)
                raise RuntimeError("killed")
            box.post(job.number, Message(report={"epoch": epoch}))
            box.verdict(job.number, epoch, 10.0)

    with slot_whose_groups(do, monkeypatch) as slot:
        slot.start(PLAN)
        for epoch in (1, 2, 3):
            assert slot.next_message().report == {"epoch": epoch}
            slot.decide(epoch, go_on=True)
    assert died == [1, 1, 2, 2, 3, 3]


def test_each_job_may_cost_as_many_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[int] = []

    def do(box: Mailbox, job: Job) -> None:
        began.append(job.number)
        if began.count(job.number) <= RESTARTS:
            raise RuntimeError("killed")
        box.post(job.number, DONE)

    with slot_whose_groups(do, monkeypatch) as slot:
        for _ in range(3):
            slot.start(PLAN)
            assert slot.next_message() == DONE
            slot.settle()


def test_a_slot_whose_mailbox_is_lost_ends_without_another_group(monkeypatch: pytest.MonkeyPatch) -> None:
    began, ended = list[int](), threading.Event()

    class Lost:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            def lost(*given: Any) -> Any:
                raise ClusterError("it died")

            return lost

    def do(box: Mailbox, job: Job) -> None:
        began.append(job.number)
        ended.wait(10.0)
        raise RuntimeError("cannot report")

    with slot_whose_groups(do, monkeypatch) as slot:
        slot.start(PLAN)
        slot.mailbox = Lost()  # type: ignore[assignment]
        ended.set()
        with pytest.raises(ClusterError, match="it died"):
            slot.next_message()
        slot._thread.join(10.0)
        assert not slot._thread.is_alive()
    assert began == [1]
