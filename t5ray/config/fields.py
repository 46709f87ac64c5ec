"""Kinds of values that several groups of settings share."""

import os.path
import re
from typing import Annotated, Literal, Protocol, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

Precision = Literal["auto", "fp32", "bf16"]
TrainingPrecision = Literal["auto", "fp32", "bf16", "bf16_pure"]
Location = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path, URI or name. `~` is the home directory, also where no shell replaces it: in a file, or after `--output=`."""
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(value: object) -> object:
    """Read `2h`, `30m`, `90s` or `1d` as seconds; leave numbers to pydantic."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([smhd]?)\s*", value)
    if match is None:
        raise ValueError(f"must be seconds, or a number and its unit such as 90s, 30m, 2h or 1d, but got {value!r}")
    return float(match[1]) * UNITS_S.get(match[2], 1)


DURATION_SCHEMA = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^\s*[0-9.]+\s*[smhd]\s*$"}]}
Seconds = Annotated[float, BeforeValidator(_duration), WithJsonSchema(DURATION_SCHEMA)]


def refuse_fp16(value: object) -> object:
    """Refuse half precision with the reason; a `before` validator of every `precision`."""
    if isinstance(value, str) and value.lower() in ("fp16", "float16", "half"):
        raise ValueError("T5's activations overflow in fp16 (it was trained in bfloat16). Use bf16 or fp32")
    return value


class _Engine(Protocol):
    engine: str
    engine_dtype: str
    precision: str


_Settings = TypeVar("_Settings", bound=_Engine)


def refuse_unfit_engine(settings: _Settings) -> _Settings:
    """Refuse settings of one engine for the other; an `after` validator of settings that name an engine."""
    if settings.engine == "torch" and settings.engine_dtype != "float32":
        raise ValueError("engine_dtype is of engine ctranslate2; torch takes --precision")
    if settings.engine == "ctranslate2" and settings.precision == "bf16":
        raise ValueError("precision bf16 is of engine torch; ctranslate2 takes engine_dtype float32 or int8")
    return settings


def _pool(value: object) -> object:
    """Read `4` as a number of workers and `2,8` as the fewest and the most; leave numbers to pydantic."""
    if not isinstance(value, str):
        return value
    parts = [part.strip() for part in value.split(",")]
    if len(parts) not in (1, 2) or not all(part.isdigit() for part in parts):
        raise ValueError(f"must be a number, such as 4, or the fewest and the most, such as 2,8, but got {value!r}")
    return int(parts[0]) if len(parts) == 1 else tuple(map(int, parts))


def _in_order(value: int | tuple[int, int]) -> int | tuple[int, int]:
    if isinstance(value, tuple) and value[0] > value[1]:
        raise ValueError(f"the fewest must come before the most, but got {value[0]},{value[1]}")
    return value


_Count = Annotated[int, Field(ge=1)]
WorkerPool = Annotated[_Count | tuple[_Count, _Count], BeforeValidator(_pool), AfterValidator(_in_order)]
"""A fixed number of workers, or the fewest and the most of an autoscaling pool."""
