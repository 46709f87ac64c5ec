"""What a run or a search has on disk while it runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class HighWater:
    """The most that was seen on disk at once."""

    weights: int = 0
    """Files of weights, half written ones included."""
    states: int = 0
    """Saved states, likewise."""
    size_bytes: int = 0
    """Of both."""
    looks: int = 0

    def look(self, folder: Path) -> None:
        """Look at what there is now: what two looks see, for a file may be renamed in the middle of one."""
        first = set(folder.rglob("*"))
        sizes: dict[str, list[int]] = {"weights": [], "states": []}
        for path in first.intersection(folder.rglob("*")):
            kind = "weights" if path.suffix == ".safetensors" else "states" if ".pt" in path.suffixes else None
            try:
                if kind is not None:
                    sizes[kind].append(path.stat().st_size)
            except FileNotFoundError:  # gone in between
                continue
        self.weights = max(self.weights, len(sizes["weights"]))
        self.states = max(self.states, len(sizes["states"]))
        self.size_bytes = max(self.size_bytes, sum(map(sum, sizes.values())))
        self.looks += 1


@contextmanager
def watched(folder: Path) -> Iterator[HighWater]:
    """Look at a search's checkpoints again and again."""
    found, over = HighWater(), threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            found.look(folder)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
