"""How a driver and a running group of workers talk: jobs in, epoch reports out, go-on or stop back.

One `Mailbox` object serves both ways of running: shared between two threads of a process, or as a Ray actor between
processes (`RemoteMailbox` then stands in for it). Every call can be repeated without harm, so that a worker that was
restarted, or a call that was retried, does not confuse the other side.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from t5ray.errors import ClusterError, one_line
from t5ray.training.plan import Pulse, RunPlan


@dataclass(frozen=True)
class Job:
    """One run for the group of workers."""

    number: int
    """Counts the jobs of this mailbox from 1."""
    plan: RunPlan


@dataclass(frozen=True)
class Message:
    """What a worker says of a job: worker 0, but for failures, which any may tell."""

    report: dict[str, Any] | None = None
    """An epoch's report."""
    failure: str | None = None
    """The cause, where the run failed."""
    rows: dict[str, Any] | None = None
    """`RowScores` of the best epoch, where the plan asks for them."""
    judge_s: float = 0.0
    """Seconds that judging these took."""
    spent: bool = False
    """Whether the failure also ends the group, which then is no death to count against anybody."""
    away: bool = False
    """Whether it is the storage that failed: the run is not over, but to go on in another session."""


@dataclass
class _Talk:
    """What was said about one job."""

    messages: list[Message] = field(default_factory=list)
    verdicts: dict[int, bool] = field(default_factory=dict)
    over: bool = False
    pulse: Pulse | None = None


class Mailbox:
    """Blocking, thread-safe letter box. Waiting calls return None when `wait_s` is up."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._job: Job | None = None
        self._closed = False
        self._spent = False
        self._talk = _Talk()

    def _wait(self, ready: Callable[[], Any], wait_s: float) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: ready() is not None, timeout=wait_s)
            return ready()

    # The driver's side

    def submit(self, job: Job) -> None:
        """Hand out a job; the one before must be over."""
        with self._changed:
            self._job, self._talk = job, _Talk()
            self._changed.notify_all()

    def next_message(self, job: int, index: int, wait_s: float) -> Message | None:
        """Wait for the job's message number `index`."""

        def ready() -> Message | None:
            known = self._talk.messages
            return known[index] if self._is(job) and len(known) > index else None

        found: Message | None = self._wait(ready, wait_s)
        return found

    def decide(self, job: int, epoch: int, go_on: bool) -> None:
        """Answer the report of an epoch."""
        with self._changed:
            if self._is(job):
                self._talk.verdicts[epoch] = go_on
            self._changed.notify_all()

    def is_over(self, job: int, wait_s: float) -> bool:
        """Wait until the workers have left the job."""
        return bool(self._wait(lambda: True if self._talk.over or not self._is(job) else None, wait_s))

    def take_spent(self) -> bool:
        """Say, once, whether a failed run has ended its group."""
        with self._changed:
            spent, self._spent = self._spent, False
            return spent

    def last_pulse(self) -> Pulse | None:
        """Return where the job is, as last heard."""
        return self._talk.pulse

    def close(self) -> None:
        """Tell the workers that no job will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # The workers' side

    def next_job(self, after: int, wait_s: float) -> Job | str | None:
        """Wait for a job with a number above `after`; `closed` when none will come."""

        def ready() -> Job | str | None:
            if self._closed:
                return "closed"
            if self._job is None or self._job.number <= after or self._talk.over:
                return None
            return self._job

        found: Job | str | None = self._wait(ready, wait_s)
        return found

    def post(self, job: int, message: Message) -> None:
        """Send a message; an epoch that was reported before is not added again."""
        with self._changed:
            if self._is(job) and not self._has(message):
                self._talk.messages.append(message)
                self._talk.over = self._talk.over or message.failure is not None  # a restarted group leaves it alone
                self._spent = self._spent or message.spent
                self._changed.notify_all()

    def verdict(self, job: int, epoch: int, wait_s: float) -> bool | str | None:
        """Wait for the answer to an epoch's report; `closed` when none will come, as with `next_job`."""

        def ready() -> bool | str | None:
            known = self._talk.verdicts.get(epoch) if self._is(job) else None
            return "closed" if known is None and (self._closed or not self._is(job)) else known

        found: bool | str | None = self._wait(ready, wait_s)
        return found

    def finish(self, job: int) -> None:
        """Say that the group has left the job."""
        with self._changed:
            if self._is(job):
                self._talk.over = True
                self._changed.notify_all()

    def tick(self, pulse: Pulse) -> None:
        """Say how far the job is."""
        self._talk.pulse = pulse

    def _is(self, job: int) -> bool:
        return self._job is not None and self._job.number == job

    def _has(self, message: Message) -> bool:
        if message.rows is not None:
            return any(m.rows is not None for m in self._talk.messages)
        if message.report is None:
            return False
        epoch = message.report["epoch"]
        return any(m.report is not None and m.report["epoch"] == epoch for m in self._talk.messages)


class RemoteMailbox:
    """A `Mailbox` in a Ray actor, with the same methods. Each raises ClusterError when the actor is lost."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    @classmethod
    def create(cls, callers: int) -> "RemoteMailbox":
        """Start the actor, with a thread for each caller that may wait at the same time.

        It runs on the node of the caller, who is lost with that in any case: no other node's loss takes it.
        """
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": callers + 4, "scheduling_strategy": here}
        return cls(ray.remote(**options)(Mailbox).remote())

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.actor, name)

        def call(*args: Any) -> Any:
            try:
                return ray.get(method.remote(*args))
            except ray.exceptions.RayActorError as exc:
                reason = one_line(exc)[:300]
                raise ClusterError(
                    f"The process through which workers report must stay alive, but it died, or its node did: {reason} "
                    "What was saved is kept: give the same command with --resume."
                ) from exc

        return call

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteMailbox, (self.actor,)
