"""A search space as Optuna's define-by-run sees it, the points in it, and the grid over it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna

from t5ray.config import Range, SearchSpace, TrainingConfig

Params = dict[str, Any]


def suggest(trial: optuna.Trial, space: SearchSpace) -> Params:
    """Draw one value for each parameter whose condition holds; fixed values are set, not drawn.

    Ranges under different conditions are different Optuna parameters (`learning_rate:1`), so that a sampler never mixes
    what it learned under one with the other.
    """
    params: Params = {}
    for name, ranges in space.parameters.items():
        for index, values in enumerate(ranges):
            if values.holds(params):
                params[name] = _draw(trial, name if len(ranges) == 1 else f"{name}:{index}", values)
                break
    return params


def _draw(trial: optuna.Trial, name: str, values: Range) -> Any:
    match values.kind:
        case "uniform" | "loguniform":
            low, high = values.bounds
            return trial.suggest_float(name, low, high, log=values.kind == "loguniform")
        case "int" | "logint":
            low, high = values.bounds
            return trial.suggest_int(name, low, high, log=values.kind == "logint")
        case "choice":
            return trial.suggest_categorical(name, list(values.bounds))
    return values.fixed


def point(space: SearchSpace, settings: Mapping[str, Any]) -> tuple[Params, Params] | None:
    """Place given settings in the space.

    Returns:
        (parameter -> value, Optuna name -> value), or None where a value lies outside its range, which Optuna cannot
        record.
    """
    if outside(space, settings):
        return None
    params: Params = {}
    drawn: Params = {}
    for name, ranges in space.parameters.items():
        for index, values in enumerate(ranges):
            if values.holds(params):
                params[name] = settings[name]
                if values.kind != "fixed":
                    drawn[name if len(ranges) == 1 else f"{name}:{index}"] = settings[name]
                break
    return params, drawn


def outside(space: SearchSpace, settings: Mapping[str, Any]) -> Params:
    """Return the parameters whose values lie outside the ranges that hold for them, with those values."""
    params: Params = {}
    found: Params = {}
    for name, ranges in space.parameters.items():
        fitting = next((values for values in ranges if values.holds(params)), None)
        if fitting is not None:
            params[name] = settings[name]
            if not fitting.contains(settings[name]):
                found[name] = settings[name]
    return found


def default_settings(space: SearchSpace, training: TrainingConfig) -> Params:
    """Return what the training settings say for every parameter of the space."""
    return {name: getattr(training, name) for name in space.parameters}


def completed(space: SearchSpace, given: Mapping[str, Any], training: TrainingConfig) -> Params:
    """Return a point with a value for each parameter: what it leaves out takes the default.

    But where the range that holds has one value and no more, it takes that: `fixed` is meant for every trial.
    """
    settings = {**default_settings(space, training), **given}
    params: Params = {}
    for name, ranges in space.parameters.items():
        fitting = next((values for values in ranges if values.holds(params)), None)
        if fitting is not None:
            if name not in given and fitting.is_listed and len(fitting.bounds) == 1:
                (settings[name],) = fitting.bounds
            params[name] = settings[name]
    return settings


def grid(space: SearchSpace, seed: int) -> list[Params]:
    """Return every combination of the grid's values once, in an order drawn by the seed; conditions hold.

    Example:
        {"optimizer": choice [a, b], "dropout": {fixed: 0.1, when: {optimizer: a}}} ->
        [{"optimizer": "a", "dropout": 0.1}, {"optimizer": "b"}] or the other way round
    """
    points: list[Params] = [{}]
    for name, ranges in space.parameters.items():
        grown: list[Params] = []
        for params in points:
            fitting = next((values for values in ranges if values.holds(params)), None)
            grown += [params] if fitting is None else [{**params, name: value} for value in _grid_values(fitting)]
        points = grown
    order = np.random.default_rng(seed).permutation(len(points))
    return [points[i] for i in order]


def _grid_values(values: Range) -> list[Any]:
    """Return the values that a grid tries of one range, ascending."""
    if values.is_listed:
        return list(values.bounds)
    low, high = (float(bound) for bound in values.bounds)
    spaced = np.geomspace if values.kind.startswith("log") else np.linspace
    found = spaced(low, high, values.grid_size or 0).clip(low, high).tolist()  # rounding stays inside
    return found if values.kind in ("uniform", "loguniform") else sorted({round(value) for value in found})
