"""Seconds of an optimizer step and peak memory of a worker on a CPU, by the tokens of a micro-batch.

    python -m benchmarks.micro_batch --model DIR --rows 32 --length 512 --tokens 4096,16384

Each size in a process of its own, round after round. Beside the peak stands what `training/footprint.py` foretells.
"""

import argparse
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

from benchmarks.watch import peak_bytes
from t5ray.config import TrainingConfig
from t5ray.data.batches import epoch_steps
from t5ray.data.token_cache import TokenisedSplit
from t5ray.model.loading import load_config, num_parameters
from t5ray.training.footprint import worker_bytes
from t5ray.training.group import Group
from t5ray.training.micro_batch import row_limit
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
                config = TrainingConfig(batch_size=args.rows, micro_batch_tokens=budget)
                given = (args.model, config, args.length, args.length // 8, args.threads)
                found[budget].append(pool.submit(measure, *given).result())
    model_config, numbers = load_config(args.model), num_parameters(args.model)
    row = args.length + args.length // 8
    for budget, pairs in found.items():
        rows = max(1, min(budget // row, args.rows))
        foretold = worker_bytes(model_config, numbers, TrainingConfig(), rows, args.length, args.length // 8)
        print(
            f"{budget:>6} tokens: {statistics.median(seconds for seconds, _ in pairs):.2f} s a step, "
            f"peak {max(peak for _, peak in pairs) / 2**30:.1f} GiB, foretold {foretold / 2**30:.1f} GiB"
        )


def measure(model: str, config: TrainingConfig, length: int, target: int, threads: int) -> tuple[float, int]:
    """Train two steps in this process, on rows of these tokens.

    Args:
        config: with the rows of a step, and the tokens of a micro-batch.
    Returns:
        The seconds of the second step, and the most memory that this process has had.
    """
    torch.set_num_threads(threads)
    rows, group, rng = config.batch_size, Group(torch.device("cpu")), np.random.default_rng(0)

    def texts(tokens: int) -> tuple[np.ndarray, np.ndarray]:
        ids = rng.integers(5, 1000, 2 * rows * tokens).astype(np.int32)
        return ids, np.arange(2 * rows + 1, dtype=np.int64) * tokens

    split = TokenisedSplit(*texts(length), *texts(target))
    with made_ready(WarmModel(model).pristine(config, group), config, group) as trainee:
        limit = row_limit(trainee, split, config, group)
        for step in epoch_steps(split, batch_size=rows, limit=limit, seed=0, epoch=1):
            began = time.perf_counter()
            optimizer_step(trainee.forward, trainee.optimizer, split, step, config, group, EpochSums())
            seconds = time.perf_counter() - began
    return seconds, peak_bytes()


if __name__ == "__main__":
    main()
