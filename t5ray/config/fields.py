"""Kinds of values that several groups of settings share."""

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator

Precision = Literal["auto", "fp32", "bf16"]
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(value: object) -> object:
    """Read `2h`, `30m`, `90s` or `1d` as seconds; leave numbers to pydantic."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*([smhd])\s*", value) if isinstance(value, str) else None
    return float(match[1]) * UNITS_S[match[2]] if match else value


Seconds = Annotated[float, BeforeValidator(_duration)]


def refuse_fp16(value: object) -> object:
    """Refuse half precision with the reason; a `before` validator of every `precision`."""
    if isinstance(value, str) and value.lower() in ("fp16", "float16", "half"):
        raise ValueError("T5's activations overflow in fp16 (it was trained in bfloat16). Use bf16 or fp32")
    return value
