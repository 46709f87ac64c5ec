"""The training loop: epochs of optimizer steps, judged, saved and reported.

Plain PyTorch. It knows no Ray: it is handed a model, tokenised data, a group of workers and two callables.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from typing import Any

import torch

from t5ray.data.batches import epoch_steps, num_steps
from t5ray.data.tokens import TokenisedData
from t5ray.model.loading import LoadedModel
from t5ray.model.numeric import resolve_precision
from t5ray.model.optim import learning_rate_at, set_learning_rate
from t5ray.storage import upload_file
from t5ray.training.best import BestWeights
from t5ray.training.best_so_far import BestSoFar
from t5ray.training.checkpoint import LAST, Progress, StateWriter, drop_last, load_last, sweep
from t5ray.training.course import EpochCourse, report_of
from t5ray.training.group import Group
from t5ray.training.memory import MORE_MEMORY, within_memory
from t5ray.training.micro_batch import row_limit
from t5ray.training.patience import patiently
from t5ray.training.plan import Evaluation, Pulse, Report, RunFailed, RunPlan, Tick
from t5ray.training.random_state import random_state, set_random_state
from t5ray.training.shared_state import share_last
from t5ray.training.step import optimizer_step
from t5ray.training.stopping import should_stop
from t5ray.training.trainee import Trainee, made_ready
from t5ray.training.validation import fixed_sample, validate

HISTORY_POINTS = 20
"""Points of the step curves that each epoch reports."""


def fine_tune(
    loaded: LoadedModel,
    data: TokenisedData,
    plan: RunPlan,
    *,
    group: Group,
    report: Report,
    tick: Tick,
    judge: Callable[[Progress], object] = lambda progress: None,
) -> Progress:
    """Train until the last epoch, until patience is over, or until `report` says stop.

    A run whose folder holds a state goes on from there, and first reports again what it had reported.

    Args:
        loaded: pristine weights; trained in place, and spent where they are sharded.
        report: called on worker 0 only; its answer holds for the group.
        judge: called on worker 0 with a run that has come to its end, when its model has gone and its last state has
            not: what is cut off here goes on from it, and trains the epochs after it again.
    Raises:
        RunFailed: the loss is not finite, the GPU's memory does not hold one micro-batch, or the settings do not fit
            the model.
        StorageError: a storage URI takes no weights or states, or gives none.
    """
    progress, answer = _trained(loaded, data, plan, group, report, tick)
    _leave_node(plan, group)
    if answer is not None and group.rank == 0:
        if progress.reports[-1]["final"]:
            judge(progress)
        drop_last(plan.folder, plan.remote, keeps_spare=plan.keeps_spare)
        BestWeights(plan.folder, plan.remote).keep(progress.best_step)
    return progress


def _leave_node(plan: RunPlan, group: Group) -> None:
    """Delete what lies at a URI as well, from where another session takes it.

    Every worker does so on its own node, whose disk the command may not see, also where nobody listens any more: of the
    last run of each slot nobody says that it is over.
    """
    if plan.remote is not None:
        drop_last(plan.folder)
        BestWeights(plan.folder, plan.remote).leave()
        group.gather(group.rank)  # all have left: the command may fetch the weights into this very folder


def _trained(
    loaded: LoadedModel, data: TokenisedData, plan: RunPlan, group: Group, report: Report, tick: Tick
) -> tuple[Progress, bool | None]:
    """Train, and return how far the run is and the last answer; what training took of the memory is free again."""
    torch.manual_seed(plan.config.seed)  # adapters begin alike on all workers
    with (
        within_memory(MORE_MEMORY),
        made_ready(loaded, plan.config, group) as trainee,
        StateWriter(plan.folder, shares_disk=plan.shares_disk, keeps_spare=plan.keeps_spare) as states,
    ):
        torch.manual_seed(plan.config.seed + group.rank)  # dropout differs
        return _Run(trainee, data, plan, group, states, report, tick).go()


class _Run:
    """One run, on one worker. Every worker of the group goes through the same calls in the same order."""

    def __init__(
        self,
        trainee: Trainee,
        data: TokenisedData,
        plan: RunPlan,
        group: Group,
        states: StateWriter,
        report: Report,
        tick: Tick,
    ) -> None:
        self.trainee, self.data, self.plan, self.config = trainee, data, plan, plan.config
        self.group, self.states, self.report, self.tick = group, states, report, tick
        self.per_epoch = num_steps(len(data.train), self.config.batch_size)
        self.every = self.config.log_every_steps or max(1, self.per_epoch // HISTORY_POINTS)
        self.best = BestSoFar(trainee, plan, group, states)
        self.progress = self._restored()
        self.limit = row_limit(trainee, data.train, self.config, group)
        self.saved_at = time.monotonic()
        self.save_s = 0.0
        """Seconds of saving since the last report, which the epoch after it reports."""

    def go(self) -> tuple[Progress, bool | None]:
        """Run from where the last state was saved, and return how far that went and the last answer."""
        answer: bool | None = True
        is_over = False
        for earlier in self.progress.reports:
            answer = answer and self._tell(earlier)
        while answer and not is_over:
            outcome = self._epoch(self.progress.epoch + 1)
            self.states.wait()  # what hears the report may delete this run's files
            answer, is_over = self._tell(outcome), outcome["final"]
            if answer and not is_over:  # only now: the state of a run that is stopped here would be written for nothing
                self.save_s += self._save(None)
        return self.progress, answer

    def _tell(self, report: dict[str, Any]) -> bool | None:
        return self.group.broadcast(None if self.group.rank > 0 else self.report(report))

    def _epoch(self, epoch: int) -> dict[str, Any]:
        """Train one epoch, or the rest of one that was cut off, and return its report."""
        course = EpochCourse.restored(self.progress.inside, self.group)
        course.save_s, self.save_s = course.save_s + self.save_s, 0.0
        stopped = False
        for step in islice(self._steps(epoch), self.progress.step - (epoch - 1) * self.per_epoch, None):
            self._step(step, course)
            done = self.progress.step - (epoch - 1) * self.per_epoch
            within = done < self.per_epoch
            if within and self.config.evaluate_every_steps and done % self.config.evaluate_every_steps == 0:
                stopped = self._evaluate(epoch, course, within_epoch=True)
                if stopped:
                    break
            if within and self._checkpoint_is_due():
                self._save(course)
        if not stopped:
            stopped = self._evaluate(epoch, course)
        self.progress.epoch = epoch
        outcome = self._judged(course, final=stopped or epoch == self.config.max_epochs, early_stopped=stopped)
        self.progress.reports.append(outcome)
        return outcome

    def _judged(self, course: EpochCourse, *, final: bool, early_stopped: bool) -> dict[str, Any]:
        """Return the report of an epoch, once the weights that it names are kept; of one trained again, its first."""
        if (told := self.best.told_of(self.progress.epoch)) is not None:
            return told
        progress, started = self.progress, time.perf_counter()
        with self.best.drafted(progress.best_step) as keep:
            course.save_s += time.perf_counter() - started
            report = report_of(self.plan, progress, course, self.group, final=final, early_stopped=early_stopped)
            started = time.perf_counter()
            keep(report)
        self.save_s += time.perf_counter() - started
        return report

    def _steps(self, epoch: int) -> Any:
        config, group = self.config, self.group
        return epoch_steps(
            self.data.train,
            batch_size=config.batch_size,
            limit=self.limit,
            seed=config.seed,
            epoch=epoch,
            rank=group.rank,
            world_size=group.size,
        )

    def _step(self, step: Any, course: EpochCourse) -> None:
        """Make one optimizer step and note it."""
        started = time.perf_counter()
        trainee, sums = self.trainee, course.sums
        rate = learning_rate_at(self.progress.step, self.per_epoch, self.config)
        set_learning_rate(trainee.optimizer, rate)
        number, rows = self.progress.step + 1, self.data.train
        loss, norm = optimizer_step(
            trainee.forward, trainee.optimizer, rows, step, self.config, self.group, sums, number
        )
        if trainee.average is not None:
            trainee.average.update()
        self.progress.step += 1
        sums.step = self.progress.step
        sums.seconds += time.perf_counter() - started
        if sums.step % self.every == 0:
            course.note(loss, rate, norm, self.group)
        if self.group.rank == 0:
            speed = self.group.size * sums.real_tokens / max(sums.seconds, 1e-9)
            self.tick(Pulse(sums.step, self.per_epoch * self.config.max_epochs, loss, rate, speed))

    def _evaluate(self, epoch: int, course: EpochCourse, *, within_epoch: bool = False) -> bool:
        """Judge the weights of this step, note whether none were better, and say whether patience is over."""
        started = time.perf_counter()
        with self.trainee.as_published() as loaded:
            with self.trainee.whole():
                found = self._validate(loaded, course)
            judged = time.perf_counter()
            is_again = self.best.told_of(epoch) is not None
            if not is_again and self._is_best(found):
                self.progress.best_epoch, self.progress.best_step = epoch, found.step
                self.progress.best_value = found.value
                self.best.found(loaded, within_epoch=within_epoch)
        course.evaluations.append(asdict(found))
        course.validate_s += judged - started
        course.save_s += time.perf_counter() - judged
        return not is_again and should_stop(self.plan, [*self.progress.evaluations, *course.evaluations])

    def _validate(self, loaded: LoadedModel, course: EpochCourse) -> Evaluation:
        data, plan = self.data, self.plan
        rows = fixed_sample(len(data.validation), plan.config.validation_rows)
        found = validate(
            loaded,
            data.validation,
            data.validation_references,
            plan.task,
            plan.decode,
            rows=rows,
            group=self.group,
            precision=resolve_precision(plan.config.precision, self.group.device),
        )
        value = found.loss if plan.objective == "validation_loss" else found.metrics[plan.objective]
        if not math.isfinite(value) or not math.isfinite(found.loss):
            raise RunFailed(f"validation must be finite, but {plan.objective} is {value} and the loss {found.loss}")
        return Evaluation(self.progress.step, value, course.train_loss, found.loss, found.metrics, found.hit_cap)

    def _is_best(self, found: Evaluation) -> bool:
        sign, best = (1 if self.plan.mode == "max" else -1), self.progress.best_value
        return best is None or sign * found.value > sign * best

    def _checkpoint_is_due(self) -> bool:
        """Say whether it is time to save a state within the epoch; worker 0's clock decides."""
        every = self.config.checkpoint_every_s
        return every is not None and self.group.broadcast(time.monotonic() - self.saved_at >= every)

    def _save(self, course: EpochCourse | None) -> float:
        """Save all that the rest of the run depends on, and return the seconds it took."""
        started = time.perf_counter()
        self.progress.inside = None if course is None else course.plain(self.group)
        state = {**self.trainee.state(), "random": self.group.gather(random_state()), "best": self.best.copy}
        if self.group.rank == 0:
            self.states.save(state, self.progress, self._landed)
        self.saved_at = time.monotonic()
        return time.perf_counter() - started

    def _landed(self) -> None:
        """Copy a state to where others find it. Runs in a thread."""
        if self.plan.remote is not None:
            patiently(upload_file, self.plan.folder / LAST, self.plan.remote)

    def _restored(self) -> Progress:
        """Go on from the folder's state, which every worker must be able to read."""
        if self.plan.remote is not None:
            share_last(self.plan.folder, self.plan.remote, self.group, shares_disk=self.plan.shares_disk)
        else:  # nobody reads before worker 0 has moved the last whole state to its place
            folder, shares_disk = self.plan.folder, self.plan.shares_disk
            self.group.broadcast(sweep(folder, shares_disk=shares_disk) if self.group.rank == 0 else -1)
        found = load_last(self.plan.folder)
        steps = self.group.gather(-1 if found is None else found[1].step)
        if len(set(steps)) > 1:
            raise RunFailed(
                f"{self.plan.folder}: every worker must read the same state. Use storage that all nodes share."
            )
        if found is None:
            self.best.restore(progress := Progress())
            return progress
        state, progress = found
        self.trainee.load_state(state)
        self.best.restore(progress, state.get("best"))
        if len(state["random"]) == self.group.size:  # with another number of workers, their seeds must do
            set_random_state(state["random"][self.group.rank])
        return progress
