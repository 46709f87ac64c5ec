"""One shard on one worker: read its rows, score them, commit the part.

Comes in: a shard description. Goes out: counts; the rows go to disk. Knows nothing of Ray, which makes it testable
without; `job.py` puts it into an actor pool.
"""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from t5ray import errors
from t5ray.config import LANGUAGES, DecodeConfig, TaskConfig
from t5ray.errors import ClusterError, DataError, ModelError, T5RayError
from t5ray.scoring.inputs import Input, Shard
from t5ray.scoring.journal import Journal, journal_file
from t5ray.scoring.ledger import Entry, Ledger
from t5ray.scoring.reading import RangeReader, ShardRows, read_shard
from t5ray.scoring.writing import Extras, Results, decode_results, encode
from t5ray.text.tasks import read_prediction, render_input

SLICE_ROWS = 1024
"""Rows between two notes of progress. Slices are cut from the shard sorted by length, so they cost no padding."""
HOPELESS = 32
"""Rows in a row on which the engine failed, after which the engine is to blame and not the rows."""

DEADLY = "the worker process died each time it scored this row (out of memory, or a fault in native code)"
"""The `error` of a row that kills."""
LOST_DEVICE = "AcceleratorError"
"""Class of what torch raises when a device is unusable for the rest of the process's life."""


class Scored(Protocol):
    """One prediction of an engine: `model.predictor.Prediction`, which says what each member is."""

    @property
    def text(self) -> str: ...  # noqa: D102
    @property
    def score(self) -> float | None: ...  # noqa: D102
    @property
    def hit_cap(self) -> bool: ...  # noqa: D102
    @property
    def input_cut(self) -> bool: ...  # noqa: D102
    @property
    def texts(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def label_scores(self) -> Mapping[str, float] | None: ...  # noqa: D102


class Tally(Protocol):
    """Tokens that an engine forwarded so far."""

    @property
    def padded_tokens(self) -> int: ...  # noqa: D102
    @property
    def real_tokens(self) -> int: ...  # noqa: D102


class TextEngine(Protocol):
    """What a scorer needs of `model.engine.Engine`, which says what each member is."""

    @property
    def max_input_tokens(self) -> int | None: ...  # noqa: D102
    @property
    def tally(self) -> Tally: ...  # noqa: D102

    def num_tokens(self, text: str) -> int: ...  # noqa: D102
    def predict(  # noqa: D102
        self, inputs: Sequence[str], *, scores: bool = False, all_scores: bool = False
    ) -> Sequence[Scored]: ...


@dataclass(frozen=True)
class EngineSpec:
    """How a worker makes its engine."""

    source: str
    """Directory or hub id, the same on every node."""
    decode: DecodeConfig | None
    precision: str
    batch_tokens: int
    origin: str = ""
    """URI that a worker fetches the model from where `source` is on another node's disk."""
    labels: tuple[str, ...] = ()
    """The closed set that predictions are taken from; empty generates."""
    engine: str = "torch"
    dtype: Literal["float32", "int8"] = "float32"
    """Weights of ctranslate2."""

    def load(self) -> TextEngine:
        """Load the model.

        Raises:
            ModelError: it cannot be loaded.
        """
        # Idle OpenMP threads spin, and on cores that others use too they spin while those wait: 2 threads on 2 busy
        # cores took 8 times as long as with this, which libgomp reads once, when torch loads it.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if self.engine == "ctranslate2":
            return self._load_ctranslate()
        from t5ray.model.engine import Engine

        return Engine(
            self._local_source(),
            decode=self.decode,
            labels=self.labels,
            precision=self.precision,
            batch_tokens=self.batch_tokens,
        )

    def _load_ctranslate(self) -> TextEngine:
        from t5ray.model.ctranslate import CTranslateEngine

        return CTranslateEngine(
            self._local_source(),
            decode=self.decode,
            labels=self.labels,
            dtype=self.dtype,
            batch_tokens=self.batch_tokens,
        )

    def _local_source(self) -> str:
        """Return where the model is on this node.

        Raises:
            ModelError: it is on another node's disk only, or the URI has another one by now.
        """
        source = Path(self.source)
        if source.is_dir() or not source.is_absolute():
            return self.source
        if not self.origin:
            raise ModelError(
                f"{source}: the model must lie where every node can read it, but {platform.node()} cannot. Put it on "
                "a share, or give its address in an object store."
            )
        from t5ray.scoring.fetching import fetch_uri

        found = fetch_uri(self.origin)
        if found.name != source.name:
            raise ModelError(f"{self.origin}: the model must not change while it scores, but it did. Start again.")
        return str(found)


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
        self._engine: TextEngine | None = None
        self._failed_in_a_row = 0
        self._ranges = RangeReader()

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Score one shard.

        An error that ends the job is returned, not raised: Ray would repeat the task, and bury the message.
        """
        shard = Shard(**row)
        try:
            self.score(shard)
        except T5RayError as exc:
            return asdict(Outcome(shard.index, type(exc).__name__, str(exc)))
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
        earlier = earlier or Entry()
        self._engine = engine = self._engine or self._load()
        started = time.perf_counter()
        before = engine.tally.padded_tokens, engine.tally.real_tokens
        rows = read_shard(spec.input.files[shard.file], shard, self._columns(), self._ranges)
        part = ledger.part(shard.index)
        results, todo = self._start(rows, part)
        journal = Journal(journal_file(spec.output, part))
        if journal.is_hopeless:
            raise ClusterError(
                f"{part.name}: a worker must live through a shard, but {journal.num_deaths} died on it. "
                "Give workers more memory: fewer --workers, or smaller --batch-tokens."
            )
        cut = self._score_rows(rows, todo, results, journal)
        entry = Entry(
            rows=shard.num_rows,
            errors=sum(error is not None for error in results.errors),
            capped=earlier.capped + cut.capped,
            cut_inputs=earlier.cut_inputs + cut.cut_inputs,
            padded_tokens=earlier.padded_tokens + engine.tally.padded_tokens - before[0],
            real_tokens=earlier.real_tokens + engine.tally.real_tokens - before[1],
            seconds=round(earlier.seconds + time.perf_counter() - started, 3),
        )
        ledger.commit(shard.index, encode(spec.part_format, rows, results, spec.input.schema), entry)
        journal.close()
        return entry

    def _columns(self) -> list[str] | None:
        """Return the columns to read as values; None for all, which only Parquet output can do without."""
        if self._spec.part_format != "parquet":
            return None
        names = (*self._spec.task.input_columns, *LANGUAGES)
        return [self._spec.columns.get(name, name) for name in names]

    def _start(self, rows: ShardRows, part: Path) -> tuple[Results, list[int]]:
        """Return what is known of the shard and the rows that are to be scored."""
        num_rows = len(rows.records)
        if self._spec.keep_good_rows and part.exists():
            results = decode_results(self._spec.part_format, part.read_bytes(), self._spec.extras)
            return results, [number for number, error in enumerate(results.errors) if error is not None]
        return Results.blank(num_rows, self._spec.extras), list(range(num_rows))

    def _score_rows(self, rows: ShardRows, todo: Sequence[int], results: Results, journal: Journal) -> Entry:
        """Fill in the results of some rows; return how many predictions and inputs were cut."""
        texts = {}
        for number in todo:
            results.errors[number] = None
            try:
                texts[number] = self._input_text(rows, number)
            except DataError as exc:
                results.errors[number] = str(exc)
        order = sorted(texts, key=lambda number: (-len(texts[number]), texts[number]))  # equal texts meet in a slice
        cut = Entry()
        for part, is_deadly in journal.slices(len(order), SLICE_ROWS):
            chosen = order[slice(*part)]
            if is_deadly:
                results.errors[chosen[0]] = DEADLY
                continue
            journal.begin(part)
            cut += self._predict({number: texts[number] for number in chosen}, results)
        return cut

    def _input_text(self, rows: ShardRows, number: int) -> str:
        """Return the encoder's text of a row.

        Raises:
            DataError: the row cannot be scored, and why.
        """
        if number in rows.problems:
            raise DataError(rows.problems[number])
        text = self._render(rows.records[number])
        engine = self._engine
        assert engine is not None
        if self._spec.refuse_long and engine.max_input_tokens is not None:
            length = engine.num_tokens(text)
            if length > engine.max_input_tokens:
                raise DataError(f"the input must have at most {engine.max_input_tokens} tokens, but has {length}")
        return text

    def _render(self, record: Mapping[str, Any]) -> str:
        if self._spec.is_rendered:
            return str(record[self._spec.task.input_columns[0]])
        return render_row(self._spec.task, self._spec.columns, record)

    def _predict(self, texts: Mapping[int, str], results: Results) -> Entry:
        """Score some rows; where the engine fails, halve them until the guilty one is alone with its error."""
        engine, extras = self._engine, self._spec.extras
        assert engine is not None
        try:
            scored = engine.predict(list(texts.values()), scores=extras.scores, all_scores=extras.all_scores)
        except Exception as exc:  # noqa: BLE001 (whatever it is, it becomes the text of a row's `error`)
            return self._halve(texts, results, exc)
        self._failed_in_a_row = 0
        for number, one in zip(texts, scored, strict=True):
            self._note(results, number, one)
        return Entry(capped=sum(one.hit_cap for one in scored), cut_inputs=sum(one.input_cut for one in scored))

    def _note(self, results: Results, number: int, one: Scored) -> None:
        task = self._spec.task
        results.predictions[number] = read_prediction(task, one.text)
        if results.scores is not None:
            results.scores[number] = one.score
        if results.texts is not None:
            results.texts[number] = [read_prediction(task, text) for text in one.texts]
        if results.label_scores is not None:
            results.label_scores[number] = dict(one.label_scores or {})

    def _halve(self, texts: Mapping[int, str], results: Results, cause: Exception) -> Entry:
        if type(cause).__name__ == LOST_DEVICE:
            os._exit(1)  # only a new process can go on; the journal finds the row, as with any other death
        reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:500]
        if len(texts) == 1:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= HOPELESS:
                raise ModelError(
                    f"{self._spec.engine.source}: the model must be able to score rows, but failed on "
                    f"{HOPELESS} in a row. The last time: {reason}"
                ) from cause
            results.errors[next(iter(texts))] = f"the model failed on this row: {reason}"
            return Entry()
        numbers = list(texts)
        middle = len(numbers) // 2
        first, second = (
            self._predict({number: texts[number] for number in half}, results)
            for half in (numbers[:middle], numbers[middle:])
        )
        return first + second


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
