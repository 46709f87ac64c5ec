"""Flags that name several contenders, with commas between them."""

import argparse
from collections.abc import Callable, Collection


def names_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """Return what argparse makes such a flag's text a list with; it refuses names that are not known, or come twice."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"must be among {', '.join(known)}, but got {', '.join(unknown)}")
        if len(set(names)) < len(names):
            raise argparse.ArgumentTypeError(f"must name each once, but got {text}")
        return names

    return parse
