"""The best weights of a run so far, from when they are judged until they are kept.

They are kept when their epoch is over and its report is made. Until then they are those of the model, or, where
training goes on within the epoch, a copy in worker 0's memory; states that are saved within the epoch hold that copy.

An epoch whose weights are kept, but which is in no state, was cut off after that. It is trained again for the sake of
the optimizer; what it told the first time stands, be hardware deterministic or not.

All workers go through the same calls in the same order.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from t5ray.model.loading import LoadedModel
from t5ray.training.best import BestWeights
from t5ray.training.checkpoint import Progress, StateWriter, leaves_spare, spare_of, turn_of
from t5ray.training.group import Group
from t5ray.training.patience import patiently
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
        """Worker 0's copy of the best weights, where they are one."""
        self._unkept: Literal["", "model", "copy"] = ""
        """Where better weights are than those that are kept, if there are any."""
        self._told: dict[str, Any] | None = None
        """Report of the epoch that is trained again."""

    def found(self, loaded: LoadedModel, *, within_epoch: bool) -> None:
        """Take the weights of this step for the best.

        Args:
            loaded: the model as it was judged.
            within_epoch: training goes on before they can be kept.
        """
        self._unkept, self.copy = "copy" if within_epoch else "model", None
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
        if not self._unkept:
            yield lambda report: None
            return
        self.states.wait()  # it has the turn until then
        with ExitStack() as ours:
            draft = self._draft(step, ours)
            yield lambda report: self.kept.put(draft, step, report) if draft is not None else None
        if draft is not None:
            self.kept.send(step)  # the next run has its turn meanwhile
        self._unkept, self.copy = "", None

    def _draft(self, step: int, ours: ExitStack) -> Path | None:
        """Write them on worker 0, and return where."""
        with self.trainee.as_published() as loaded:
            weights = self.copy if self._unkept == "copy" else self.trainee.full_weights()
            if self.group.rank > 0:
                return None
            self.plan.folder.mkdir(parents=True, exist_ok=True)
            if self.plan.shares_disk:
                ours.enter_context(turn_of(self.plan.folder))
                if not leaves_spare(self.plan.config):
                    spare_of(self.plan.folder).unlink(missing_ok=True)
            draft = self.kept.draft(loaded, step, weights)
        ours.callback(shutil.rmtree, draft, ignore_errors=True)
        return draft

    def told_of(self, epoch: int) -> dict[str, Any] | None:
        """Return what an epoch told that is trained again; None of any other."""
        return self._told if self._told is not None and self._told["epoch"] == epoch else None

    def restore(self, progress: Progress, copy: Weights | None = None) -> None:
        """Find the best weights that a state names, or those that have taken their place since.

        Args:
            progress: of the state, or of a run that begins.
            copy: what the state has of them, mapped from its file.
        """
        is_first = self.group.rank == 0
        kept = self.group.broadcast(patiently(self.kept.report) if is_first else None)
        if kept is not None and kept["epoch"] == progress.epoch + 1:
            self._told = kept
            progress.best_epoch, progress.best_value = kept["best_epoch"], kept["best_value"]
            progress.best_step = kept["best_step"]
        elif copy is not None:
            self._unkept = "copy"
            self.copy = {name: value.clone() for name, value in copy.items()} if is_first else None
        elif not self.group.broadcast(is_first and patiently(self.kept.hold, progress.best_step)):
            progress.forget_best()
