"""Which source gave a setting, in the words that its user typed: `run.yaml: training.dropout`, `--num-trials`."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Words = Callable[[str], str]
"""Dotted setting -> how its source names it."""


class Origins:
    """The source that gave each setting last. A setting that none gave is called by its own name."""

    def __init__(self) -> None:
        self._words: dict[tuple[str, ...], Words] = {}

    def note_file(self, given: Mapping[str, Any], path: str | Path) -> None:
        """Note what a settings file holds."""
        self._note((), given, lambda setting: f"{path}: {setting}")

    def note_flag(self, setting: str, flag: str) -> None:
        """Note a flag."""
        self._note(tuple(setting.split(".")), None, lambda _: flag)

    def note_set(self, setting: str, value: Any) -> None:
        """Note one `--set`."""
        self._note(tuple(setting.split(".")), value, _of_set)

    def _note(self, path: tuple[str, ...], value: Any, words: Words) -> None:
        for leaf in _leaves(path, value):
            self._words[leaf] = words

    def place_of(self, loc: tuple[int | str, ...]) -> str:
        """Return how to name a setting, or a group of which all that was given has one source; "" for all of them."""
        path, setting = tuple(map(str, loc)), ".".join(map(str, loc))
        for end in range(len(path), 0, -1):
            if path[:end] in self._words:
                return self._words[path[:end]](setting)
        inside = {words for given, words in self._words.items() if given[: len(path)] == path}
        return inside.pop()(setting) if path and len(inside) == 1 else setting

    def attributed(self, problem: str) -> str:
        """Put the source's words in the place of the setting that a problem begins with."""
        setting, colon, rest = problem.partition(": ")
        words = self._words.get(tuple(setting.split(".")))
        return f"{words(setting)}{colon}{rest}" if words and colon else problem


def _of_set(setting: str) -> str:
    return f"--set {setting}"


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[str, ...]]:
    """Yield where the values of a nested mapping stand; an empty mapping is a value."""
    if not (isinstance(value, Mapping) and value):
        yield path
        return
    for name, inner in value.items():
        yield from _leaves((*path, str(name)), inner)
