"""A scoring job on Ray Data: shard descriptions through a pool of scorers. The package says why."""

import importlib.metadata
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, Protocol

import pyarrow as pa
import ray
import ray.data

from t5ray.cluster import Cluster
from t5ray.errors import ClusterError, DataError
from t5ray.scoring.hub_copy import drop_copy
from t5ray.scoring.inputs import Input, Shard, schema_text
from t5ray.scoring.journal import forget_all, rows_under_way
from t5ray.scoring.ledger import Entry, JobSummary
from t5ray.scoring.plan import Job, require_same_job, settled
from t5ray.scoring.pool import Pool, blocks_of, gpus_each, pool_for
from t5ray.scoring.scorer import Outcome, Scorer, ScorerSpec
from t5ray.tracking.uri import shown

INIT_DEATHS = 3
"""Workers that may die in a row before they are up; a scorer's own start does nothing that could fail each time."""
TICK_S = 1.0
"""How often the progress is looked up."""
VERSIONS = ("t5ray", "ray", "torch", "transformers", "pyarrow")


class Advance(Protocol):
    """Takes progress: rows done and a note."""

    def __call__(self, done: float, note: str = "") -> None: ...  # noqa: D102 (said above)


class BlockWorker(Protocol):
    """What a worker of the pool is: a table of shards in, tables out."""

    def __call__(self, shards: pa.Table) -> Iterator[pa.Table]: ...  # noqa: D102 (said above)


def run(job: Job, cluster: Cluster, advance: Advance) -> JobSummary:
    """Score what is pending and close the job.

    Raises:
        T5RayError: what ends the job; finished shards are kept.
        ClusterError: Ray gave up on the job.
        ConfigError: another command is at work on the output, or made another job of it since this one was planned.
    """
    with job.spec.ledger.held():
        job = settled(job, gpus_each(job.config, cluster))
        require_same_job(job)
        return _run_alone(job, cluster, advance)


def _run_alone(job: Job, cluster: Cluster, advance: Advance) -> JobSummary:
    started = time.monotonic()
    ledger = job.spec.ledger
    forget_all(ledger.folder)
    record = _opening_record(job)
    ledger.write_job(record)
    try:
        if job.pending:
            _score_pending(job, pool_for(job.config, cluster, job.spec.input.num_shards, len(job.pending)), advance)
    finally:
        record["seconds"] = round(job.seconds_before + time.monotonic() - started, 3)
        ledger.write_job(record)
    _require_unchanged(job.spec.input)
    finished = _finished(job)
    forget_all(ledger.folder)
    drop_copy(ledger.folder)
    ledger.sweep()
    record |= {"state": "done", **_counts(sum(finished.values(), Entry()), ledger.scoring_seconds(finished))}
    ledger.write_job(record)
    return JobSummary.read(record)


def _require_unchanged(rows: Input) -> None:
    """Look once more at every file: those whose shards were all read already may have changed since.

    Raises:
        DataError: one did, or is gone.
    """
    for file in rows.files:
        file.require_unchanged()


def _finished(job: Job) -> dict[int, Entry]:
    """Return the entries of all shards.

    Raises:
        DataError: a part that was finished is gone.
    """
    finished = job.spec.ledger.finished()
    if missing := job.spec.input.num_shards - len(finished):
        raise DataError(
            f"{job.spec.output}: finished parts must stay, but {missing} went missing while the job ran. "
            "Run the same command again: it scores those."
        )
    return finished


def _score_pending(job: Job, pool: Pool, advance: Advance) -> None:
    retried = job.spec.ledger.finished()  # of those that are pending: whose errors alone are scored again
    rows_of = {
        shard.index: retried[shard.index].errors if shard.index in retried else shard.num_rows for shard in job.pending
    }
    done = job.spec.input.num_rows - sum(rows_of.values())
    with _ticking(job, done, pool.waits, advance) as finished:
        for outcome in _outcomes(job.spec, job.pending, pool):
            outcome.raise_failure()
            finished(rows_of[outcome.index])


def _outcomes(spec: ScorerSpec, shards: tuple[Shard, ...], pool: Pool) -> Iterator[Outcome]:
    """Run the scorers; yield an outcome per shard as it comes."""
    spec = replace(spec, engine=replace(spec.engine, gpus=pool.gpus))
    for row in hand_out(Scorer, (spec,), blocks_of(shards, pool.most), pool):
        yield Outcome(**row)


def hand_out(
    worker: type[BlockWorker], given: tuple[Any, ...], blocks: Iterable[Sequence[Shard]], pool: Pool
) -> Iterator[dict[str, Any]]:
    """Run a pool of workers over blocks of shards; yield what they say of each shard, as it comes.

    Args:
        given: what each worker is made with.
    Raises:
        ClusterError: Ray gave up on them.
    """
    _set_up_ray_data()
    tables = [pa.Table.from_pylist([asdict(shard) for shard in block]) for block in blocks]
    try:
        dataset = ray.data.from_blocks(tables).map_batches(  # not from_arrow, which looks at each in a task of a CPU
            worker,
            batch_size=None,  # a block
            batch_format="pyarrow",
            fn_constructor_args=given,
            compute=pool.strategy,
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
        )
        for block in dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
            yield from block.to_pylist()
    except ray.exceptions.RayTaskError:
        raise  # a defect of ours: the traceback is what helps
    except ray.exceptions.RayError as exc:
        raise ClusterError(
            f"Ray must keep its workers running, but: {' '.join(str(exc).split())[:500]} "
            "What was finished is kept: run the same command again."
        ) from exc


def _set_up_ray_data() -> None:
    """Keep Ray Data's progress, plans and stack traces to its log files; let pools grow, and outlive a bad start.

    Blocks that come back are made to hold one row, so that the driver need not wait for a whole one to hear of a shard.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0  # a pool of busy workers grows
    context.target_max_block_size = 1  # bytes
    context.max_consecutive_actor_init_deaths = INIT_DEATHS
    log = logging.getLogger("ray.data")
    log.setLevel(logging.INFO)
    for handler in [one for one in log.handlers if isinstance(one, logging.StreamHandler)]:
        log.removeHandler(handler)


class Pace:
    """Rows done and rows per second since the first row came, which leaves start-up out of the rate."""

    def __init__(self, done: int) -> None:
        """Start with the rows of earlier runs."""
        self.done = self._before = done
        self._first_s: float | None = None

    def note(self, at_s: float, done: int) -> str:
        """Take a count, which may fall when a worker dies but is shown never to, and return the rate as text."""
        self.done = max(self.done, done)
        if self._first_s is None or self.done == self._before:
            self._first_s = at_s
        took, rows = at_s - self._first_s, self.done - self._before
        return f"{rows / took:.1f} rows/s" if took > 0 and rows > 0 else ""


@contextmanager
def _ticking(job: Job, done: int, waits: str, advance: Advance) -> Iterator[Callable[[int], None]]:
    """Report progress once a second: finished shards, and the notes of workers on those under way.

    Yields what is to be called with the rows of each shard that is finished.
    """
    stop, pace, finished = threading.Event(), Pace(done), done

    def finish(rows: int) -> None:
        nonlocal finished
        finished += rows

    def tick() -> None:
        while not stop.wait(TICK_S):
            rows = min(finished + rows_under_way(job.spec.output), job.spec.input.num_rows)
            note = pace.note(time.monotonic(), rows)
            advance(pace.done, note or waits)

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield finish
    finally:
        stop.set()
        ticker.join()
        advance(max(finished, pace.done))


def _opening_record(job: Job) -> dict[str, Any]:
    spec, texts, names = job.spec, job.spec.texts, job.spec.input.schema.names
    return {
        "state": "running",
        "rows_in": job.spec.input.num_rows,
        "num_shards": job.spec.input.num_shards,
        "seconds": job.seconds_before,
        "fingerprint": job.fingerprint,
        "columns": dict(spec.texts.columns),
        "schema": schema_text(spec.input.schema.remove_metadata()),
        "has_references": all(texts.columns.get(name, name) in names for name in texts.task.target_columns),
        "stamps": [[file.source.name, file.stamp] for file in job.spec.input.files],
        "config": {**job.config.public().model_dump(mode="json"), "tracking_uri": shown(job.config.tracking_uri)},
        "versions": {name: _version(name) for name in VERSIONS},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _counts(total: Entry, seconds: float) -> dict[str, Any]:
    predicted = total.rows - total.errors
    return {
        "rows_out": total.rows,
        "rows_with_error": total.errors,
        "rows_unusable": total.unusable,
        "rows_per_s": round(total.rows / seconds, 2) if seconds else 0.0,
        "padding_share": round(1 - total.real_tokens / total.padded_tokens, 4) if total.padded_tokens else 0.0,
        "capped_share": round(total.capped / predicted, 4) if predicted else 0.0,
        "cut_input_share": round(total.cut_inputs / predicted, 4) if predicted else 0.0,
    }
