"""Parallel coordinates: one upright axis per parameter, the objective last, one line per trial."""

from collections.abc import Sequence
from dataclasses import dataclass

from t5ray.report.charts import Axis, Tick, padded, parameter_axis, path
from t5ray.report.search_charts import ON_TOP
from t5ray.report.trial_view import TrialView
from t5ray.report.words import setting

WIDTH, TOP, BOTTOM = 880, 34, 276
UNSET = 300
"""Height at which lines pass an axis whose parameter the trial does not have."""
SIDE, RIGHT_SIDE = 70, 60
MOST_AXES = 9
"""More parameters than this would leave no room for tick labels; those that matter least are left out."""


@dataclass(frozen=True, slots=True)
class UprightAxis:
    """One parameter, or the objective."""

    name: str
    x: float
    ticks: list[Tick]
    has_unset: bool
    """Some trials do not have the parameter."""


@dataclass(frozen=True, slots=True)
class Thread:
    """One trial's line."""

    trial: TrialView
    line: str
    rank: int
    """Quarter of the trials by objective: 1 is the best."""


@dataclass(frozen=True, slots=True)
class ParallelChart:
    """All trials with a value over all parameters that differ."""

    axes: list[UprightAxis]
    threads: list[Thread]
    width: float = WIDTH
    top: float = TOP
    bottom: float = BOTTOM
    unset: float = UNSET

    @property
    def height(self) -> float:
        """Room below the axes only where trials pass one there."""
        return UNSET + 30 if any(axis.has_unset for axis in self.axes) else BOTTOM + 12


def parallel_coordinates(
    trials: Sequence[TrialView], names: Sequence[str], metric: str, mode: str
) -> ParallelChart | None:
    """Lay the chart out; None where fewer than two trials have a value, or fewer than two parameters differ.

    Args:
        names: parameters, the most important first.
    """
    scored = [(trial, trial.best_value) for trial in trials if trial.best_value is not None]
    differs = [name for name in names if len({setting(t.params[name]) for t, _ in scored if name in t.params}) > 1]
    if len(scored) < 2 or len(differs) < 2:
        return None
    differs = differs[:MOST_AXES]
    uprights: list[tuple[str, Axis]] = [
        (name, parameter_axis([trial.params[name] for trial, _ in scored if name in trial.params], BOTTOM, TOP))
        for name in differs
    ]
    scale = padded([value for _, value in scored], BOTTOM, TOP)
    step = (WIDTH - SIDE - RIGHT_SIDE) / len(differs)
    places = [round(SIDE + i * step, 1) for i in range(len(differs) + 1)]
    axes = [
        UprightAxis(name, x, axis.ticks, any(name not in trial.params for trial, _ in scored))
        for x, (name, axis) in zip(places, uprights, strict=False)
    ]
    axes.append(UprightAxis(metric, places[-1], scale.ticks(4), has_unset=False))
    ordered = sorted(scored, key=lambda pair: pair[1], reverse=mode == "max")
    rank = {trial.number: 1 + 4 * i // len(ordered) for i, (trial, _) in enumerate(ordered)}
    threads = [
        Thread(trial, path([*_points(trial, uprights, places), (places[-1], scale(value))]), rank[trial.number])
        for trial, value in reversed(ordered)
    ]
    return ParallelChart(axes, sorted(threads, key=lambda thread: ON_TOP[thread.trial.role]))


def _points(
    trial: TrialView, uprights: Sequence[tuple[str, Axis]], places: Sequence[float]
) -> list[tuple[float, float]]:
    return [
        (x, axis(trial.params[name]) if name in trial.params else UNSET)
        for x, (name, axis) in zip(places, uprights, strict=False)
    ]
