"""The bare engine against the job, for `benchmarks.scoring_job overhead`: by turns, both warm, start-up told apart.

A machine's speed changes from minute to minute as others use it, and a job is over in minutes. So all sides are at work
on the same rows at once, each for `TURN_S` seconds in which all processes of the others stand still, and only a side's
own turns count for it. Only what the slowest has left when the others are done it does alone.

A job's rate counts the rows that are committed after each worker had a shard to warm up, over the time until the last
commit: handing out shards, reading, writing and the wait for the slower worker at the end are in it. The bare engine
warms up on as many rows, and then is timed on the rest, with its texts ready in memory.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.scoring_job import entries, finish, words, write_rows
from benchmarks.watch import Command

SIDES = {"bare engine, 1 process x 2 threads": 0, "job, 1 worker x 2 threads": 1, "job, 2 workers x 1 thread": 2}
"""Name -> workers of the job; 0 for no job."""
TURN_S = 5.0
POLL_S = 0.02

Span = tuple[float, float]
"""Begin and end, in seconds since the epoch."""


@dataclass(frozen=True)
class Timed:
    """The part of a run that counts."""

    num_rows: int
    span: Span


class Side:
    """A command that is at work in its turns only."""

    def __init__(self, command: Command, is_warm: Callable[[], bool], timed: Callable[[], Timed]) -> None:
        """Wait until it is warm, and let it stand still."""
        started = time.time()
        self._command, self._timed = command, timed
        while not is_warm():
            if not command.is_running:
                raise SystemExit(command.wait().output)
            time.sleep(POLL_S)
        self._command.suspend()
        self._turns = [(started, time.time())]
        self.start_s = time.time() - started

    @property
    def is_running(self) -> bool:
        """True until it has scored all."""
        return self._command.is_running

    def take_turn(self) -> None:
        """Work for a while, or to the end."""
        started = time.time()
        self._command.resume()
        while time.time() < started + TURN_S and self.is_running:
            time.sleep(POLL_S)
        self._command.suspend()
        self._turns.append((started, time.time()))

    def rate(self) -> float:
        """Return the rows/s of its own time."""
        self._command.resume()
        finish(self._command)
        timed = self._timed()
        return timed.num_rows / within(self._turns, timed.span)


def within(turns: Sequence[Span], span: Span) -> float:
    """Return how many seconds of a span the turns take.

    Example:
        turns 0 to 2 and 5 to 9, span 1 to 7 -> 1 + 2
    """
    begin, end = span
    return sum(max(0.0, min(end, stop) - max(begin, start)) for start, stop in turns)


def print_overhead(given: argparse.Namespace) -> None:
    """Print rows/s of the bare engine, and of jobs with the same number of threads."""
    rows = write_rows(given, given.rows, all_differ=True)
    rounds = [_round(given, rows, f"out-{number}") for number in range(given.rounds)]
    print(f"{'':<38}{'rows/s':>10}{'of bare':>9}{'until warm, s':>15}   of bare, each round")
    for place, name in enumerate(SIDES):
        rate, start_s = (statistics.median(column) for column in zip(*(found[place] for found in rounds), strict=True))
        shares = [found[place][0] / found[0][0] for found in rounds]
        each = ", ".join(f"{share:.1%}" for share in shares)
        print(f"{name:<38}{rate:>10.1f}{statistics.median(shares):>9.1%}{start_s:>15.1f}   {each}")


def _round(given: argparse.Namespace, rows: Path, name: str) -> list[tuple[float, float]]:
    """Return the rows/s of each side, and the seconds until it was warm."""
    with ExitStack() as stack:
        sides = [_start(stack, given, rows, given.folder / f"{name}-{workers}", workers) for workers in SIDES.values()]
        while any(side.is_running for side in sides):
            for side in sides:
                if side.is_running:
                    side.take_turn()
        return [(side.rate(), side.start_s) for side in sides]


def _start(stack: ExitStack, given: argparse.Namespace, rows: Path, output: Path, workers: int) -> Side:
    if workers == 0:
        return _start_bare(stack, given, rows, output)
    return _start_job(stack, given, rows, output, workers)


def _start_bare(stack: ExitStack, given: argparse.Namespace, rows: Path, output: Path) -> Side:
    """Start the engine alone in a fresh process."""
    num_warm = given.shard_rows
    settings = [given.model, given.task, str(rows), str(given.max_new_tokens), str(num_warm), given.precision]
    command = Command(["benchmarks.scoring_job_bare", *settings, str(output)], watch=False, OMP_NUM_THREADS="2")
    stack.callback(command.destroy)
    return Side(command, output.exists, lambda: Timed(given.rows - num_warm, _span(output)))


def _span(path: Path) -> Span:
    begin, end = json.loads(path.read_bytes())
    return begin, end


def _start_job(stack: ExitStack, given: argparse.Namespace, rows: Path, output: Path, workers: int) -> Side:
    """Start a job."""

    def timed() -> Timed:
        commits = sorted((path.stat().st_mtime, json.loads(path.read_bytes())["rows"]) for path in entries(output))
        if len(commits) <= 2 * workers:
            raise SystemExit(f"{len(commits)} shards tell no rate: use more --rows or smaller --shard-rows.")
        return Timed(sum(count for _, count in commits[workers:]), (commits[workers - 1][0], commits[-1][0]))

    command = Command(words(given, rows, output, workers), watch=False)
    stack.callback(command.destroy)
    return Side(command, lambda: len(entries(output)) >= workers, timed)
