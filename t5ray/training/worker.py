"""The function that Ray Train runs on every worker of a group: wait for a job, do it, wait for the next.

Model, tokenizer and data stay between jobs; each job starts from a pristine copy of the weights.
"""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import ray
import torch

from t5ray import heap
from t5ray.config import TrainingConfig
from t5ray.data.augmented import Augmenter, TrainingTexts
from t5ray.data.tokens import TokenisedData
from t5ray.errors import ModelError, StorageError
from t5ray.model.loading import LoadedModel, load_model
from t5ray.model.numeric import device_with
from t5ray.training.checkpoint import Progress
from t5ray.training.group import Group
from t5ray.training.loop import fine_tune
from t5ray.training.mailbox import Job, Mailbox, Message, RemoteMailbox
from t5ray.training.memory import within_memory
from t5ray.training.plan import RunFailed, RunPlan
from t5ray.training.rows import judge_rows
from t5ray.training.sharding import is_sharded

WAIT_S = 10.0
"""Longest single wait for the other side; waits are repeated."""
TICK_S = 0.5
"""Shortest time between two ticks."""


@dataclass(frozen=True)
class WorkerSetup:
    """What every worker of a group is started with."""

    model: str
    """Hub id or directory, readable from every node."""
    data: Any
    """Ray object reference of the `TokenisedData`; arrays are mapped, not copied."""
    mailbox: Mailbox | RemoteMailbox
    threads: int
    """torch threads of a worker."""
    texts: Any = None
    """Ray object reference of the `TrainingTexts`. None: no run augments."""
    gpu_share: float = 0.0
    """GPUs of a worker; with none it computes on the CPU. Where others share its GPU, it takes its part only."""


def serve(setup: WorkerSetup) -> None:
    """Do jobs until the mailbox is closed."""
    torch.set_num_threads(setup.threads)
    warm = WarmModel(setup.model)
    texts: TrainingTexts | None = None if setup.texts is None else ray.get(setup.texts)
    data = Augmenter(ray.get(setup.data), texts, warm.tokenizer)
    group = Group(device_with(setup.gpu_share))
    if 0 < setup.gpu_share < 1 and group.device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(setup.gpu_share)
    done = 0
    while True:
        job = setup.mailbox.next_job(done, WAIT_S)
        if job == "closed":
            return
        if isinstance(job, Job):
            config = job.plan.config
            _do(job, warm.pristine(config, group), data.data_for(config), group, setup.mailbox)
            heap.give_back()  # the next one may need less
            done = job.number


class WarmModel:
    """A loaded model that is as it was loaded whenever it is asked for."""

    def __init__(self, source: str) -> None:
        self._source = source
        loaded = load_model(source)
        self.tokenizer = loaded.tokenizer
        self._loaded: LoadedModel | None = loaded
        self._weights: dict[str, torch.Tensor] | None = None

    @torch.no_grad()
    def pristine(self, config: TrainingConfig, group: Group) -> LoadedModel:
        """Return the model with the weights it came with; one that the run will shard is given away."""
        loaded = self._loaded or load_model(self._source)
        self._loaded = None if is_sharded(config, loaded.model, group) else loaded
        if self._loaded is None:
            self._weights = None
            return loaded
        weights = loaded.model.state_dict()
        if self._weights is None:
            self._weights = {name: value.detach().clone() for name, value in weights.items()}
        for name, value in weights.items():
            value.copy_(self._weights[name])
        loaded.model.zero_grad(set_to_none=True)
        return loaded


def _do(job: Job, loaded: LoadedModel, data: TokenisedData, group: Group, mailbox: Mailbox | RemoteMailbox) -> None:
    def report(epoch_report: dict[str, Any]) -> bool | None:
        mailbox.post(job.number, Message(report=epoch_report))
        while (answer := mailbox.verdict(job.number, epoch_report["epoch"], WAIT_S)) is None:
            pass
        return None if answer == "closed" else bool(answer)

    def judge(progress: Progress) -> None:
        if job.plan.judge_rows:
            mailbox.post(job.number, _judged(job.plan, data, progress.best_step, group))

    ticks = _Throttle(TICK_S)
    try:
        fine_tune(
            loaded,
            data,
            job.plan,
            group=group,
            report=report,
            tick=lambda pulse: mailbox.tick(pulse) if ticks.due(pulse.step, {pulse.num_steps}) else None,
            judge=judge,
        )
    except RunFailed as exc:
        # the others may wait for this worker in a reduction: then only a new group frees them
        spent = group.size > 1 and isinstance(exc.__cause__, torch.cuda.OutOfMemoryError)
        mailbox.post(job.number, Message(failure=str(exc), spent=spent))
        if spent:
            raise
    except StorageError as exc:  # where others wait for this worker, they do so until the command ends the group
        mailbox.post(job.number, Message(failure=str(exc), away=True))
    if group.rank == 0:
        mailbox.finish(job.number)


def _judged(plan: RunPlan, data: TokenisedData, best_step: int, group: Group) -> Message:
    """Return what the best weights do on each row, or why they could not be judged."""
    started = time.perf_counter()
    try:
        with within_memory("Give a worker more of a GPU (--gpus-per-worker)"):
            rows = asdict(judge_rows(plan, data, best_step, group.device))
            return Message(rows=rows, judge_s=time.perf_counter() - started)
    except (RunFailed, ModelError) as exc:
        return Message(failure=str(exc))


class _Throttle:
    """Lets one call in `every_s` seconds through, and those at given counts."""

    def __init__(self, every_s: float) -> None:
        self.every_s, self.last = every_s, -1e9

    def due(self, count: int, always: Iterable[int]) -> bool:
        now = time.monotonic()
        if now - self.last < self.every_s and count not in always:
            return False
        self.last = now
        return True
