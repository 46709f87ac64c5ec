"""Flags that name several contenders, with commas between them."""

import argparse
from collections.abc import Callable, Collection


def names_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """Return what argparse turns such a flag's text into a list with; it refuses names that are not known."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"must be of {', '.join(known)}, but got {', '.join(unknown)}")
        return names

    return parse
