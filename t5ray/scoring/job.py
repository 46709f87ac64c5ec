"""A scoring job on Ray Data: shard descriptions through a fixed-size pool of scorers. The package says why."""

import importlib.metadata
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import ray
import ray.data

from t5ray.cluster import Cluster
from t5ray.config import PredictConfig
from t5ray.errors import ClusterError
from t5ray.scoring.inputs import Shard
from t5ray.scoring.journal import forget_all, rows_under_way
from t5ray.scoring.ledger import Entry, JobSummary
from t5ray.scoring.plan import Job
from t5ray.scoring.scorer import Outcome, Scorer, ScorerSpec
from t5ray.tracking.uri import shown

MOST_BLOCKS = 2000
"""Blocks that the shard descriptions are spread over: each is a Ray task, and an object that the driver puts."""
TICK_S = 1.0
"""How often the progress is looked up."""
VERSIONS = ("t5ray", "ray", "torch", "transformers", "pyarrow")


class Advance(Protocol):
    """Takes progress: rows done and a note."""

    def __call__(self, done: float, note: str = "") -> None: ...  # noqa: D102 (said above)


@dataclass(frozen=True, slots=True)
class Pool:
    """The workers of a job."""

    size: int
    cpus: float
    """Of one worker; Ray gives it as many threads."""
    gpus: float
    """Of one worker."""


def pool_for(config: PredictConfig, cluster: Cluster, num_shards: int) -> Pool:
    """Choose how many workers and what each holds.

    Raises:
        ClusterError: a Ray of our own has fewer GPUs than are asked for; one that was joined may still grow.
    """
    gpus = config.gpus_per_worker or (1.0 if cluster.num_gpus else 0.0)
    most = int(cluster.num_gpus / gpus) if gpus else int(cluster.num_cpus / 2)
    size = max(1, min(config.workers or most, num_shards))
    if cluster.started_here and size * gpus > cluster.num_gpus:
        raise ClusterError(
            f"--workers {size}: all scorers must fit, but they need {size * gpus:g} GPUs and there are "
            f"{cluster.num_gpus:g}. Use fewer workers or smaller gpus_per_worker."
        )
    share = cluster.num_cpus / max(size, cluster.num_nodes)
    return Pool(size, float(int(share)) if share >= 1 else round(share, 2), gpus)


def run(job: Job, cluster: Cluster, advance: Advance) -> JobSummary:
    """Score what is pending and close the job.

    Raises:
        T5RayError: what ends the job; finished shards are kept.
        ClusterError: Ray gave up on the job.
    """
    started = time.monotonic()
    ledger = job.spec.ledger
    forget_all(ledger.folder)
    record = _opening_record(job)
    ledger.write_job(record)
    try:
        if job.pending:
            _score_pending(job, pool_for(job.config, cluster, len(job.pending)), advance)
    finally:
        record["seconds"] = round(job.seconds_before + time.monotonic() - started, 3)
        ledger.write_job(record)
    total = sum(ledger.finished().values(), Entry())
    assert total.rows == job.spec.input.num_rows
    forget_all(ledger.folder)
    workers = pool_for(job.config, cluster, len(job.spec.input.shards)).size
    record |= {"state": "done", **_counts(total, workers)}
    ledger.write_job(record)
    return JobSummary.read(record)


def _score_pending(job: Job, pool: Pool, advance: Advance) -> None:
    rows_of = {shard.index: shard.num_rows for shard in job.pending}
    done = sum(entry.rows for entry in job.finished.values())
    with _ticking(job, done, advance) as finished:
        for outcome in _outcomes(job.spec, job.pending, pool):
            outcome.raise_failure()
            finished(rows_of[outcome.index])


def _outcomes(spec: ScorerSpec, shards: tuple[Shard, ...], pool: Pool) -> Iterator[Outcome]:
    """Run the scorers; yield an outcome per shard as it comes."""
    _quieten()
    dataset = ray.data.from_items(
        [asdict(shard) for shard in shards], override_num_blocks=min(len(shards), MOST_BLOCKS)
    ).map(
        Scorer,
        fn_constructor_args=(spec,),
        compute=ray.data.ActorPoolStrategy(size=pool.size),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    try:
        for row in dataset.iter_rows():
            yield Outcome(**row)
    except ray.exceptions.RayTaskError:
        raise  # a defect of ours: the traceback is what helps
    except ray.exceptions.RayError as exc:
        raise ClusterError(
            f"Ray must keep its workers running, but: {' '.join(str(exc).split())[:500]} "
            "What was finished is kept: run the same command again."
        ) from exc


def _quieten() -> None:
    """Keep Ray Data's own progress and plans off the console; its log files keep them."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


@contextmanager
def _ticking(job: Job, done: int, advance: Advance) -> Iterator[Callable[[int], None]]:
    """Report progress once a second: finished shards, and the notes of workers on those under way.

    Yields what is to be called with the rows of each shard that is finished.
    """
    stop = threading.Event()
    finished, first = done, (0.0, 0)

    def finish(rows: int) -> None:
        nonlocal finished
        finished += rows

    def tick() -> None:
        nonlocal first
        while not stop.wait(TICK_S):
            at, rows = time.monotonic(), min(finished + rows_under_way(job.spec.output), job.spec.input.num_rows)
            if rows == done:
                first = (at, rows)  # nothing yet: the start-up is no part of the rate
            advance(rows, f"{(rows - first[1]) / (at - first[0]):.1f} rows/s" if rows > first[1] and first[0] else "")

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield finish
    finally:
        stop.set()
        ticker.join()
        advance(finished)


def _opening_record(job: Job) -> dict[str, Any]:
    return {
        "state": "running",
        "rows_in": job.spec.input.num_rows,
        "num_shards": len(job.spec.input.shards),
        "seconds": job.seconds_before,
        "fingerprint": job.fingerprint,
        "stamps": [[file.source.name, file.stamp] for file in job.spec.input.files],
        "config": {**job.config.model_dump(mode="json"), "tracking_uri": shown(job.config.tracking_uri)},
        "versions": {name: _version(name) for name in VERSIONS},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _counts(total: Entry, workers: int) -> dict[str, Any]:
    predicted = total.rows - total.errors
    return {
        "rows_out": total.rows,
        "rows_with_error": total.errors,
        "rows_per_s": round(total.rows * workers / total.seconds, 2) if total.seconds else 0.0,
        "padding_share": round(1 - total.real_tokens / total.padded_tokens, 4) if total.padded_tokens else 0.0,
        "capped_share": round(total.capped / predicted, 4) if predicted else 0.0,
    }
