"""One range of a search-space file: the values that one parameter may take, under one condition."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from t5ray.config.base import Settings

Scalar = bool | int | float | str | None


def _scalar(value: object) -> object:
    """Refuse in one sentence what no setting can be; a union says it once for each of its members."""
    if not isinstance(value, Scalar) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"must be a finite number, a text, true, false or null, but got {value!r:.80}")
    return value


def _scalars(value: object) -> object:
    return [_scalar(one) for one in value] if isinstance(value, list | tuple) else _scalar(value)


Value = Annotated[Scalar, BeforeValidator(_scalar)]
Values = Annotated[Scalar | tuple[Scalar, ...], BeforeValidator(_scalars)]
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
    choice: tuple[Value, ...] | None = None
    """The values to choose from."""
    fixed: Value = None
    """One value for every trial; null, too, where the setting may be null."""
    points: int | None = Field(default=None, ge=2)
    """For the grid sampler: how many values of a numeric range to try, both ends included, evenly spaced on its scale.
    None: every whole number of an `int`; other numeric ranges need it."""
    when: dict[str, Values] = Field(default_factory=dict)
    """Earlier parameter -> the value (or values) for which this range holds."""

    @property
    def kind(self) -> str:
        """Which of `KINDS` this range is."""
        return self._given()[0]

    def _given(self) -> list[str]:
        """Return the kinds that have a value; only `fixed` may be given as null."""
        given = [kind for kind in KINDS if self._of(kind) is not None]
        return given or ["fixed"] * ("fixed" in self.model_fields_set)

    def _of(self, kind: str) -> Any:
        return getattr(self, "int_" if kind == "int" else kind)

    @property
    def bounds(self) -> tuple[Any, ...]:
        """The extreme values (all of them for a choice): what the training settings must accept."""
        value = self._of(self.kind)
        return value if isinstance(value, tuple) else (value,)

    @property
    def is_listed(self) -> bool:
        """Whether `bounds` are all its values."""
        return self.kind in ("choice", "fixed")

    def contains(self, value: object) -> bool:
        """Say whether it has a value: a range of whole numbers has no others, though a setting may be a fraction."""
        if self.is_listed:
            return value in self.bounds
        low, high = self.bounds
        is_within = isinstance(value, int | float) and low <= value <= high
        return is_within and (self.kind in ("uniform", "loguniform") or float(value).is_integer())  # type: ignore[arg-type]

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Say whether every parameter that `when` names has the value, or one of the values, that it asks for."""
        return all(
            name in params and params[name] in (wanted if isinstance(wanted, tuple) else (wanted,))
            for name, wanted in self.when.items()
        )

    @property
    def grid_size(self) -> int | None:
        """How many values a grid tries; None for a range that is continuous."""
        if self.is_listed:
            return len(self.bounds)
        if self.points is None and self.int_ is not None:
            return self.int_[1] - self.int_[0] + 1
        return self.points

    @model_validator(mode="after")
    def _is_one_good_range(self) -> "Range":
        given = self._given()
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
