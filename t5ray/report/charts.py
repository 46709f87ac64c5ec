"""Scales, ticks and points: numbers in, pixels out. The templates draw them as SVG."""

import itertools
import math
import statistics
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from t5ray.report.words import setting

LOG_FROM_RATIO, LOG_ALWAYS_FROM_RATIO = 20, 100
"""Positive values that spread by these factors get a logarithmic axis: by the first where most of them are small."""
MOST_CATEGORIES = 6
"""Up to this many distinct whole numbers stand side by side, each with its own tick."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    """Pixels."""
    label: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values onto pixels, linearly or by logarithm."""

    low: float
    high: float
    start: float
    """Pixel of `low`."""
    end: float
    """Pixel of `high`."""
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value, to a tenth."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self, count: int = 5) -> list[Tick]:
        """Return round values inside the scale, about `count` of them."""
        values = _log_values(self.low, self.high) if self.log else _round_values(self.low, self.high, count)
        return [Tick(self(value), setting(value)) for value in values]


def padded(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a linear scale over the values with a margin of 8 % on both sides."""
    low, high = min(values), max(values)
    if low == high == 0:  # most numbers shown here are shares and counts, which do not go below zero
        return Scale(-0.04, 1.04, start, end)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    return Scale(low - margin, high + margin, start, end)


def _round_values(low: float, high: float, count: int) -> list[float]:
    """Return multiples of 1, 2, 2.5 or 5 times a power of ten between low and high."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_values(low: float, high: float) -> list[float]:
    """Return powers of ten between low and high, with 2 and 5 times them where these are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1,), (1, 3), (1, 2, 5)):
        inside = [v for p in powers for m in multiples if low <= (v := float(f"{m}e{p}")) <= high]
        if len(inside) >= 3:
            return inside
    return inside


@dataclass(frozen=True, slots=True)
class Axis:
    """The horizontal axis of one parameter: a scale for numbers, or one place for each category."""

    ticks: list[Tick]
    scale: Scale | None
    places: dict[Hashable, float]
    """Category -> pixel, where there is no scale."""

    def __call__(self, value: Any) -> float:
        """Return the pixel of a parameter's value."""
        return self.places[setting(value)] if self.scale is None else self.scale(value)


def parameter_axis(values: Sequence[Any], start: float, end: float) -> Axis:
    """Return the axis that fits a parameter: categories, a logarithmic or a linear scale."""
    if _are_categories(values):
        names = _in_order(values)
        step = (end - start) / len(names)
        places: dict[Hashable, float] = {name: round(start + (i + 0.5) * step, 1) for i, name in enumerate(names)}
        return Axis([Tick(place, str(name)) for name, place in places.items()], None, places)
    if _spread_by_factors(values):
        scale = Scale(min(values) / 1.3, max(values) * 1.3, start, end, log=True)
    else:
        scale = padded(values, start, end)
    return Axis(scale.ticks(4), scale, {})


def _spread_by_factors(values: Sequence[float]) -> bool:
    low, high = min(values), max(values)
    if low <= 0 or high / low < LOG_FROM_RATIO:
        return False
    return high / low >= LOG_ALWAYS_FROM_RATIO or statistics.median(values) < low + (high - low) / 4


def is_number(value: object) -> bool:
    """Tell whether a value is a finite number; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def finite(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    return value if is_number(value) else None


def _are_categories(values: Sequence[Any]) -> bool:
    if not all(is_number(value) for value in values):
        return True
    return all(isinstance(value, int) for value in values) and len(set(values)) <= MOST_CATEGORIES


def _in_order(values: Sequence[Any]) -> list[str]:
    """Return the distinct values as text: numbers by size, before the rest by name."""
    keys = {(0, value, "") if is_number(value) else (1, 0, setting(value)): setting(value) for value in values}
    return list(dict.fromkeys(keys[key] for key in sorted(keys)))


def path(points: Sequence[tuple[float, float]]) -> str:
    """Return SVG path data through points: `M40,90L120,60`."""
    return "".join(f"{'ML'[i > 0]}{x:g},{y:g}" for i, (x, y) in enumerate(points))


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move places on a line apart until neighbours lie at least `gap` from each other, keeping their order."""
    moved = list(places)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for before, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    return moved
