"""The letter box between a driver and its workers."""

import threading
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import ray

from t5ray.config import DecodeConfig, TrainingConfig
from t5ray.errors import ClusterError
from t5ray.training.mailbox import Job, Mailbox, Message, RemoteMailbox
from t5ray.training.plan import RunPlan
from tests.training.conftest import TASK

PLAN = RunPlan(TrainingConfig(), DecodeConfig(), TASK, "exact_match", "max", Path("x"))
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


@pytest.mark.integration
def test_a_mailbox_whose_process_died_is_told_with_what_to_do(local_ray: None) -> None:
    box = RemoteMailbox.create(1)
    assert box.next_job(0, NOW) is None
    ray.kill(box.actor)
    with pytest.raises(ClusterError, match=r"workers report must stay alive, but it died, .* command with --resume\."):
        box.next_message(1, 0, NOW)


@pytest.mark.integration
def test_a_mailbox_is_lost_with_no_node_but_its_maker_s(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(ray, "remote", lambda **options: given.update(options) or MagicMock())
    RemoteMailbox.create(1)
    assert given["scheduling_strategy"].node_id == ray.get_runtime_context().get_node_id()
    assert given["scheduling_strategy"].soft  # it may be full
