"""Shards on one worker: read one, score it, commit its part; the next one is read and the last one written meanwhile.

Comes in: shard descriptions. Goes out: counts; the rows go to disk. Knows nothing of Ray, which makes it testable
without; `job.py` puts it into an actor pool.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa

from t5ray import errors
from t5ray.errors import T5RayError
from t5ray.scoring.ahead import one_ahead
from t5ray.scoring.engines import EngineSpec, TextEngine
from t5ray.scoring.halving import Halving
from t5ray.scoring.inputs import Input, Shard
from t5ray.scoring.journal import Journal, Stage, journal_file
from t5ray.scoring.ledger import Entry, Ledger, writing
from t5ray.scoring.predicting import Planned, Predicting, Texts
from t5ray.scoring.reading import RangeReader, ShardRows, read_shard
from t5ray.scoring.writing import Extras, Results, decode_results, encode


@dataclass(frozen=True)
class ScorerSpec:
    """All that a worker needs to know of a job. Travels to every worker once."""

    engine: EngineSpec
    input: Input
    texts: Texts
    output: Path
    part_format: str
    extras: Extras

    @property
    def ledger(self) -> Ledger:
        """Where parts go."""
        return Ledger(self.output, self.part_format, self.input.num_shards)


@dataclass(frozen=True)
class Outcome:
    """What a worker reports: a shard that is committed, or the error that ends the job."""

    index: int = -1
    """Of the shard; -1 with an error."""
    failure_kind: str = ""
    """Class of the error."""
    failure: str = ""

    def raise_failure(self) -> None:
        """Raise on the driver what stopped the worker.

        Raises:
            T5RayError: of the kind that the worker met.
        """
        if self.failure_kind:
            raise getattr(errors, self.failure_kind)(self.failure)


@dataclass(frozen=True)
class _Handed:
    """A shard as it was handed to a worker."""

    shard: Shard
    earlier: Entry | None
    """Of the part that is there already. None: there is none."""
    journal: Journal

    @property
    def done(self) -> Entry | None:
        """The counts where this run of the job has scored it, as Ray repeats the task. None: it is to be scored."""
        return self.earlier if self.earlier and self.earlier.num_attempts > self.shard.attempts else None


@dataclass(frozen=True)
class _Read:
    """A shard whose rows are in memory."""

    handed: _Handed
    rows: ShardRows
    results: Results
    """What is known of them."""
    planned: Planned
    seconds: float
    """What it took so far."""


@dataclass(frozen=True)
class _Scored:
    """A shard with all its results, without what they were made of."""

    handed: _Handed
    rows: ShardRows
    results: Results
    counts: Entry
    """Of the rows that were scored now."""
    seconds: float
    """What it took so far."""


class Scorer:
    """Scores shards with one engine, which it loads when the first shard comes."""

    def __init__(self, spec: ScorerSpec, load: Callable[[], TextEngine] | None = None) -> None:
        """Take a job.

        Args:
            load: makes the engine. None: as the job says.
        """
        self._spec, self._ledger = spec, spec.ledger
        self._load = load or spec.engine.load
        self._predicting: Predicting | None = None
        self._ranges = RangeReader()
        self._failure: Outcome | None = None

    def __call__(self, shards: pa.Table) -> Iterator[pa.Table]:
        """Score a block of shards: a row for each goes in; a table of one row for each comes out, up to an error."""
        for outcome in self.outcomes([Shard(**row) for row in shards.to_pylist()]):
            yield pa.Table.from_pylist([asdict(outcome)])

    def outcomes(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        """Yield what is to be reported of some shards: of each once the next one is scored too.

        An error that ends the job is yielded, not raised: Ray would repeat the task, and bury the message. Shards that
        are not begun by then are left alone.
        """
        if self._failure is None:
            try:
                for index, _ in self.score(shards):
                    yield Outcome(index)
                return
            except T5RayError as exc:
                self._failure = Outcome(failure_kind=type(exc).__name__, failure=str(exc))
        yield self._failure

    def score(self, shards: Sequence[Shard]) -> Iterator[tuple[int, Entry]]:
        """Yield index and counts of each shard once its part is committed: now, or before a task was repeated.

        While a shard is scored, the next one is read and the one before it is written. After a death on any of them
        one thing is done at a time: the notes of a shard must say what it was that killed, and memory may be short.

        Raises:
            DataError: the input changed or the output cannot be written.
            ModelError: the engine does not load, or fails on everything.
            ClusterError: worker after worker dies on a shard.
        """
        with writing(self._spec.output):
            handed = [
                _Handed(shard, self._ledger.read_entry(shard.index), Journal(self._journal_file(shard)))
                for shard in shards
            ]
        scored = self._score_all([one for one in handed if not one.done])
        for one in handed:  # in this order, whatever is done: Ray takes what a repeated task says by its place
            entry = one.done or next(scored)
            one.journal.close()
            yield one.shard.index, entry

    def _score_all(self, pending: Sequence[_Handed]) -> Iterator[Entry]:
        if not pending:
            return
        predicting = self._predicting or self._load_engine(pending[0].journal)  # alone, as the notes say
        is_alone = any(one.journal.num_deaths for one in pending)
        for one in pending:
            one.journal.is_alone = is_alone
        each = map if is_alone else one_ahead
        read = each(partial(self._read, predicting), pending)
        yield from each(self._commit, map(partial(self._score, predicting), read))

    def _journal_file(self, shard: Shard) -> Path:
        return journal_file(self._spec.output, self._ledger.part(shard.index))

    def _load_engine(self, journal: Journal) -> Predicting:
        spec, extras = self._spec, self._spec.extras
        journal.require_hope()
        with journal.at(Stage.LOAD):
            engine = Halving(self._load(), spec.engine.source, scores=extras.scores, all_scores=extras.all_scores)
        self._predicting = Predicting(engine, spec.texts)
        return self._predicting

    def _read(self, predicting: Predicting, handed: _Handed) -> _Read:
        spec, shard, journal = self._spec, handed.shard, handed.journal
        journal.require_hope()
        started = time.perf_counter()
        needed = spec.texts.needed
        columns = needed if spec.part_format == "parquet" else None  # the others are written from values
        with journal.at(Stage.READ):
            rows = read_shard(spec.input.files[shard.file], shard, columns, self._ranges, needed)
            results, todo = self._start(rows, self._ledger.part(shard.index) if handed.earlier else None)
            planned = predicting.plan(results, rows, todo, journal)
        return _Read(handed, rows, results, planned, time.perf_counter() - started)

    def _start(self, rows: ShardRows, part: Path | None) -> tuple[Results, list[int]]:
        """Return what is known of the shard and the rows that are to be scored.

        Args:
            part: a finished one, whose good rows are kept. None: there is none, and all rows are scored.
        """
        if part is None:
            return Results.blank(len(rows.records), self._spec.extras), list(range(len(rows.records)))
        with writing(self._spec.output):
            data = part.read_bytes()
        results = decode_results(self._spec.part_format, data, self._spec.extras)
        return results, [number for number, error in enumerate(results.errors) if error is not None]

    def _score(self, predicting: Predicting, read: _Read) -> _Scored:
        started = time.perf_counter()
        counts = predicting.fill(read.results, read.planned, read.handed.journal)
        return _Scored(read.handed, read.rows, read.results, counts, read.seconds + time.perf_counter() - started)

    def _commit(self, scored: _Scored) -> Entry:
        spec, started = self._spec, time.perf_counter()
        shard, earlier, journal = scored.handed.shard, scored.handed.earlier, scored.handed.journal
        with journal.at(Stage.WRITE):
            part = encode(spec.part_format, scored.rows, scored.results, spec.input.schema)
            entry = replace(
                scored.counts + (earlier or Entry()),
                rows=shard.num_rows,
                errors=sum(error is not None for error in scored.results.errors),
                unusable=scored.counts.unusable,
                seconds=round(scored.seconds + time.perf_counter() - started, 3),
                earlier=self._ledger.attempts(shard.index, earlier) if earlier else ((0.0, 0.0),) * shard.attempts,
            )
            self._ledger.commit(shard.index, part, entry)
        return entry
