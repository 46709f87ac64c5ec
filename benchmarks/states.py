"""Seconds that a run waits for its state to be written: into new files, and over one that is wanted no more.

    python -m benchmarks.states --numbers 77000000

In turn, with work between, as an epoch would be. A state is weights and AdamW's two moments. Memory that a virtual
machine has not used before, or has given back, is what makes new files slow; where there is none, both are alike.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from t5ray.training.checkpoint import Progress, StateWriter

TENSOR = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numbers", type=int, default=77_000_000, help="weights of the model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--between", type=float, default=8.0, help="seconds of work between two states")
    args = parser.parse_args()
    state = {f"{number}": torch.randn(TENSOR) for number in range(3 * args.numbers // TENSOR)}
    found: dict[str, list[float]] = {"new files": [], "old files": []}
    with (
        tempfile.TemporaryDirectory(prefix="t5ray-states-") as folder,
        StateWriter(Path(folder, "new/run"), shares_disk=True) as new,
        StateWriter(Path(folder, "old/run"), shares_disk=True, keeps_spare=True) as old,
    ):
        for number in range(args.rounds + 2):  # the first two of each are written into new files
            for name, states in (("new files", new), ("old files", old)):
                began = time.perf_counter()
                states.save(state, Progress(step=number))
                found[name].append(time.perf_counter() - began)
                _work(args.between)
                states.wait()
    for name, seconds in found.items():
        kept = seconds[2:]
        print(f"{name}: {statistics.median(kept):.2f} s a state ({', '.join(f'{each:.2f}' for each in kept)})")


def _work(seconds: float) -> None:
    matrix, until = torch.randn(1024, 1024), time.monotonic() + seconds
    while time.monotonic() < until:
        matrix @ matrix


if __name__ == "__main__":
    main()
