"""pydantic's errors in a user's words: place, what must hold, what was found, what was meant.

Comes in: a ValidationError, and how its source names a place. Goes out: the problems of a `ConfigError`.
"""

import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from t5ray.errors import did_you_mean, nearest

Loc = tuple[int | str, ...]
MISSING_ONE_OF = "missing_one_of"
"""Type of the error of settings of which at least one must be given."""


def in_file(path: str | Path) -> Callable[[Loc], str]:
    """Return what names places in a file."""
    return lambda loc: ": ".join([str(path), *([".".join(map(str, loc))] if loc else [])])


def explain(
    model: type[BaseModel], exc: ValidationError, place_of: Callable[[Loc], str], *, is_whole: bool = True
) -> list[str]:
    """Turn pydantic's errors into one sentence each.

    Args:
        place_of: pydantic's place -> how to name it; "" where the message names the settings itself.
        is_whole: False where a source could not be read, so that nobody knows what is missing.
    """
    missing = () if is_whole else ("missing", MISSING_ONE_OF)
    found = [error for error in _causes(exc.errors()) if error["type"] not in missing]
    return [_sentence(model, error, place_of(error["loc"])) for error in found]


def _sentence(model: type[BaseModel], error: Any, place: str) -> str:
    head = f"{place}: " if place else ""
    if error["type"] == "extra_forbidden":
        return f"{head}no such setting. {_meant(model, error['loc'])}"
    if error["type"] == "missing":
        flag = f" (--{place.replace('_', '-')})" if place == error["loc"][-1] else ""
        return f"{head}must be given{flag}."
    message = error["msg"].removeprefix("Value error, ")
    found = "" if error["type"] in ("value_error", MISSING_ONE_OF) else f", but got {_short(error['input'])}"
    return f"{head}{ended(_lower_first(message) + found)}{_nearest_value(error)}"


def ended(text: str) -> str:
    """End a sentence that has no end yet.

    Example:
        ended("got 2"), ended("Did you mean `a`?") -> ("got 2.", "Did you mean `a`?")
    """
    return text if text.endswith((".", "?", "!")) and not text.endswith("...") else f"{text}."


def _causes(errors: Sequence[Any]) -> list[Any]:
    """Leave out that a list is too short where that only follows from errors in its items."""
    return [
        error
        for error in errors
        if error["type"] != "too_short"
        or not any(other["loc"][:-1] == error["loc"] for other in errors if other is not error)
    ]


def _nearest_value(error: Any) -> str:
    """Return a hint at the value that was meant, where only some are allowed and one of them is near."""
    if error["type"] != "literal_error":
        return ""
    near = nearest(str(error["input"]), re.findall(r"'([^']*)'", error["ctx"]["expected"]))
    return f" Did you mean `{near}`?" if near else ""


def _lower_first(text: str) -> str:
    return text[0].lower() + text[1:] if text[1:2].islower() else text


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _meant(model: type[BaseModel], loc: Loc) -> str:
    """Return a hint at the setting that was meant: this very name elsewhere, a near one here, a near one elsewhere.

    Example:
        learning_rate -> "Did you mean `training.learning_rate`?"
    """
    name, here = str(loc[-1]), _names_at(model, loc)
    everywhere = [path.rpartition(".") for path in _settings_of(model)]
    if named_so := [f"{group}.{leaf}" for group, _, leaf in everywhere if leaf == name]:
        return f"Did you mean {' or '.join(f'`{path}`' for path in named_so)}?"
    near = nearest(name, here) or nearest(name, (leaf for _, _, leaf in everywhere))
    if near is None or near in here:
        return did_you_mean(name, here)
    return f"Did you mean `{next(f'{group}.{leaf}' for group, _, leaf in everywhere if leaf == near)}`?"


def _settings_of(model: type[BaseModel], group: str = "") -> Iterator[str]:
    """Yield the dotted names of the settings in a model's groups."""
    for name, field in model.model_fields.items():
        inner = _group_in(field.annotation)
        if inner is not None:
            yield from _settings_of(inner, f"{group}{name}.")
        elif group:
            yield f"{group}{name}"


def _group_in(annotation: Any) -> type[BaseModel] | None:
    """Return the settings model of a field that holds one, or None in its place; not of one that holds several."""
    members = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((member for member in members if _is_settings(member)), None)


def _is_settings(annotation: Any) -> bool:
    is_class = isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)
    return is_class and issubclass(annotation, BaseModel)


def _names_at(model: type[BaseModel], loc: Loc) -> set[str]:
    """Return the setting names that are known at the place where an unknown one stood."""
    current: type[BaseModel] | None = model
    for part in loc[:-1]:
        if current is not None and part in current.model_fields:
            current = _settings_in(current.model_fields[str(part)].annotation)
    return {field.alias or name for name, field in current.model_fields.items()} if current else set()


def _settings_in(annotation: Any) -> type[BaseModel] | None:
    """Find the settings model inside an annotation such as `dict[str, tuple[Range, ...]]`."""
    if _is_settings(annotation):
        return typing.cast(type[BaseModel], annotation)
    return next((found for arg in typing.get_args(annotation) if (found := _settings_in(arg))), None)
