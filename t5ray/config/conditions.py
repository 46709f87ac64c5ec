"""The `when:` conditions of a search space: which values they wait for, and which of them no trial can meet.

Comes in: the ranges of each parameter, in the order of the file. Goes out: values, and problems in words.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from t5ray.config.ranges import Range, Scalar
from t5ray.errors import did_you_mean

MAX_WORLDS = 10_000
"""Combinations of values that conditions wait for which are looked at, at most; what needs more is not told."""
_OTHER = object()
"""Stands for all values of a numeric range that no condition waits for."""


def awaited(parameters: Mapping[str, Sequence[Range]]) -> dict[str, list[Scalar]]:
    """Return, for each parameter that conditions name, the values that they wait for.

    Example:
        momentum: {uniform: [0.5, 0.9], when: {optimizer: [sgd, adam]}} -> {"optimizer": ["sgd", "adam"]}
    """
    found: dict[str, list[Scalar]] = {}
    for values in (one for ranges in parameters.values() for one in ranges):
        for name, wanted in values.when.items():
            known = found.setdefault(name, [])
            known += [value for value in _listed(wanted) if value not in known]
    return found


def value_problems(
    name: str, other: str, wanted: Scalar | tuple[Scalar, ...], ranges: Sequence[Range | None]
) -> list[str]:
    """Say which values that a condition of `name` waits for `other` never takes; nothing where a range is broken."""
    sound = [values for values in ranges if values is not None]
    listed = [str(value) for values in sound if values.is_listed for value in values.bounds]
    spans = ["{} to {}".format(*values.bounds) for values in sound if not values.is_listed]
    return [
        f"{name}: `when` must name a value of {other}, got {value!r}. "
        + (f"It takes {', '.join([*listed, *spans])}." if spans else did_you_mean(str(value), listed))
        for value in _listed(wanted)
        if len(sound) == len(ranges) and not any(values.contains(value) for values in sound)
    ]


def reach_problems(parameters: Mapping[str, Sequence[Range]]) -> list[str]:
    """Say which ranges no trial draws from: what they wait for never comes together, or a range above is taken."""
    waited, problems = awaited(parameters), list[str]()
    worlds: list[dict[str, Any]] = [{}]
    for name, ranges in parameters.items():
        taken = [next((r for r in ranges if r.holds(world)), None) for world in worlds]
        for values in (r for r in ranges if not any(r is one for one in taken)):
            asked = " and ".join(f"{other}={_either(wanted)}" for other, wanted in values.when.items())
            problems.append(
                f"{name}: each range must have trials of its own, but where {asked}, a range above it is taken. "
                "Set them apart by `when:`, or leave one out"
                if any(values.holds(world) for world in worlds)
                else f"{name}: `when` must hold in some trial, but none has {asked}. Correct it, or leave the range out"
            )
        if name in waited:
            worlds = [
                one
                for world, found in zip(worlds, taken, strict=True)
                for one in (_grown(world, name, found, waited[name]) if found else [world])
            ]
        if len(worlds) > MAX_WORLDS:
            break
    return problems


def _either(wanted: Scalar | tuple[Scalar, ...]) -> str:
    return " or ".join("null" if value is None else str(value) for value in _listed(wanted))


def _grown(world: Mapping[str, Any], name: str, values: Range, waited: Sequence[Scalar]) -> list[dict[str, Any]]:
    """Add each value of a range that conditions wait for, and one that stands for all the others."""
    others = [value for value in values.bounds if value not in waited][:1] if values.is_listed else [_OTHER]
    return [{**world, name: value} for value in (*filter(values.contains, waited), *others)]


def _listed(wanted: Scalar | tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    return wanted if isinstance(wanted, tuple) else (wanted,)
