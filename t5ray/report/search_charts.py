"""Where the marks of a search's charts lie: learning curves, and each parameter against the best value."""

from collections.abc import Sequence
from dataclasses import dataclass

from t5ray.report.charts import Axis, Scale, Tick, padded, parameter_axis, path, spread
from t5ray.report.trial_view import TrialView
from t5ray.report.words import setting

LABEL_GAP = 17
"""Least distance of two names at the ends of lines, in pixels."""
MOST_EPOCH_TICKS = 12
ON_TOP = {"": 0, "default": 1, "winner": 2}


@dataclass(frozen=True, slots=True)
class Frame:
    """Size of a chart and of the area inside its axes, in pixels."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float


CURVES_FRAME = Frame(width=880, height=340, left=58, right=760, top=12, bottom=300)
SLICE_FRAME = Frame(width=280, height=190, left=46, right=270, top=10, bottom=162)


@dataclass(frozen=True, slots=True)
class Curve:
    """One trial's line."""

    trial: TrialView
    line: str
    """SVG path data."""
    end: tuple[float, float]
    best: tuple[float, float] | None
    """Where the best epoch lies."""


@dataclass(frozen=True, slots=True)
class Label:
    """A name at the end of a line."""

    x: float
    y: float
    text: str
    css: str


@dataclass(frozen=True, slots=True)
class CurvesChart:
    """All learning curves; the highlighted ones come last, on top."""

    frame: Frame
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    curves: list[Curve]
    labels: list[Label]


def learning_curves(trials: Sequence[TrialView]) -> CurvesChart | None:
    """Lay the curves out; None where no trial has a value."""
    drawn = sorted((trial for trial in trials if trial.points), key=lambda trial: ON_TOP[trial.role])
    if not drawn:
        return None
    frame = CURVES_FRAME
    last = max(trial.points[-1][0] for trial in drawn)
    x = Scale(1, last, frame.left + 16, frame.right) if last > 1 else Scale(0.5, 1.5, frame.left, frame.right)
    y = padded([value for trial in drawn for _, value in trial.points], frame.bottom, frame.top)
    curves = [_curve(trial, x, y) for trial in drawn]
    step = -(-last // MOST_EPOCH_TICKS)
    return CurvesChart(
        frame=frame,
        x_ticks=[Tick(x(epoch), str(epoch)) for epoch in range(1, last + 1, step)],
        y_ticks=y.ticks(),
        curves=curves,
        labels=_labels([curve for curve in curves if curve.trial.role]),
    )


def _curve(trial: TrialView, x: Scale, y: Scale) -> Curve:
    points = {epoch: (x(epoch), y(value)) for epoch, value in trial.points}
    line = path(list(points.values()))
    return Curve(trial, line, end=points[trial.points[-1][0]], best=points.get(trial.best_epoch or 0))


def _labels(curves: Sequence[Curve]) -> list[Label]:
    heights = spread([curve.end[1] for curve in curves], LABEL_GAP)
    return [
        Label(curve.end[0] + 12, height + 4, f"trial {curve.trial.number}, {curve.trial.role}", curve.trial.css)
        for curve, height in zip(curves, heights, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Dot:
    """One trial in a slice."""

    trial: TrialView
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Slice:
    """One parameter against the best value."""

    name: str
    frame: Frame
    axis: Axis
    y_ticks: list[Tick]
    dots: list[Dot]


def slices(trials: Sequence[TrialView], names: Sequence[str]) -> list[Slice]:
    """Lay out one chart for each parameter that differs between trials with a value; all share the vertical axis."""
    scored = [(trial, trial.best_value) for trial in trials if trial.best_value is not None]
    if not scored:
        return []
    y = padded([value for _, value in scored], SLICE_FRAME.bottom, SLICE_FRAME.top)
    having = {name: [trial for trial, _ in scored if name in trial.params] for name in names}
    differs = [name for name in names if len({setting(trial.params[name]) for trial in having[name]}) > 1]
    return [_slice(name, having[name], y) for name in differs]


def _slice(name: str, trials: Sequence[TrialView], y: Scale) -> Slice:
    axis = parameter_axis([trial.params[name] for trial in trials], SLICE_FRAME.left + 6, SLICE_FRAME.right)
    on_top = sorted(trials, key=lambda trial: ON_TOP[trial.role])
    dots = [Dot(trial, axis(trial.params[name]), y(trial.best_value or 0.0)) for trial in on_top]
    return Slice(name, SLICE_FRAME, axis, y.ticks(4), dots)
