"""What a run is told and what it tells: the words that the loop, the workers and the search share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from t5ray.config import DecodeConfig, TaskConfig, TrainingConfig

if TYPE_CHECKING:
    from t5ray.training.prepare import Prepared


class RunFailed(Exception):
    """The run cannot go on: a loss that is not finite, or memory that ran out. Its text is the cause."""


@dataclass(frozen=True)
class RunPlan:
    """What one run is to do."""

    config: TrainingConfig
    decode: DecodeConfig
    task: TaskConfig
    objective: str
    """`validation_loss` or a metric of the task."""
    mode: Literal["max", "min"]
    """Whether a larger objective is better."""
    folder: Path
    """Where checkpoints go."""
    judge_rows: bool = False
    """Whether the run ends with a `RowScores` message on its best epoch."""
    remote: str | None = None
    """URI that best weights and states are copied to, where neither the driver nor other nodes can read this disk."""
    shares_disk: bool = False
    """Whether other runs keep checkpoints beside this one's: then each keeps one state, written by turns."""

    @classmethod
    def of(cls, prepared: "Prepared", folder: Path, *, remote: str | None = None, shares_disk: bool = False) -> Self:
        """Return the plan of a run of what was prepared."""
        return cls(
            config=prepared.config.training,
            decode=prepared.decode,
            task=prepared.task,
            objective=prepared.objective,
            mode=prepared.mode,
            folder=folder,
            remote=remote,
            shares_disk=shares_disk,
        )

    @property
    def keeps_spare(self) -> bool:
        """Whether the file of a state that goes is left for the next one of those runs.

        The command deletes it at the end, which it cannot where folders are on the workers' own disks.
        """
        return self.shares_disk and self.remote is None


@dataclass(frozen=True)
class Evaluation:
    """What one look at the validation rows gave."""

    step: int
    """Optimizer steps so far."""
    value: float
    """The objective."""
    train_loss: float
    """Mean cross-entropy per target token over the epoch so far, label smoothing included."""
    validation_loss: float
    metrics: dict[str, float]
    """The task's metrics on generations of the validation sample."""
    hit_cap: float
    """Share of those generations that were cut at the output cap."""


@dataclass(frozen=True)
class EpochReport:
    """What one epoch gave.

    Reports are what a search compares: ASHA's rungs, `best_epoch` and search.json count epochs, however often an epoch
    is judged. With `evaluate_every_steps`, `value`, `validation_loss`, `metrics` and `hit_cap` are those of the best
    evaluation of the epoch, whose weights are the ones kept; `evaluations` has them all.
    """

    epoch: int
    """Counted from 1."""
    step: int
    """Optimizer steps so far."""
    value: float
    """The objective."""
    train_loss: float
    """Mean cross-entropy per target token over the epoch, label smoothing included."""
    validation_loss: float
    metrics: dict[str, float]
    """The task's metrics on generations of the validation sample."""
    hit_cap: float
    """Share of those generations that were cut at the output cap."""
    best_epoch: int
    best_value: float
    best_step: int
    """Optimizer steps behind the weights that are kept."""
    final: bool
    """True for the last epoch of the run."""
    early_stopped: bool
    """Whether it is the last because the patience of early stopping is over; it may then be cut short."""
    evaluations: list[dict[str, Any]]
    """Every `Evaluation` of the epoch, as a dict."""
    tokens_per_s: float
    """Real (non-padding) input and target tokens per second of training, over all workers."""
    padding_share: float
    """Share of attention's positions that were padding; all else runs over real tokens only."""
    train_s: float
    validate_s: float
    save_s: float
    history: list[dict[str, float]]
    """step, loss, learning_rate, grad_norm, tokens_per_s, padding_share and memory_bytes at some steps of the epoch."""


Report = Callable[[dict[str, Any]], bool | None]
"""Takes an `EpochReport` as a dict on worker 0; returns whether to go on. None: nobody listens any more, so leave, and
leave all that a later session needs."""


class Pulse(NamedTuple):
    """Where a run is, after a step."""

    step: int
    """Optimizer steps done."""
    num_steps: int
    """Optimizer steps in all."""
    loss: float
    learning_rate: float
    tokens_per_s: float
    """Real tokens per second of training in this epoch, over all workers."""

    @property
    def shown(self) -> str:
        """What a progress bar says."""
        return f"loss {self.loss:.3f}, learning rate {self.learning_rate:.2e}, {self.tokens_per_s:,.0f} tokens/s"


Tick = Callable[[Pulse], None]
"""Called after each step on worker 0."""
