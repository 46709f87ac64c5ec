"""Search-space files: which training settings a search varies, and how.

    parameters:
      optimizer: {choice: [adamw, adafactor]}
      learning_rate:
        - {loguniform: [1.0e-5, 1.0e-3], when: {optimizer: adamw}}
        - {loguniform: [1.0e-4, 1.0e-2], when: {optimizer: adafactor}}
      batch_size: {choice: [16, 32]}
      label_smoothing: {fixed: 0.1}

A parameter has one range, or a list of ranges each with a `when:` that names values of earlier parameters.
"""

import math
from collections.abc import Iterable
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from t5ray.config.base import Settings
from t5ray.config.strategy import SamplerConfig, SchedulerConfig
from t5ray.config.training import TrainingConfig
from t5ray.errors import did_you_mean

Scalar = bool | int | float | str
MAX_GRID = 10_000
"""Combinations of a grid, at most; conditions are not taken into account."""
KINDS = ("uniform", "loguniform", "int", "logint", "choice", "fixed")


class Range(Settings):
    """The values one parameter may take, under one condition."""

    uniform: tuple[float, float] | None = None
    """[low, high], both within reach."""
    loguniform: tuple[float, float] | None = None
    """[low, high] on a logarithmic scale; low must be positive."""
    int_: tuple[int, int] | None = Field(default=None, alias="int")
    """[low, high], whole numbers, both included."""
    logint: tuple[int, int] | None = None
    """[low, high], whole numbers on a logarithmic scale, both included."""
    choice: tuple[Scalar, ...] | None = None
    """The values to choose from."""
    fixed: Scalar | None = None
    """One value for every trial."""
    points: int | None = Field(default=None, ge=2)
    """For the grid sampler: how many values of a numeric range to try, both ends included, evenly spaced on its scale.
    None: every whole number of an `int`; other numeric ranges need it."""
    when: dict[str, Scalar | tuple[Scalar, ...]] = Field(default_factory=dict)
    """Earlier parameter -> the value (or values) for which this range holds."""

    @property
    def kind(self) -> str:
        """Which of `KINDS` this range is."""
        return next(kind for kind in KINDS if self._of(kind) is not None)

    def _of(self, kind: str) -> Any:
        return getattr(self, "int_" if kind == "int" else kind)

    @property
    def bounds(self) -> tuple[Scalar, ...]:
        """The extreme values (all of them for a choice): what the training settings must accept."""
        value = self._of(self.kind)
        return value if isinstance(value, tuple) else (value,)

    @property
    def grid_size(self) -> int | None:
        """How many values a grid tries; None for a range that is continuous."""
        if self.kind in ("choice", "fixed"):
            return len(self.bounds)
        if self.points is None and self.int_ is not None:
            return self.int_[1] - self.int_[0] + 1
        return self.points

    @model_validator(mode="after")
    def _is_one_good_range(self) -> "Range":
        given = [kind for kind in KINDS if self._of(kind) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(KINDS)} must be given, but got {given or 'none'}")
        if given[0] in ("uniform", "loguniform", "int", "logint"):
            low, high = self._of(given[0])
            if not low < high:
                raise ValueError(f"`low < high` must hold, but got low={low}, high={high}. Swap them, or use `fixed`")
            if given[0].startswith("log") and low <= 0:
                raise ValueError(f"a logarithmic range must start above 0, but got low={low}")
        if self.choice is not None and not self.choice:
            raise ValueError("`choice` must list at least one value")
        if self.points is not None and given[0] in ("choice", "fixed"):
            raise ValueError(f"`points` must belong to a numeric range, but stands beside `{given[0]}`. Leave it out")
        return self


class SearchSpace(Settings):
    """A search-space file."""

    parameters: dict[str, tuple[Range, ...]] = Field(min_length=1)
    """Training setting -> its range, or ranges under conditions."""
    sampler: SamplerConfig = SamplerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    start_from: tuple[dict[str, Scalar], ...] = ()
    """Points to run right after the defaults."""

    @field_validator("parameters", mode="before")
    @classmethod
    def _wrap_single_ranges(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: ranges if isinstance(ranges, list | tuple) else [ranges] for name, ranges in value.items()}

    @model_validator(mode="after")
    def _fits_the_training_settings(self) -> "SearchSpace":
        problems = [*self._name_problems(), *self._start_problems()]
        if not problems:
            problems = [p for name, ranges in self.parameters.items() for r in ranges for p in _bound_problems(name, r)]
            problems += [f"start_from: {p}" for point in self.start_from for p in _value_problems(point.items())]
        if self.sampler.name == "grid":
            problems += self._grid_problems()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _grid_problems(self) -> list[str]:
        """Say what a grid cannot enumerate."""
        sizes = {name: [r.grid_size for r in ranges] for name, ranges in self.parameters.items()}
        problems = [
            f"{name}: a grid must know which values to try, but this range is endless. Add `points: 5` or use `choice`"
            for name, found in sizes.items()
            if None in found
        ]
        total = math.prod(sum(size or 0 for size in found) for found in sizes.values())
        if not problems and total > MAX_GRID:
            problems.append(f"sampler: a grid must hold at most {MAX_GRID} combinations, but has {total}. Use tpe")
        return problems

    def _name_problems(self) -> list[str]:
        known, seen, problems = TrainingConfig.searchable(), set[str](), []
        for name, ranges in self.parameters.items():
            if name not in known:
                problems.append(f"{name}: a parameter must be a training setting. {did_you_mean(name, known)}")
            if len(ranges) > 1 and not all(r.when for r in ranges):
                problems.append(f"{name}: each of several ranges needs a `when:`")
            for r in ranges:
                for other, wanted in r.when.items():
                    if other not in seen:
                        hint = did_you_mean(other, seen)
                        problems.append(
                            f"{name}: `when` must name a parameter that stands above it, got {other}. {hint}"
                        )
                    else:
                        problems += self._when_problems(name, other, wanted if isinstance(wanted, tuple) else (wanted,))
            seen.add(name)
        return problems

    def _when_problems(self, name: str, other: str, wanted: tuple[Scalar, ...]) -> list[str]:
        """Say which values that a condition waits for its parameter never takes."""
        ranges = self.parameters[other]
        if not all(r.kind in ("choice", "fixed") for r in ranges):
            return []
        possible = [value for r in ranges for value in r.bounds]
        strange = [value for value in wanted if value not in possible]
        hints = [did_you_mean(str(value), map(str, possible)) for value in strange]
        return [
            f"{name}: `when` must name a value of {other}, got {value!r}. {hint}"
            for value, hint in zip(strange, hints, strict=True)
        ]

    def _start_problems(self) -> list[str]:
        return [
            f"start_from: {name} must be one of the parameters. {did_you_mean(name, self.parameters)}"
            for point in self.start_from
            for name in point
            if name not in self.parameters
        ]


def _bound_problems(name: str, values: Range) -> list[str]:
    """Say which values of a range the training settings refuse, and why: its ends, and a broken number between."""
    tried = values.bounds
    if span := values.uniform or values.loguniform:
        tried = (*tried, span[0] + (span[1] - span[0]) / math.pi)
    return _value_problems((name, value) for value in tried)


def _value_problems(settings: Iterable[tuple[str, Scalar]]) -> list[str]:
    """Say which values the training settings refuse, and why."""
    problems = []
    for name, value in settings:
        try:
            TrainingConfig.model_validate({name: value})
        except ValidationError as exc:
            reason = exc.errors()[0]["msg"].removeprefix("Value error, ")
            problems.append(f"{name}: training does not allow {value!r}: {reason}")
    return problems
