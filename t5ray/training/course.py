"""What one epoch has gathered so far: sums, points of its curves, evaluations. It survives an interruption."""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

import psutil
import torch

from t5ray.training.checkpoint import Progress
from t5ray.training.group import Group
from t5ray.training.plan import EpochReport, RunPlan
from t5ray.training.step import EpochSums


@dataclass
class EpochCourse:
    """One epoch, from its first step on."""

    sums: EpochSums = field(default_factory=EpochSums)
    """Of this worker where it counts tokens, of the group where it sums losses."""
    history: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    validate_s: float = 0.0
    save_s: float = 0.0
    last_point: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Seconds, real and padded tokens of the group at the last point of the curves."""

    @classmethod
    def restored(cls, saved: dict[str, Any] | None, group: Group) -> Self:
        """Begin an epoch, or go on with one that was cut off: each worker takes over its share of the tokens of all."""
        if saved is None:
            return cls()
        sums = EpochSums(**saved["sums"])
        sums.real_tokens = _share(sums.real_tokens, group)
        sums.padded_tokens = _share(sums.padded_tokens, group)
        return cls(**{**saved, "sums": sums, "last_point": tuple(saved["last_point"])})

    def plain(self, group: Group) -> dict[str, Any]:
        """Return plain values to save, tokens summed over the group."""
        real, padded = group.sum([self.sums.real_tokens, self.sums.padded_tokens])
        content = asdict(self)
        content["sums"] |= {"real_tokens": int(real), "padded_tokens": int(padded)}
        return {**content, "last_point": list(self.last_point)}

    @property
    def train_loss(self) -> float:
        """Mean cross-entropy per target token so far."""
        return self.sums.loss / max(1, self.sums.target_tokens)

    def note(self, loss: float, rate: float, norm: float, group: Group) -> None:
        """Add a point to the curves; speed and padding are those since the last point."""
        real, padded = group.sum([self.sums.real_tokens, self.sums.padded_tokens])
        point = (self.sums.seconds, real, padded)
        seconds, real, padded = (now - before for now, before in zip(point, self.last_point, strict=True))
        self.last_point = point
        self.history.append(
            {
                "step": self.sums.step,
                "loss": loss,
                "learning_rate": rate,
                "grad_norm": norm,
                "tokens_per_s": real / max(seconds, 1e-9),
                "padding_share": 1 - real / max(1.0, padded),
                "memory_bytes": memory_bytes(group.device),
            }
        )


def _share(total: int, group: Group) -> int:
    """Return a worker's part of a count; the parts of all add up to it."""
    return total // group.size + (group.rank < total % group.size)


def memory_bytes(device: torch.device) -> int:
    """Return the peak of the GPU's memory that tensors took, or the memory of this process now (RSS)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def report_of(
    plan: RunPlan, progress: Progress, course: EpochCourse, group: Group, *, final: bool, early_stopped: bool
) -> dict[str, Any]:
    """Return the report of an epoch whose last evaluation is noted; the best evaluation speaks for it."""
    sign = 1 if plan.mode == "max" else -1
    best = max(course.evaluations, key=lambda found: sign * found["value"])
    real, padded = group.sum([course.sums.real_tokens, course.sums.padded_tokens])
    assert progress.best_value is not None
    return asdict(
        EpochReport(
            epoch=progress.epoch,
            step=progress.step,
            value=best["value"],
            train_loss=course.train_loss,
            validation_loss=best["validation_loss"],
            metrics=best["metrics"],
            hit_cap=best["hit_cap"],
            best_epoch=progress.best_epoch,
            best_value=progress.best_value,
            best_step=progress.best_step,
            final=final,
            early_stopped=early_stopped,
            evaluations=course.evaluations,
            tokens_per_s=real / max(course.sums.seconds, 1e-9),
            padding_share=1 - real / max(1, padded),
            train_s=course.sums.seconds,
            validate_s=course.validate_s,
            save_s=course.save_s,
            history=course.history,
        )
    )
