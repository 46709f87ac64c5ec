"""Seconds of an optimizer step and peak memory of a worker on a CPU, by the tokens of a micro-batch.

    python -m benchmarks.micro_batch --model DIR --rows 32 --length 512 --tokens 4096,16384

Each size in a process of its own, round after round. Beside the peak stands what `training/footprint.py` foretells.
"""

import argparse
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from t5ray.config import TrainingConfig
from t5ray.data.batches import epoch_steps, token_budget
from t5ray.data.token_cache import TokenisedSplit
from t5ray.model.loading import load_config, num_parameters
from t5ray.training.footprint import worker_bytes
from t5ray.training.group import Group
from t5ray.training.step import EpochSums, optimizer_step
from t5ray.training.trainee import made_ready
from t5ray.training.worker import WarmModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=512, help="tokens of an input; targets have an eighth")
    parser.add_argument("--tokens", default="4096,16384")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    budgets = [int(tokens) for tokens in args.tokens.split(",")]
    found: dict[int, list[tuple[float, int]]] = {budget: [] for budget in budgets}
    for _ in range(args.rounds):
        for budget in budgets:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                given = (args.model, args.rows, args.length, budget, args.threads)
                found[budget].append(pool.submit(measure, *given).result())
    config, numbers, row = load_config(args.model), num_parameters(args.model), args.length + args.length // 8
    for budget, pairs in found.items():
        rows = max(1, min(budget // row, args.rows))
        foretold = worker_bytes(config, numbers, TrainingConfig(), rows, args.length, args.length // 8)
        print(
            f"{budget:>6} tokens: {statistics.median(seconds for seconds, _ in pairs):.2f} s a step, "
            f"peak {max(peak for _, peak in pairs) / 2**30:.1f} GiB, foretold {foretold / 2**30:.1f} GiB"
        )


def measure(model: str, rows: int, length: int, budget: int, threads: int) -> tuple[float, int]:
    """Return the seconds of the second step and the most memory that this process had."""
    torch.set_num_threads(threads)
    config, group, rng = TrainingConfig(batch_size=rows), Group(torch.device("cpu")), np.random.default_rng(0)

    def texts(tokens: int) -> tuple[np.ndarray, np.ndarray]:
        ids = rng.integers(5, 1000, 2 * rows * tokens).astype(np.int32)
        return ids, np.arange(2 * rows + 1, dtype=np.int64) * tokens

    split = TokenisedSplit(*texts(length), *texts(length // 8))
    with made_ready(WarmModel(model).pristine(config, group), config, group) as trainee:
        for step in epoch_steps(split, batch_size=rows, limit=token_budget(budget), seed=0, epoch=1):
            began = time.perf_counter()
            optimizer_step(trainee.forward, trainee.optimizer, split, step, config, group, EpochSums())
            seconds = time.perf_counter() - began
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return seconds, int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
