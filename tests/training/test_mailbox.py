"""The letter box between a driver and its workers."""

import threading
from pathlib import Path

from t5ray.config import DecodeConfig, TrainingConfig
from t5ray.training.mailbox import Job, Mailbox, Message
from t5ray.training.plan import RunPlan
from tests.training.conftest import TASK

PLAN = RunPlan(0, TrainingConfig(), DecodeConfig(), TASK, "exact_match", "max", Path("x"))
NOW = 0.01


def test_a_job_is_given_out_until_it_is_over() -> None:
    box = Mailbox()
    assert box.next_job(0, NOW) is None
    box.submit(Job(1, PLAN))
    assert box.next_job(0, NOW) == Job(1, PLAN)
    assert box.next_job(0, NOW) == Job(1, PLAN)  # a restarted worker asks again
    assert box.next_job(1, NOW) is None
    box.finish(1)
    assert box.next_job(0, NOW) is None
    assert box.is_over(1, NOW)


def test_an_epoch_reported_again_by_a_restarted_worker_counts_once() -> None:
    box = Mailbox()
    box.submit(Job(1, PLAN))
    for epoch in (1, 1, 2):
        box.post(1, Message(report={"epoch": epoch}))
    assert box.next_message(1, 0, NOW) == Message(report={"epoch": 1})
    assert box.next_message(1, 1, NOW) == Message(report={"epoch": 2})
    assert box.next_message(1, 2, NOW) is None


def test_a_verdict_is_waited_for() -> None:
    box = Mailbox()
    box.submit(Job(1, PLAN))
    assert box.verdict(1, 1, NOW) is None
    threading.Timer(0.05, lambda: box.decide(1, 1, True)).start()
    assert box.verdict(1, 1, 5.0) is True


def test_another_job_or_a_closed_box_is_no_verdict() -> None:
    box = Mailbox()
    box.submit(Job(1, PLAN))
    box.submit(Job(2, PLAN))
    assert box.verdict(1, 1, NOW) == "closed"
    box.decide(2, 1, False)
    box.close()
    assert box.verdict(2, 1, NOW) is False
    assert box.verdict(2, 2, NOW) == "closed"
    assert box.next_job(2, NOW) == "closed"


def test_messages_of_an_old_job_are_dropped() -> None:
    box = Mailbox()
    box.submit(Job(1, PLAN))
    box.submit(Job(2, PLAN))
    box.post(1, Message(failure="late"))
    assert box.next_message(2, 0, NOW) is None
