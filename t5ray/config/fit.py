"""Whether a search space fits the training settings: names, conditions, values and the size of its grid.

Comes in: the ranges of each parameter, None in the place of one that could not be read. Goes out: the same with values
of the settings' own types, and problems in words.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from t5ray.config.conditions import reach_problems, value_problems
from t5ray.config.ranges import Range, Scalar
from t5ray.config.training import NOT_SEARCHABLE, TrainingConfig
from t5ray.errors import did_you_mean

MAX_GRID = 10_000
"""Combinations of a grid, at most; conditions are not taken into account."""
Parameters = Mapping[str, Sequence[Range | None]]
Points = Iterable[Mapping[str, Scalar]]


def typed_range(name: str, values: Range) -> Range:
    """Return a range whose values, and those of its conditions, are of the settings' types.

    Example:
        batch_size: {choice: ["16", 32.0]} -> {choice: [16, 32]}
    """
    typed: dict[str, Any] = {"when": {other: _typed_all(other, wanted) for other, wanted in values.when.items()}}
    if values.choice is not None:
        typed["choice"] = _typed_all(name, values.choice)
    if values.fixed is not None:
        typed["fixed"] = typed_value(name, values.fixed)
    return values.model_copy(update=typed)


def _typed_all(name: str, values: Scalar | tuple[Scalar, ...]) -> Any:
    return tuple(typed_value(name, v) for v in values) if isinstance(values, tuple) else typed_value(name, values)


def typed_value(name: str, value: Scalar) -> Any:
    """Return a value as training has it; as it is where training refuses it, which `fit_problems` says."""
    if name not in TrainingConfig.searchable():
        return value
    try:
        return getattr(TrainingConfig.model_validate({name: value}), name)
    except ValidationError:
        return value


def fit_problems(parameters: Parameters, starts: Points) -> list[str]:
    """Say what of a space the training settings do not know or allow."""
    return [
        *_name_problems(parameters),
        *_start_problems(parameters, starts),
        *_value_problems(parameters, starts),
    ]


def _name_problems(parameters: Parameters) -> list[str]:
    """Say which parameters, and which conditions, name something that is not there, or wait for it in vain."""
    known, seen, problems = TrainingConfig.searchable(), set[str](), []
    for name, ranges in parameters.items():
        if name in NOT_SEARCHABLE:
            problems.append(
                f"{name}: a parameter must be a training setting that trials may differ in, but this one is the same "
                f"for all of them. Leave it out, and set it with --set training.{name}=VALUE"
            )
        elif name not in known:
            problems.append(f"{name}: a parameter must be a training setting. {did_you_mean(name, known)}")
        if not ranges:
            problems.append(f"{name}: a parameter must have a range, but has none. Add one, or leave {name} out")
        sound = [r for r in ranges if r is not None]
        problems += [f"{name}: {problem}" for r in sound for problem in _repeated(r)]
        if len(ranges) > 1 and not all(r.when for r in sound):
            problems.append(f"{name}: each of several ranges needs a `when:`")
        for r in sound:
            for other, wanted in r.when.items():
                if other not in seen:
                    hint = did_you_mean(other, seen)
                    problems.append(f"{name}: `when` must name a parameter that stands above it, got {other}. {hint}")
                else:
                    problems += value_problems(name, other, wanted, parameters[other])
        seen.add(name)
    read = {name: [r for r in ranges if r is not None] for name, ranges in parameters.items()}
    if not problems and all(len(read[name]) == len(ranges) for name, ranges in parameters.items()):
        problems = reach_problems(read)
    return [problem.rstrip() for problem in problems]


def _repeated(values: Range) -> list[str]:
    """Say which values a choice names several times: a sampler or a grid would run them more often than others."""
    counts = Counter(values.choice or ())
    return [
        f"`choice` must name each value once, but names {_written(value)} {count} times"
        for value, count in counts.items()
        if count > 1
    ]


def _start_problems(parameters: Parameters, starts: Points) -> list[str]:
    """Say which values of the points to start from belong to no parameter."""
    return [
        f"start_from: {name} must be one of the parameters. {did_you_mean(name, parameters)}".rstrip()
        for point in starts
        for name in point
        if name not in parameters
    ]


def _value_problems(parameters: Parameters, starts: Points) -> list[str]:
    """Say which values the training settings refuse, and why; unknown names are told before."""
    known = TrainingConfig.searchable()
    inside = [p for name, ranges in parameters.items() if name in known for r in ranges if r for p in _refused(name, r)]
    return [*inside, *(f"start_from: {p}" for point in starts for p in _values_refused(point.items()))]


def _refused(name: str, values: Range) -> list[str]:
    """Try the ends of a range, and a broken number between."""
    tried = values.bounds
    if span := values.uniform or values.loguniform:
        tried = (*tried, span[0] + (span[1] - span[0]) / math.pi)
    return _values_refused((name, value) for value in tried)


def _values_refused(settings: Iterable[tuple[str, Scalar]]) -> list[str]:
    problems = []
    for name, value in settings:
        if name not in TrainingConfig.searchable():
            continue
        try:
            TrainingConfig.model_validate({name: value})
        except ValidationError as exc:
            reason = exc.errors()[0]["msg"].removeprefix("Value error, ")
            problems.append(f"{name}: training does not allow {_written(value)}: {reason}")
    return problems


def _written(value: Scalar) -> str:
    return "null" if value is None else repr(value)


def grid_problems(parameters: Mapping[str, Sequence[Range]]) -> list[str]:
    """Say what a grid cannot enumerate."""
    sizes = {name: [r.grid_size for r in ranges] for name, ranges in parameters.items()}
    problems = [
        f"{name}: a grid must know which values to try, but this range is endless. Add `points: 5` or use `choice`"
        for name, found in sizes.items()
        if None in found
    ]
    total = math.prod(sum(size or 0 for size in found) for found in sizes.values())
    if not problems and total > MAX_GRID:
        problems.append(f"sampler: a grid must hold at most {MAX_GRID} combinations, but has {total}. Use tpe")
    return problems
