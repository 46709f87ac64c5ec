"""The best weights of a run so far, from when they are judged until they are kept.

They are kept when their epoch is over and its report is made. Until then they are those of the model, or, where
training goes on within the epoch, a copy in worker 0's memory; states that are saved within the epoch hold that copy.
All workers go through the same calls in the same order.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from t5ray.model.loading import LoadedModel
from t5ray.training.best import BestWeights
from t5ray.training.checkpoint import Progress, StateWriter, leaves_spare, spare_of, turn_of
from t5ray.training.group import Group
from t5ray.training.plan import RunPlan
from t5ray.training.trainee import Trainee

Weights = dict[str, torch.Tensor]


class BestSoFar:
    """What one worker knows of them."""

    def __init__(self, trainee: Trainee, plan: RunPlan, group: Group, states: StateWriter) -> None:
        """Know of none."""
        self.trainee, self.plan, self.group, self.states = trainee, plan, group, states
        self.kept = BestWeights(plan.folder, plan.remote)
        self.copy: Weights | None = None
        """On worker 0: better ones than are kept, of a step within this epoch."""
        self._found = False
        """Whether there are better ones than are kept."""
        self._copied = False
        """Whether those are a copy."""
        self._report: dict[str, Any] | None = None
        """What an attempt that was cut off told of the epoch whose weights it has kept."""

    def found(self, loaded: LoadedModel, *, within_epoch: bool) -> None:
        """Take the weights of this step for the best.

        Args:
            loaded: the model as it was judged.
            within_epoch: training goes on before they can be kept.
        """
        self._found, self._copied, self.copy, self._report = True, within_epoch, None, None
        if within_epoch:
            weights = self.trainee.full_weights()
            if self.group.rank == 0:
                own = loaded.model.named_parameters()
                self.copy = weights or {name: value.detach().to("cpu", copy=True) for name, value in own}

    @contextmanager
    def drafted(self, step: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """Write better weights than are kept, if there are any, and give what keeps them with their epoch's report.

        Where runs lie side by side, this one has its turn meanwhile: there is one draft besides what they all keep.

        Args:
            step: which the best weights are of.
        Raises:
            StorageError: the disk, or the storage URI, does not take them.
        """
        if not self._found:
            yield lambda report: None
            return
        self.states.wait()  # it has the turn until then
        with ExitStack() as ours:
            yield self._draft(step, ours)
        self._found, self._copied, self.copy = False, False, None

    def _draft(self, step: int, ours: ExitStack) -> Callable[[Mapping[str, Any]], None]:
        with self.trainee.as_published() as loaded:
            weights = self.copy if self._copied else self.trainee.full_weights()
            if self.group.rank > 0:
                return lambda report: None
            self.plan.folder.mkdir(parents=True, exist_ok=True)
            if self.plan.shares_disk:
                ours.enter_context(turn_of(self.plan.folder))
                if not leaves_spare(self.plan.config):
                    spare_of(self.plan.folder).unlink(missing_ok=True)
            draft = self.kept.draft(loaded, step, weights)
        ours.callback(shutil.rmtree, draft, ignore_errors=True)
        return partial(self.kept.put, draft, step)

    def told_before(self, epoch: int) -> dict[str, Any] | None:
        """Return what was told of an epoch with the weights that are kept of it; None where it is told now.

        Where hardware is not deterministic, what this attempt found is not of those weights.
        """
        known = self._report is not None and self._report["epoch"] == epoch
        return self._report if known else None

    def restore(self, progress: Progress, copy: Weights | None) -> None:
        """Find the best weights that a state names, or those that have taken their place since.

        Args:
            copy: what the state has of them, mapped from its file.
        """
        report, is_first = None, self.group.rank == 0
        if copy is None and self.group.broadcast(not is_first or self._holds(progress)):
            return
        report = self.group.broadcast(self.kept.report() if is_first else None)
        if report is not None and report["epoch"] == progress.epoch + 1:
            self._report = report
            progress.best_epoch, progress.best_value = report["best_epoch"], report["best_value"]
            progress.best_step = report["best_step"]
        elif copy is not None:
            self._found, self._copied = True, True
            self.copy = {name: value.clone() for name, value in copy.items()} if is_first else None
        else:
            progress.forget_best()

    def _holds(self, progress: Progress) -> bool:
        """Say whether the weights that a state names are kept; others than those then are of no more use."""
        found = progress.best_step > 0 and self.kept.hold(progress.best_step)
        if found:
            self.kept.keep(progress.best_step)
        return found
