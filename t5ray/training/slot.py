"""A slot: a Ray Train worker group that lives on and runs job after job.

Starting processes and importing torch costs several seconds, loading weights more; a slot pays that once. Groups of one
run in Ray Train's local mode, in the process that holds the slot; larger ones are Ray Train workers of their own.
"""

import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch

from t5ray.errors import ClusterError
from t5ray.training.mailbox import Job, Mailbox, Message, RemoteMailbox
from t5ray.training.plan import RunPlan, Tick
from t5ray.training.rendezvous import GroupConfig
from t5ray.training.worker import WAIT_S, WorkerSetup, serve

TICK_WAIT_S = 0.5
"""Time between two looks at a running job's progress."""
CLOSE_S = 5.0
"""How long a group may take to leave its last job and end."""
RESTARTS = 2
"""How often a group that dies is started again before a job's next epoch, where nobody else begins the job again."""


@dataclass(frozen=True)
class SlotSpec:
    """What every slot of a search is made of."""

    model: str
    data: Any
    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    in_process: bool
    """Run a group of one in the process that holds the slot, whose Ray actor has the resources."""
    scratch: str
    """Directory for what Ray Train writes about the group."""
    texts: Any = None
    """Ray object reference of the `TrainingTexts`. None: no run augments."""
    restarts: int = RESTARTS
    """How often a larger group that dies is started again for one epoch; one in this process never is."""


class Slot:
    """Runs one job at a time: `start`, then `next_message` and `decide` in turn until the run ends."""

    def __init__(self, spec: SlotSpec) -> None:
        """Start the group; it loads the model while the caller goes on."""
        self.spec = spec
        remote = not spec.in_process
        self.mailbox: Mailbox | RemoteMailbox = RemoteMailbox.create(2 * spec.num_workers) if remote else Mailbox()
        self._job = 0
        self._num_read = 0
        self._deaths = 0
        """Of groups, since the job was given out or last said anything."""
        self._closed = threading.Event()
        self._crash: str | None = None
        self._thread = threading.Thread(target=self._run_group, name="t5ray-slot", daemon=True)
        self._thread.start()

    def _run_group(self) -> None:
        """Run a group until the slot is closed, and another one after each that dies, as often as an epoch may cost it.

        A group that a failed run has ended counts for nobody: the next job is not to blame.
        """
        while not self._closed.is_set():
            try:
                self._trainer().fit()
            except Exception as exc:  # noqa: BLE001 (whatever ends the group is the message; see _raise_if_dead)
                if self._closed.is_set():
                    return
                lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
                self._crash = f"{type(exc).__name__}: {lines[-1] if lines else ''}"
                try:
                    self._deaths += not self.mailbox.take_spent()
                except ClusterError:  # no other group could be told anything; the caller hears it as well
                    return
                if self.spec.in_process or self._deaths > self.spec.restarts:
                    return

    def _trainer(self) -> ray.train.torch.TorchTrainer:
        spec = self.spec
        setup = WorkerSetup(spec.model, spec.data, self.mailbox, spec.cpus_per_worker, spec.texts, spec.gpus_per_worker)
        resources = {"CPU": spec.cpus_per_worker, "GPU": spec.gpus_per_worker}
        return ray.train.torch.TorchTrainer(
            _serve_entry,
            train_loop_config={"setup": setup},
            scaling_config=ray.train.ScalingConfig(
                num_workers=0 if spec.in_process else spec.num_workers,
                use_gpu=spec.gpus_per_worker > 0,
                resources_per_worker=None if spec.in_process else {k: v for k, v in resources.items() if v},
            ),
            torch_config=GroupConfig(),
            # Ray Train counts the deaths of a group's whole life; a slot counts those of each epoch
            run_config=ray.train.RunConfig(
                storage_path=spec.scratch, failure_config=ray.train.FailureConfig(max_failures=0)
            ),
        )

    def start(self, plan: RunPlan) -> None:
        """Begin a run."""
        self._job += 1
        self._num_read = 0
        self._deaths = 0
        self.mailbox.submit(Job(self._job, plan))

    def next_message(self, on_tick: Tick | None = None) -> Message:
        """Wait for the next epoch's report, or the failure of the run.

        Args:
            on_tick: called about once a second with where the running job is.
        Raises:
            ClusterError: the group has died more often, for one epoch, than it may be restarted.
        """
        while True:
            wait_s = TICK_WAIT_S if on_tick or self._dead else WAIT_S
            message: Message | None = self.mailbox.next_message(self._job, self._num_read, wait_s)
            if message is not None:
                self._num_read += 1
                self._deaths = 0  # what was told before is not told again: the job has come further
                return message
            self._raise_if_dead()
            pulse = self.mailbox.last_pulse() if on_tick else None
            if on_tick and pulse:
                on_tick(pulse)

    def decide(self, epoch: int, *, go_on: bool) -> None:
        """Answer the report of an epoch."""
        self.mailbox.decide(self._job, epoch, go_on)

    def settle(self) -> None:
        """Wait until the group has left the job."""
        while not self.mailbox.is_over(self._job, WAIT_S):
            self._raise_if_dead()

    def close(self) -> None:
        """End the group and give its resources back."""
        self._closed.set()
        with suppress(ClusterError):  # there is nobody left to tell
            self.mailbox.close()
        self._thread.join(CLOSE_S)
        if isinstance(self.mailbox, RemoteMailbox):
            ray.kill(self.mailbox.actor)

    @property
    def _dead(self) -> bool:
        return not self._thread.is_alive()

    def _raise_if_dead(self) -> None:
        if self._dead:
            raise ClusterError(f"The workers of a run must stay alive, but ended: {self._crash or 'no reason given'}")


def _serve_entry(config: dict[str, Any]) -> None:
    serve(config["setup"])
