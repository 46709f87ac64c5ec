"""The bare engine against the job, for `benchmarks.scoring_job overhead`: both warm, start-up told apart.

A job's rate counts the rows that are committed after each worker had a shard to warm up, over the time until the last
commit: handing out shards, reading, writing and the wait for the slower worker at the end are in it. The bare engine
warms up on as many rows, and then is timed on the rest, with its texts ready in memory.
"""

import argparse
import json
import statistics
from pathlib import Path

from benchmarks.scoring_job import entries, finish, words, write_rows
from benchmarks.watch import Command

SIDES = {"bare engine, 1 process x 2 threads": 0, "job, 1 worker x 2 threads": 1, "job, 2 workers x 1 thread": 2}
"""Name -> workers of the job; 0 for no job."""


def print_overhead(given: argparse.Namespace) -> None:
    """Print rows/s of the bare engine, and of jobs with the same number of threads."""
    rows = write_rows(given, given.rows)
    sides: dict[str, list[tuple[float, float]]] = {name: [] for name in SIDES}
    for number in range(given.rounds):
        for name, workers in SIDES.items():
            output = given.folder / f"out-{number}-{workers}"
            sides[name].append(_job(given, rows, output, workers) if workers else _bare(given, rows))
    base = statistics.median(rate for rate, _ in next(iter(sides.values())))
    print(f"{'':<38}{'rows/s':>10}{'of bare':>9}{'start-up and end, s':>21}   each round")
    for name, runs in sides.items():
        rate, rest = (statistics.median(column) for column in zip(*runs, strict=True))
        each = ", ".join(f"{one:.1f}" for one, _ in runs)
        print(f"{name:<38}{rate:>10.1f}{rate / base:>9.1%}{rest:>21.1f}   {each}")


def _bare(given: argparse.Namespace, rows: Path) -> tuple[float, float]:
    """Run the engine alone in a fresh process; return rows/s, and seconds of all but the timed rows."""
    arguments = [given.model, given.task, str(rows), str(given.max_new_tokens), str(given.shard_rows)]
    found = finish(Command(["benchmarks.scoring_job_bare", *arguments], watch=False, OMP_NUM_THREADS="2"))
    rate, seconds = map(float, found.output.split()[-2:])
    return rate, found.seconds - seconds


def _job(given: argparse.Namespace, rows: Path, output: Path, workers: int) -> tuple[float, float]:
    """Run a job; return rows/s, and seconds of all but the timed rows."""
    found = finish(Command(words(given, rows, output, workers), watch=False))
    commits = sorted((path.stat().st_mtime, json.loads(path.read_bytes())["rows"]) for path in entries(output))
    if len(commits) <= 2 * workers:
        raise SystemExit(f"{len(commits)} shards tell no rate: use more --rows or smaller --shard-rows.")
    seconds = commits[-1][0] - commits[workers - 1][0]
    return sum(count for _, count in commits[workers:]) / seconds, found.seconds - seconds
