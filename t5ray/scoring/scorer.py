"""One shard on one worker: read its rows, score them, commit the part.

Comes in: a shard description. Goes out: counts; the rows go to disk. Knows nothing of Ray, which makes it testable
without; `job.py` puts it into an actor pool.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from t5ray import errors
from t5ray.config import LANGUAGES, TaskConfig
from t5ray.errors import DataError, T5RayError
from t5ray.scoring.ahead import one_ahead
from t5ray.scoring.engines import EngineSpec, TextEngine, TextPrediction
from t5ray.scoring.halving import Halving
from t5ray.scoring.inputs import Input, Shard
from t5ray.scoring.journal import Journal, Slice, Stage, journal_file
from t5ray.scoring.ledger import Entry, Ledger
from t5ray.scoring.reading import RangeReader, ShardRows, read_shard
from t5ray.scoring.writing import Extras, Results, decode_results, encode
from t5ray.text.tasks import read_prediction, render_input

DEADLY = "the worker process died each time it scored this row (out of memory, or a fault in native code)"
"""The `error` of a row that kills."""


@dataclass(frozen=True)
class ScorerSpec:
    """All that a worker needs to know of a job. Travels to every worker once."""

    engine: EngineSpec
    input: Input
    task: TaskConfig
    columns: Mapping[str, str]
    """Column the task looks for -> column of the input."""
    output: Path
    part_format: str
    extras: Extras
    refuse_long: bool
    """Inputs longer than the model takes are errors; otherwise they are cut."""
    keep_good_rows: bool
    """Where a part is there already, score only its rows with an error."""
    is_rendered: bool = False
    """The task's one input column holds the encoder's text to the letter."""

    @property
    def ledger(self) -> Ledger:
        """Where parts go."""
        return Ledger(self.output, self.part_format, self.input.num_shards)


@dataclass(frozen=True)
class Outcome:
    """What a worker reports of a shard."""

    index: int
    failure_kind: str = ""
    """Class of the error that ends the job; empty where the shard is committed."""
    failure: str = ""

    def raise_failure(self) -> None:
        """Raise on the driver what stopped the worker.

        Raises:
            T5RayError: of the kind that the worker met.
        """
        if self.failure_kind:
            raise getattr(errors, self.failure_kind)(self.failure)


class Scorer:
    """Scores shards with one engine, which it loads when the first shard comes."""

    def __init__(self, spec: ScorerSpec, load: Callable[[], TextEngine] | None = None) -> None:
        """Take a job.

        Args:
            load: makes the engine. None: as the job says.
        """
        self._spec = spec
        self._load = load or spec.engine.load
        self._engine: Halving | None = None
        self._ranges = RangeReader()
        self._failure: Outcome | None = None

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Score one shard.

        An error that ends the job is returned, not raised: Ray would repeat the task, and bury the message. The driver
        hears of it when the block of shards is through, so the others in it are left alone.
        """
        shard = Shard(**row)
        if self._failure is not None:
            return asdict(replace(self._failure, index=shard.index))
        try:
            self.score(shard)
        except T5RayError as exc:
            self._failure = Outcome(shard.index, type(exc).__name__, str(exc))
            return asdict(self._failure)
        return asdict(Outcome(shard.index))

    def score(self, shard: Shard) -> Entry:
        """Read a shard, score it and commit its part, unless that was done before the task was repeated.

        Raises:
            DataError: the input changed or the output cannot be written.
            ModelError: the engine does not load, or fails on everything.
            ClusterError: worker after worker dies on the shard.
        """
        spec, ledger = self._spec, self._spec.ledger
        earlier = ledger.read_entry(shard.index)
        if earlier is not None and not spec.keep_good_rows:
            return earlier
        part = ledger.part(shard.index)
        journal = Journal(journal_file(spec.output, part))
        journal.require_hope()
        engine = self._engine or self._start_engine(journal)
        started, tally = time.perf_counter(), engine.tally
        before = tally.padded_tokens, tally.real_tokens
        journal.enter(Stage.READ)
        needed = self._columns()
        columns = needed if spec.part_format == "parquet" else None  # the others are written from values
        rows = read_shard(spec.input.files[shard.file], shard, columns, self._ranges, needed)
        results, todo = self._start(rows, part if earlier else None)
        cut = self._score_rows(engine, rows, todo, results, journal)
        attempts = ledger.attempts(shard.index, earlier) if earlier else ()
        earlier = earlier or Entry()
        entry = Entry(
            rows=shard.num_rows,
            errors=sum(error is not None for error in results.errors),
            unusable=cut.unusable,
            capped=earlier.capped + cut.capped,
            cut_inputs=earlier.cut_inputs + cut.cut_inputs,
            padded_tokens=earlier.padded_tokens + tally.padded_tokens - before[0],
            real_tokens=earlier.real_tokens + tally.real_tokens - before[1],
            seconds=round(time.perf_counter() - started, 3),
            earlier=attempts,
        )
        journal.enter(Stage.WRITE)
        ledger.commit(shard.index, encode(spec.part_format, rows, results, spec.input.schema), entry)
        journal.close()
        return entry

    def _start_engine(self, journal: Journal) -> Halving:
        journal.enter(Stage.LOAD)
        spec, extras = self._spec.engine, self._spec.extras
        self._engine = Halving(self._load(), spec.source, scores=extras.scores, all_scores=extras.all_scores)
        return self._engine

    def _columns(self) -> list[str]:
        """Return the columns that inputs are made of, each once."""
        names = (*self._spec.task.input_columns, *LANGUAGES)
        return list(dict.fromkeys(self._spec.columns.get(name, name) for name in names))

    def _start(self, rows: ShardRows, part: Path | None) -> tuple[Results, list[int]]:
        """Return what is known of the shard and the rows that are to be scored.

        Args:
            part: a finished one, whose good rows are kept. None: there is none, and all rows are scored.
        """
        if part is None:
            return Results.blank(len(rows.records), self._spec.extras), list(range(len(rows.records)))
        results = decode_results(self._spec.part_format, part.read_bytes(), self._spec.extras)
        return results, [number for number, error in enumerate(results.errors) if error is not None]

    def _score_rows(
        self, engine: Halving, rows: ShardRows, todo: Sequence[int], results: Results, journal: Journal
    ) -> Entry:
        """Fill in the results of some rows; return how many are unusable, how many predictions and inputs were cut."""
        texts = {}
        for number in todo:
            results.errors[number] = None
            try:
                texts[number] = self._input_text(rows, number)
            except DataError as exc:
                results.errors[number] = str(exc)
        # sorted by length, so that slices cost no padding, and equal texts meet in one
        order = sorted(texts, key=lambda number: (-len(texts[number]), texts[number]))
        slices = {}
        for part, is_deadly in journal.slices(len(order), engine.call_rows):
            if is_deadly:
                results.errors[order[part[0]]] = DEADLY
            else:
                slices[part] = {number: texts[number] for number in order[slice(*part)]}
        return self._score_slices(engine, slices, results, journal) + Entry(unusable=len(todo) - len(texts))

    def _score_slices(
        self, engine: Halving, slices: Mapping[Slice, Mapping[int, str]], results: Results, journal: Journal
    ) -> Entry:
        prepare, cut = partial(self._prepare, engine, results), Entry()
        # After a death nothing is done ahead: the journal must name the slice that was at work.
        prepared = map(prepare, slices.values()) if journal.num_deaths else one_ahead(prepare, slices.values())
        for part in slices:
            journal.begin(part)
            cut += self._predict(engine, *next(prepared), results)
        return cut

    def _prepare(self, engine: Halving, results: Results, texts: Mapping[int, str]) -> tuple[Mapping[int, str], Any]:
        """Refuse texts that are too long, where that is asked for, and tokenise the others."""
        most = engine.max_input_tokens
        if self._spec.refuse_long and most is not None:
            lengths = dict(zip(texts, engine.num_tokens(list(texts.values())), strict=True))
            for number, length in lengths.items():
                if length > most:
                    results.errors[number] = f"the input must have at most {most} tokens, but has {length}"
            texts = {number: text for number, text in texts.items() if lengths[number] <= most}
        return texts, engine.prepare(list(texts.values()))

    def _input_text(self, rows: ShardRows, number: int) -> str:
        """Return the encoder's text of a row.

        Raises:
            DataError: the row cannot be scored, and why.
        """
        if number in rows.problems:
            raise DataError(rows.problems[number])
        record = rows.records[number]
        if self._spec.is_rendered:
            return str(record[self._spec.task.input_columns[0]])
        return render_row(self._spec.task, self._spec.columns, record)

    def _predict(self, engine: Halving, texts: Mapping[int, str], prepared: Any, results: Results) -> Entry:
        capped = cut_inputs = 0
        for number, found in zip(texts, engine.predict(list(texts.values()), prepared), strict=True):
            if isinstance(found, str):
                results.errors[number] = f"the model failed on this row: {found}"
                continue
            self._note(results, number, found)
            capped += found.hit_cap
            cut_inputs += found.input_cut
        return Entry(capped=capped, cut_inputs=cut_inputs)

    def _note(self, results: Results, number: int, one: TextPrediction) -> None:
        task = self._spec.task
        results.predictions[number] = read_prediction(task, one.text)
        if results.scores is not None:
            results.scores[number] = one.score
        if results.texts is not None:
            results.texts[number] = [read_prediction(task, text) for text in one.texts]
        if results.label_scores is not None:
            results.label_scores[number] = dict(one.label_scores or {})


def render_row(task: TaskConfig, columns: Mapping[str, str], record: Mapping[str, Any]) -> str:
    """Return the encoder's text of one record.

    Args:
        columns: column the task looks for -> column of the record; those not in it have their own name.
    Raises:
        DataError: a column is missing or its value is none that a text can be made of.
    """
    source_of = {name: columns.get(name, name) for name in (*task.input_columns, *LANGUAGES)}
    values = {name: record[column] for name, column in source_of.items() if column in record}
    text = render_input(task, values)
    if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
        raise DataError("text must be whole Unicode characters, but holds half of a surrogate pair")
    return text
