"""Values of a search space that no run can have, and parameters that change no run, before anything is started.

Comes in: a space and the run's training settings, task and model. Goes out: a ConfigError, or notes. Of a numeric
range one value stands for all, so a contradiction that hangs on a particular number is seen by the trial that draws it
only.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from pydantic import ValidationError

from t5ray.config import NEEDS, Range, SearchSpace, TrainingConfig, awaited
from t5ray.errors import ConfigError
from t5ray.model.loading import load_config
from t5ray.search.space import Params, completed, outside
from t5ray.text.objectives import check_stopping
from t5ray.training.prepare import Prepared

Reason = Callable[[Params], str | None]
"""Says why no run can have some values; None where one can."""
MAX_CHECKED = 1000
"""Combinations that are tried, at most; of more, a fixed sample."""
MAX_TOLD = 5
"""Contradictions that are told in words, at most."""


def require_consistent(space: SearchSpace, training: TrainingConfig, place: str) -> None:
    """Refuse a space some of whose points contradict themselves.

    Args:
        training: the settings that the space's values replace.
        place: name or path of the space.
    Raises:
        ConfigError: names the values that do not go together, and why.
    """
    _refuse(_points(space, training, _middle), partial(_reason, training=training), place)


def _refuse(points: Iterable[Params], reason_of: Reason, place: str) -> None:
    """Refuse points for which there is a reason to."""
    found = sorted({one for one in (_contradiction(point, reason_of) for point in points) if one is not None})
    more = [f"and {len(found) - MAX_TOLD} more."] * (len(found) > MAX_TOLD)
    if found:
        raise ConfigError([f"{place}: {one}" for one in [*found[:MAX_TOLD], *more]])


def require_fit(space: SearchSpace, prepared: Prepared, place: str) -> None:
    """Refuse values of a space that the task or the model does not know, in whichever trials they would come.

    Args:
        place: name or path of the space.
    Raises:
        ConfigError: names every such value, and what is known; or the values that leave nothing to train.
    """
    problems, training = list[str](), prepared.config.training
    for metric in _values(space, "early_stopping_metric"):
        try:
            check_stopping(metric, prepared.task)
        except ConfigError as exc:
            problems += exc.problems
    blocks = _blocks(prepared.model)
    most, asked = max(blocks), max(_values(space, "freeze_layers"), default=0)
    frozen = {f"{place}: freeze_layers": asked, "training.freeze_layers": training.freeze_layers}
    too_deep = [
        f"{where}: `freeze_layers <= {most}` must hold for this model, which has {blocks[0]} blocks in its encoder and "
        f"{blocks[1]} in its decoder, but got {number}. Freeze fewer."
        for where, number in frozen.items()
        if number > most
    ]
    if problems := [*(f"{place}: {problem}" for problem in problems), *too_deep]:
        raise ConfigError(problems)
    points = _points(space, training, _ends)
    _refuse(points, partial(_nothing_left, training=training, blocks=blocks), place)


def _blocks(model: str) -> tuple[int, int]:
    """Return the number of blocks of a model's encoder and of its decoder."""
    config = load_config(model)
    return config.num_layers, config.num_decoder_layers


def _values(space: SearchSpace, name: str) -> list[Any]:
    """Return the values that a space names for a parameter: of a numeric range the ends."""
    ranged = (value for values in space.parameters.get(name, ()) for value in values.bounds)
    return list(dict.fromkeys([*ranged, *(point[name] for point in space.start_from if name in point)]))


def idle_parameters(space: SearchSpace, training: TrainingConfig) -> list[str]:
    """Say which parameters change nothing in any trial of a consistent space, and what they would need.

    Example:
        optimizer fixed to adamw, momentum searched -> momentum needs optimizer=sgd
    """
    idle = dict.fromkeys(name for name in space.parameters if name in NEEDS)
    for params in _points(space, training, _middle):
        if not idle:
            break
        config = training.with_params(params)
        for name in [name for name in idle if name in params and NEEDS[name].holds(config)]:
            del idle[name]
    return [
        f"{name} changes nothing in any trial: it needs {NEEDS[name].words}. See to that, or leave {name} out."
        for name in idle
    ]


def outside_points(space: SearchSpace, training: TrainingConfig) -> list[str]:
    """Say which points of the file lie outside the space: they are run, and Optuna cannot hold them."""
    notes = []
    for number, given in enumerate(space.start_from, start=1):
        if found := outside(space, completed(space, given, training)):
            values = ", ".join(f"{name}={value}" for name, value in found.items())
            notes.append(
                f"point {number} of start_from lies outside the space with {values}: it is run, but the sampler learns "
                "nothing from it. Widen the ranges to let it learn."
            )
    return notes


def _points(
    space: SearchSpace, training: TrainingConfig, tried: Callable[[Range], tuple[Any, ...]]
) -> Iterator[Params]:
    """Yield the points of the file, then combinations of the values tried of each range, under their conditions.

    Of a range, the values that conditions wait for are tried besides.
    """
    yield from (completed(space, given, training) for given in space.start_from)
    points, waited = list[Params]([{}]), awaited(space.parameters)
    for name, ranges in space.parameters.items():
        grown: list[Params] = []
        for params in points:
            fitting = next((values for values in ranges if values.holds(params)), None)
            if fitting is None:
                grown.append(params)
                continue
            met = [value for value in waited.get(name, ()) if fitting.contains(value)]
            grown += [{**params, name: value} for value in dict.fromkeys([*tried(fitting), *met])]
        points = grown if len(grown) <= MAX_CHECKED else random.Random(0).sample(grown, MAX_CHECKED)
    yield from points


def _ends(values: Range) -> tuple[Any, ...]:
    """Return every value of a choice, and both ends of any other range."""
    return values.bounds


def _middle(values: Range) -> tuple[Any, ...]:
    """Return every value of a choice, and a number inside any other range."""
    if values.is_listed:
        return values.bounds
    low, high = (float(bound) for bound in values.bounds)
    inside = (low + high) / 2
    return (inside,) if values.kind in ("uniform", "loguniform") else (round(inside + 0.1),)


def _contradiction(params: Params, reason_of: Reason) -> str | None:
    """Say which of some values do not go together, and why; None where all do."""
    reason = reason_of(params)
    if reason is None:
        return None
    for name in list(params):
        without = {other: value for other, value in params.items() if other != name}
        if reason_of(without) == reason:
            params = without
    values = ", ".join(f"{name}={value}" for name, value in params.items())
    with_them = f"with {values}: " if values else ""
    return f"{with_them}{reason}. Leave such values out, or set them apart with `when:`."


def _reason(params: Params, training: TrainingConfig) -> str | None:
    try:
        training.with_params(params)
    except ValidationError as exc:
        return "; ".join(error["msg"].removeprefix("Value error, ").rstrip(".") for error in exc.errors())
    return None


def _nothing_left(params: Params, training: TrainingConfig, blocks: tuple[int, int]) -> str | None:
    """Say why settings train nothing: adapters lie in blocks alone, all of which are frozen."""
    if _reason(params, training) is not None:
        return None
    config, (encoder, decoder) = training.with_params(params), blocks
    is_encoder_frozen = config.freeze_encoder or config.freeze_layers >= encoder
    if config.lora_rank and is_encoder_frozen and config.freeze_layers >= decoder:
        return "some parameter must be trained, but the freeze_ settings keep every block and its adapters as they are"
    return None
