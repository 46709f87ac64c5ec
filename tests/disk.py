"""What a run or a search has on disk while it runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from t5ray.training.best import NAME
from t5ray.training.checkpoint import LAST


@dataclass
class HighWater:
    """The most that was seen on disk at once."""

    weights: int = 0
    """Files of weights, half written ones included."""
    states: int = 0
    """Saved states, likewise."""
    whole: int = 0
    """Checkpoints of both kinds that a run would go on from or end with: what is being written is none yet."""
    size_bytes: int = 0
    """Of all weights and states."""
    looks: int = 0

    def look(self, folder: Path) -> None:
        """Look at what there is now: what two looks see, for a file may be renamed in the middle of one."""
        first = set(folder.rglob("*"))
        sizes: dict[str, list[int]] = {"weights": [], "states": []}
        both = first.intersection(folder.rglob("*"))
        self.whole = max(self.whole, sum(path.name == LAST or NAME.fullmatch(path.name) is not None for path in both))
        for path in both:
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
