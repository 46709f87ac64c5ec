"""Training speed, memory and losses of t5ray and of transformers' Seq2SeqTrainer, in turn.

    python -m benchmarks.training --model google/flan-t5-small --data rows.jsonl --rows 480 --rounds 3 --seeds 3

All train one epoch of the same tokens with the same rows per optimizer step, learning rate, linear schedule, AdamW,
clipping and dropout, each run in a new process. Round r trains with seed r modulo `--seeds`. Speeds and memory are
medians over rounds, losses means. `a CPU s` is source tokens by processor time of all threads, which other programs
disturb less: with `--threads 1` it compares contenders on a busy machine. `ceiling` is the share of what the machine
multiplies per second in its faster precision, measured at the start. `trainer` is Seq2SeqTrainer as it comes; its best
setting is the fastest of the rest. t5ray's processes have the environment that its workers are started with.
The table is printed after each round, over all rounds so far. `--contenders t5ray-1-worker,t5ray-2-workers` says what a
second worker brings.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.flops import machine_flops, training_flops
from benchmarks.names import names_of
from benchmarks.training_contenders import CONTENDERS, T5RAY, TRAINER, WORKERS, Outcome, prepared, run
from benchmarks.training_curve import drawing
from t5ray import heap


def main() -> None:
    args = _arguments()
    if args.worker:
        run(args)
        return
    with tempfile.TemporaryDirectory() as cache:
        work = _work(args, Path(cache))
        ceiling = max(_machine(args).values())
        found: dict[str, list[Outcome]] = {name: [] for name in args.contenders}
        for turn in range(args.rounds):
            _round(args, cache, turn, found)
            ceiling = max(ceiling, *_speeds(args).values())  # a machine that others use too is slow at times
            print(f"after round {turn + 1}", *table(found, work, ceiling), sep="\n", flush=True)
            if args.curve:
                curves = {name: mean_curve(found[name]) for name in ("t5ray", best_trainer(found)) if name in found}
                Path(args.curve).write_text(drawing(curves), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--task", default="summarize")
    parser.add_argument("--rows", type=int, default=480)
    parser.add_argument("--validation-rows", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contenders", type=names_of((*TRAINER, *T5RAY, *WORKERS)), default=",".join(CONTENDERS))
    parser.add_argument("--curve", default="", help="SVG file for the loss curves of t5ray and the best trainer")
    for hidden, kind in {"--worker": str, "--cache": str, "--seed": int}.items():
        parser.add_argument(hidden, type=kind, default=kind(), help=argparse.SUPPRESS)
    return parser.parse_args()


@dataclass(frozen=True)
class Work:
    """What every contender has to do in one epoch."""

    source_tokens: int
    target_tokens: int
    flops: float


def _work(args: argparse.Namespace, cache: Path) -> Work:
    """Tokenise once for all, and count."""
    from t5ray.model.loading import load_config

    train = prepared(args, cache).data.train
    sources, targets = np.asarray(train.input_lengths), np.asarray(train.label_lengths)
    lengths = list(zip(sources.tolist(), targets.tolist(), strict=True))
    print(f"{len(train)} rows, {sources.mean():.0f} source and {targets.mean():.0f} target tokens a row; "
          f"{args.batch_size} rows a step, learning rate {args.learning_rate:g}, {args.threads} threads, "
          f"{args.rounds} rounds, {min(args.rounds, args.seeds)} seeds")  # fmt: skip
    return Work(int(sources.sum()), int(targets.sum()), training_flops(load_config(args.model), lengths))


def _speeds(args: argparse.Namespace) -> dict[str, float]:
    """Measure how many operations per second matrix products run at, by precision."""
    import torch

    from t5ray.model.numeric import default_device

    torch.set_num_threads(args.threads)
    return {precision: machine_flops(default_device(), precision) for precision in ("fp32", "bf16")}


def _machine(args: argparse.Namespace) -> dict[str, float]:
    """Print what this runs on, and return its speeds."""
    import torch
    import transformers

    speeds = _speeds(args)
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPUs, {_cpu()}"
    measured = ", ".join(f"{name} {speed / 1e12:.3g} TFLOP/s" for name, speed in speeds.items())
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {hardware}: {measured}", flush=True)
    return speeds


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def _round(args: argparse.Namespace, cache: str, turn: int, found: Mapping[str, list[Outcome]]) -> None:
    """Run each contender once."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "TOKENIZERS_PARALLELISM": "false"}
    passed = ("model", "data", "task", "rows", "validation_rows", "batch_size", "learning_rate", "threads")
    common = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in passed]
    for name, outcomes in found.items():
        command = [sys.executable, "-m", "benchmarks.training", *common, f"--cache={cache}"]
        command += [f"--seed={turn % args.seeds}", f"--worker={name}"]
        own = {} if name in TRAINER else heap.environment()  # what t5ray's workers are started with
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**environment, **own})
        outcomes.append(Outcome(**json.loads(done.stdout.splitlines()[-1])))
        print(f"  round {turn + 1} {name}: {outcomes[-1].seconds:.1f} s", file=sys.stderr, flush=True)


def best_trainer(found: Mapping[str, Sequence[Outcome]]) -> str | None:
    """Return the fastest setting of Seq2SeqTrainer beside the one it comes with."""
    tuned = [name for name in found if name.startswith("trainer-")]
    return min(tuned, key=lambda name: median(found[name], "seconds")) if tuned else None


def median(outcomes: Sequence[Outcome], name: str) -> float:
    """Return the median of a number over rounds."""
    return float(statistics.median(getattr(outcome, name) for outcome in outcomes))


def mean(outcomes: Sequence[Outcome], name: str) -> float:
    """Return the mean of a number over rounds."""
    return statistics.fmean(getattr(outcome, name) for outcome in outcomes)


def mean_curve(outcomes: Sequence[Outcome]) -> list[float]:
    """Return each step's loss, mean over rounds."""
    return [statistics.fmean(step) for step in zip(*(outcome.losses for outcome in outcomes), strict=True)]


def table(found: Mapping[str, Sequence[Outcome]], work: Work, ceiling: float) -> list[str]:
    """Lay out one line per contender, and what t5ray is of the others.

    Args:
        ceiling: operations per second.
    """
    lines = [
        f"{'':16}{'source tok/s':>13}{'all tok/s':>11}{'a CPU s':>9}{'ceiling':>9}{'padding':>9}{'peak MiB':>10}"
        f"{'train loss':>12}{'valid. loss':>13}{'spread':>15}"
    ]
    for name, outcomes in found.items():
        seconds, cpu_s = median(outcomes, "seconds"), median(outcomes, "cpu_s")
        speeds = sorted(work.source_tokens / outcome.seconds for outcome in outcomes)
        lines.append(
            f"{name:16}{work.source_tokens / seconds:13.0f}"
            f"{(work.source_tokens + work.target_tokens) / seconds:11.0f}"
            f"{work.source_tokens / cpu_s if cpu_s else 0:9.0f}"
            f"{work.flops / seconds / ceiling:9.1%}{mean(outcomes, 'padding'):9.1%}"
            f"{median(outcomes, 'peak_bytes') / 2**20:10.0f}{mean(outcomes, 'train_loss'):12.4f}"
            f"{mean(outcomes, 'validation_loss'):13.4f}{f'{speeds[0]:.0f} to {speeds[-1]:.0f}':>15}"
        )
    against = {"as it comes": "trainer", "at its best": best_trainer(found)}
    pairs = [(what, name) for what, name in against.items() if name in found and "t5ray" in found]
    if all(name in found for name in WORKERS):
        lines.append(_efficiency(*(found[name] for name in WORKERS)))
    return lines + [_ratios(what, str(name), found["t5ray"], found[str(name)]) for what, name in pairs]


def _efficiency(one: Sequence[Outcome], two: Sequence[Outcome]) -> str:
    seconds, reduce_s = median(two, "seconds"), median(two, "reduce_s")
    times = median(one, "seconds") / seconds
    return (
        f"2 workers to 1, a thread each: {times:.2f} times the speed, an efficiency of {times / 2:.0%}; "
        f"of {seconds / len(two[0].losses):.2f} s a step, adding up gradients takes {reduce_s:.2f} s by itself"
    )


def _ratios(what: str, name: str, ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> str:
    speed = median(theirs, "seconds") / median(ours, "seconds")
    memory = median(ours, "peak_bytes") / median(theirs, "peak_bytes")
    rounds = [their.seconds / our.seconds for our, their in zip(ours, theirs, strict=True)]
    train, validation = (mean(ours, loss) / mean(theirs, loss) - 1 for loss in ("train_loss", "validation_loss"))
    return (
        f"t5ray to Seq2SeqTrainer {what} ({name}): {speed:.2f} times the speed (in each round "
        f"{', '.join(f'{ratio:.2f}' for ratio in rounds)}), {memory:.2f} of its memory, "
        f"train loss {train:+.2%}, validation loss {validation:+.2%}"
    )


if __name__ == "__main__":
    main()
