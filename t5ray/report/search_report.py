"""What the report of a search shows, from the mapping that search.json holds (see DESIGN §4 for its keys)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t5ray.report.charts import Axis, Scale, Tick, is_number, padded, parameter_axis, path, spread
from t5ray.report.page import render
from t5ray.report.words import number, setting

DEFAULT_TRIAL = 0
"""The trial that runs the settings as they are."""
STATES = {"COMPLETE": "ran to its end", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "interrupted"}
CURVES_WIDTH, CURVES_HEIGHT, LABEL_GAP = 860, 340, 17
SLICE_WIDTH, SLICE_HEIGHT = 270, 180


def render_search(search: Mapping[str, Any]) -> str:
    """Return report.html for the content of search.json.

    Args:
        search: `name`, `task`, `model`, `data`, `max_epochs` and `test` may be missing; `best` may be None.
    """
    trials = [_view(trial, search) for trial in search["trials"]]
    names = list(dict.fromkeys(name for trial in search["trials"] for name in trial["params"]))
    by_role = {trial.role: trial for trial in trials if trial.role}
    longest = max((trial.epochs for trial in trials), default=0)
    return render(
        "search.html",
        title=search.get("name") or "Hyperparameter search",
        search=search,
        facts={name: search[name] for name in ("task", "model", "data") if search.get(name)},
        best=search.get("best"),
        default_value=(search.get("default") or {}).get("value"),
        gain=_gain(search),
        test=search.get("test") or {},
        winner=by_role.get("winner"),
        default=by_role.get("default"),
        trials=trials,
        states={state: sum(t.state == state for t in trials) for state in STATES},
        words_of_state=STATES,
        parameters=names,
        curves=_curves(trials),
        slices=_slices(trials, names),
        same=_same(trials, names),
        stopping=_stopping(trials, search.get("max_epochs") or longest),
        times=_times(search, trials),
    )


@dataclass(frozen=True, slots=True)
class TrialView:
    """One trial, ready to be shown."""

    number: int
    state: str
    role: str
    """`winner`, `default` (where another trial won) or nothing."""
    reason: str
    params: Mapping[str, Any]
    points: tuple[tuple[int, float], ...]
    """(epoch, objective) where the objective is finite."""
    epochs: int
    best_epoch: int | None
    best_value: float | None
    train_s: float | None
    overhead_s: float | None
    run_id: str | None
    title: str
    """The trial in one line, shown when the pointer rests on it."""

    @property
    def css(self) -> str:
        """Classes that style the trial's marks."""
        return f"trial {self.role} {self.state.lower()}"


def _view(trial: Mapping[str, Any], search: Mapping[str, Any]) -> TrialView:
    number_, best_value = trial["trial"], _finite(trial.get("best_value"))
    winner = (search.get("best") or {}).get("trial")
    role = "winner" if number_ == winner else "default" if number_ == DEFAULT_TRIAL else ""
    values = trial.get("values") or []
    at = "" if trial.get("best_epoch") is None else f" at epoch {trial['best_epoch']}"
    params = ", ".join(f"{name} {setting(value)}" for name, value in trial["params"].items())
    return TrialView(
        number=number_,
        state=trial["state"],
        role=role,
        reason=trial.get("reason") or "",
        params=trial["params"],
        points=tuple((epoch, value) for epoch, value in enumerate(values, start=1) if is_number(value)),
        epochs=len(values),
        best_epoch=trial.get("best_epoch"),
        best_value=best_value,
        train_s=trial.get("train_s"),
        overhead_s=trial.get("overhead_s"),
        run_id=trial.get("mlflow_run_id"),
        title=f"Trial {number_}, {trial['state']}: best {number(best_value)}{at}. {params}",
    )


def _finite(value: Any) -> float | None:
    return value if is_number(value) else None


def _gain(search: Mapping[str, Any]) -> float | None:
    """Return how much better the winner is than the default settings; negative where it is worse."""
    best, default = search.get("best"), (search.get("default") or {}).get("value")
    if best is None or _finite(default) is None:
        return None
    difference = float(best["value"] - default)
    return difference if search["mode"] == "max" else -difference


@dataclass(frozen=True, slots=True)
class Curve:
    """One trial's line."""

    trial: TrialView
    line: str
    dots: list[tuple[float, float]]
    end: tuple[float, float]
    best: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Label:
    """A name at the end of a line."""

    x: float
    y: float
    text: str
    css: str


@dataclass(frozen=True, slots=True)
class Curves:
    """The chart of learning curves."""

    width: int
    height: int
    left: float
    right: float
    bottom: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    curves: list[Curve]
    labels: list[Label]


def _curves(trials: Sequence[TrialView]) -> Curves | None:
    """Lay the learning curves out, the highlighted ones last, on top."""
    drawn = [trial for trial in trials if trial.points]
    if not drawn:
        return None
    left, right, top, bottom = 58.0, CURVES_WIDTH - 112.0, 12.0, CURVES_HEIGHT - 40.0
    last = max(trial.points[-1][0] for trial in drawn)
    x = Scale(1, last, left + 14, right) if last > 1 else Scale(0.5, 1.5, left, right)
    y = padded([value for trial in drawn for _, value in trial.points], bottom, top)
    order = {"": 0, "default": 1, "winner": 2}
    curves = [_curve(trial, x, y) for trial in sorted(drawn, key=lambda t: order[t.role])]
    epochs = range(1, last + 1, max(1, -(-last // 12)))
    return Curves(
        width=CURVES_WIDTH,
        height=CURVES_HEIGHT,
        left=left,
        right=right,
        bottom=bottom,
        x_ticks=[Tick(x(epoch), str(epoch)) for epoch in epochs],
        y_ticks=y.ticks(),
        curves=curves,
        labels=_labels([curve for curve in curves if curve.trial.role]),
    )


def _curve(trial: TrialView, x: Scale, y: Scale) -> Curve:
    dots = [(x(epoch), y(value)) for epoch, value in trial.points]
    best = next(((x(epoch), y(value)) for epoch, value in trial.points if epoch == trial.best_epoch), None)
    return Curve(trial, path(dots), dots, dots[-1], best)


def _labels(curves: Sequence[Curve]) -> list[Label]:
    heights = spread([curve.end[1] for curve in curves], LABEL_GAP)
    return [
        Label(curve.end[0] + 10, height + 4, f"trial {curve.trial.number}, {curve.trial.role}", curve.trial.css)
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
    """The chart of one parameter against the best value."""

    name: str
    axis: Axis
    y_ticks: list[Tick]
    dots: list[Dot]
    width: int = SLICE_WIDTH
    height: int = SLICE_HEIGHT
    left: float = 44.0
    right: float = SLICE_WIDTH - 10.0
    bottom: float = SLICE_HEIGHT - 26.0


def _slices(trials: Sequence[TrialView], names: Sequence[str]) -> list[Slice]:
    """Lay out one small chart for each parameter that has at least two values among the trials with a score."""
    scored = [trial for trial in trials if trial.best_value is not None]
    if not scored:
        return []
    y = padded([trial.best_value for trial in scored if trial.best_value is not None], Slice.bottom_px, 10.0)
    return [_slice(name, shown, y) for name in names if _varies(name, shown := _with(name, scored))]
