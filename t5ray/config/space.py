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

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from t5ray.config.base import Settings
from t5ray.config.fit import fit_problems, grid_problems, typed_range, typed_value
from t5ray.config.ranges import Range, Scalar, Value
from t5ray.config.strategy import SamplerConfig, SchedulerConfig


class SearchSpace(Settings):
    """A search-space file."""

    parameters: dict[str, Annotated[tuple[Range, ...], Field(json_schema_extra={"minItems": 1})]] = Field(min_length=1)
    """Training setting -> its range, or ranges under conditions."""
    sampler: SamplerConfig = SamplerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    start_from: tuple[dict[str, Value], ...] = ()
    """Points to run right after the defaults."""

    @field_validator("parameters", mode="before")
    @classmethod
    def _wrap_single_ranges(cls, value: Any) -> Any:
        return {name: _listed(ranges) for name, ranges in value.items()} if isinstance(value, Mapping) else value

    @field_validator("parameters")
    @classmethod
    def _types_values(cls, value: dict[str, tuple[Range, ...]]) -> dict[str, tuple[Range, ...]]:
        return {name: tuple(typed_range(name, values) for values in ranges) for name, ranges in value.items()}

    @field_validator("start_from")
    @classmethod
    def _types_points(cls, value: tuple[dict[str, Scalar], ...]) -> tuple[dict[str, Scalar], ...]:
        return tuple({name: typed_value(name, one) for name, one in point.items()} for point in value)

    @model_validator(mode="wrap")
    @classmethod
    def _shows_all_problems(cls, value: Any, handler: ModelWrapValidatorHandler["SearchSpace"]) -> "SearchSpace":
        """Hold what is sound to the training settings, too, where something else is broken."""
        try:
            space = handler(value)
        except ValidationError as exc:
            broken = [_placed_as_written(error, value) for error in exc.errors()]
            found = [*broken, *map(_problem, fit_problems(*_sound(value)))]
            raise ValidationError.from_exception_data(cls.__name__, found) from None
        problems = fit_problems(space.parameters, space.start_from)
        problems += grid_problems(space.parameters) if space.sampler.name == "grid" else []
        if problems:
            raise ValidationError.from_exception_data(cls.__name__, list(map(_problem, problems)))
        return space


def _listed(ranges: Any) -> Sequence[Any]:
    return ranges if isinstance(ranges, list | tuple) else [ranges]


def _sound(value: Any) -> tuple[dict[str, tuple[Range | None, ...]], list[dict[str, Scalar]]]:
    """Return what can be read of a broken space: None in the place of a range that cannot."""
    given = value if isinstance(value, Mapping) else {}
    parameters, starts = given.get("parameters"), given.get("start_from")
    named = parameters if isinstance(parameters, Mapping) else {}
    return (
        {str(name): tuple(_range(str(name), one) for one in _listed(ranges)) for name, ranges in named.items()},
        [dict(_scalars(point)) for point in _listed(starts) if isinstance(point, Mapping)],
    )


def _range(name: str, value: Any) -> Range | None:
    try:
        return typed_range(name, Range.model_validate(value))
    except ValidationError:
        return None


def _scalars(point: Mapping[Any, Any]) -> Iterator[tuple[str, Scalar]]:
    return ((str(name), value) for name, value in point.items() if isinstance(value, Scalar))


def _placed_as_written(error: Any, value: Any) -> InitErrorDetails:
    """Take the index out of the place of a range that the file does not give in a list."""
    loc = error["loc"]
    if loc[:1] == ("parameters",) and loc[2:3] == (0,) and not isinstance(value["parameters"][loc[1]], list | tuple):
        loc = (*loc[:2], *loc[3:])
    return {"type": error["type"], "loc": loc, "input": error["input"], "ctx": error.get("ctx", {})}


def _problem(text: str) -> InitErrorDetails:
    return {"type": PydanticCustomError("value_error", "{problem}", {"problem": text}), "loc": (), "input": None}
