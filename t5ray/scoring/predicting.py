"""The rows of one shard through an engine, slice by slice, each noted before it is tried; the next one is tokenised.

Comes in: rows and what they are made of. Goes out: `Results`. Must not know parts, or what comes after a shard.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from t5ray.config import LANGUAGES, TaskConfig
from t5ray.errors import DataError
from t5ray.scoring.ahead import one_ahead
from t5ray.scoring.engines import TextPrediction
from t5ray.scoring.halving import Halving
from t5ray.scoring.journal import Journal, Slice
from t5ray.scoring.ledger import Entry
from t5ray.scoring.reading import ShardRows
from t5ray.scoring.writing import Results
from t5ray.text.tasks import read_prediction, render_input

Ready = tuple[Mapping[int, str], Any]
"""Texts by their rows, without those that are refused, and what the engine made of them to score them."""
DEADLY = "the worker process died each time it scored this row (out of memory, or a fault in native code)"
"""The `error` of a row that kills."""


@dataclass(frozen=True)
class Texts:
    """How rows become an engine's texts, and its answers predictions."""

    task: TaskConfig
    columns: Mapping[str, str]
    """Column the task looks for -> column of the input."""
    refuse_long: bool
    """Inputs longer than the model takes are errors; otherwise they are cut."""
    is_rendered: bool = False
    """The task's one input column holds the encoder's text to the letter."""

    @property
    def needed(self) -> list[str]:
        """The columns of the input that texts are made of, each once."""
        names = (*self.task.input_columns, *LANGUAGES)
        return list(dict.fromkeys(self.columns.get(name, name) for name in names))

    def of_row(self, rows: ShardRows, number: int) -> str:
        """Return the encoder's text of a row.

        Raises:
            DataError: the row cannot be scored, and why.
        """
        if number in rows.problems:
            raise DataError(rows.problems[number])
        record = rows.records[number]
        if self.is_rendered:
            return str(record[self.task.input_columns[0]])
        return render_row(self.task, self.columns, record)


@dataclass(frozen=True)
class Planned:
    """What is to be scored of a shard."""

    slices: Mapping[Slice, Mapping[int, str]]
    """The texts of each slice by their rows."""
    unusable: int
    """Rows that no engine can score."""
    first: Ready | None
    """The first of them, if it is tokenised already."""


class Predicting:
    """One engine and the task it is asked to do."""

    def __init__(self, engine: Halving, texts: Texts) -> None:
        self._engine, self._texts = engine, texts

    def plan(self, results: Results, rows: ShardRows, todo: Sequence[int], journal: Journal) -> Planned:
        """Cut rows into slices. Rows that cannot be scored get their error.

        Unless one thing is to be done at a time, the first slice is tokenised now, and each other one while the one
        before it is scored.

        Args:
            todo: rows to be scored.
            journal: knows which slices killed.
        """
        texts = {}
        for number in todo:
            results.errors[number] = None
            try:
                texts[number] = self._texts.of_row(rows, number)
            except DataError as exc:
                results.errors[number] = str(exc)
        # sorted by length, so that slices cost no padding, and equal texts meet in one
        order = sorted(texts, key=lambda number: (-len(texts[number]), texts[number]))
        slices = {}
        for part, is_deadly in journal.slices(len(order), self._engine.call_rows):
            if is_deadly:
                results.errors[order[part[0]]] = DEADLY
            else:
                slices[part] = {number: texts[number] for number in order[slice(*part)]}
        first = None if journal.is_alone or not slices else self._prepare(results, next(iter(slices.values())))
        return Planned(slices, len(todo) - len(texts), first)

    def fill(self, results: Results, planned: Planned, journal: Journal) -> Entry:
        """Score what was planned.

        Args:
            journal: told of each slice before it is tried.
        Returns:
            What is to be counted of it: rows that are unusable, predictions and inputs that were cut, tokens.
        Raises:
            DataError: the notes cannot be written.
            ModelError: the engine fails on everything.
        """
        tally, found = self._engine.tally, Entry(unusable=planned.unusable)
        before = tally.padded_tokens, tally.real_tokens
        todo: list[Callable[[], Ready]] = [partial(self._prepare, results, texts) for texts in planned.slices.values()]
        if (first := planned.first) is not None:
            todo[0] = lambda: first
        each = map if journal.is_alone else one_ahead
        ready = each(lambda prepare: prepare(), todo)
        for part in planned.slices:
            journal.begin(part)
            found += self._predict(*next(ready), results)
        return found + Entry(padded_tokens=tally.padded_tokens - before[0], real_tokens=tally.real_tokens - before[1])

    def _prepare(self, results: Results, texts: Mapping[int, str]) -> Ready:
        """Refuse texts that are too long, where that is asked for, and tokenise the others."""
        most = self._engine.max_input_tokens
        if self._texts.refuse_long and most is not None:
            lengths = dict(zip(texts, self._engine.num_tokens(list(texts.values())), strict=True))
            for number, length in lengths.items():
                if length > most:
                    results.errors[number] = f"the input must have at most {most} tokens, but has {length}"
            texts = {number: text for number, text in texts.items() if lengths[number] <= most}
        return texts, self._engine.prepare(list(texts.values()))

    def _predict(self, texts: Mapping[int, str], prepared: Any, results: Results) -> Entry:
        capped = cut_inputs = 0
        for number, found in zip(texts, self._engine.predict(list(texts.values()), prepared), strict=True):
            if isinstance(found, str):
                results.errors[number] = f"the model failed on this row: {found}"
                continue
            self._note(results, number, found)
            capped += found.hit_cap
            cut_inputs += found.input_cut
        return Entry(capped=capped, cut_inputs=cut_inputs)

    def _note(self, results: Results, number: int, one: TextPrediction) -> None:
        task = self._texts.task
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
