"""Rows of files -> examples of a task, with every problem found on the way.

Comes in: data settings and a task. Goes out: the text pairs, what the `split` column says of each, and the rows that
were left out. Must not know how splits are made.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from t5ray.config import LANGUAGES, DataConfig, TaskConfig, template_fields
from t5ray.counting import counted
from t5ray.data.formats import BadRow, Row, RowStream, read_source
from t5ray.data.hub import PREFIX, open_hub
from t5ray.data.sources import find_sources
from t5ray.errors import ConfigError, DataError, did_you_mean
from t5ray.text.tasks import Spans, render_references, render_spans

SPLIT_COLUMN = "split"
SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""What the `split` column may hold, in any case -> the split."""
SHOWN_PROBLEMS = 10
LOOKED_AT = 100
"""Rows of each file from which its columns are learnt."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row as the model meets it."""

    inputs: str
    """Text for the encoder, prefix included."""
    references: tuple[str, ...]
    """Texts that count as right; the first is trained on."""
    place: str
    """Where the row stands: `topics.jsonl:17`."""
    spans: Spans = field(default=(), compare=False)
    """Start and end of the parts of `inputs` that augmentation may change."""


@dataclass
class Problems:
    """What is wrong with rows: collected, then shown together or, where rows may be skipped, listed."""

    where: str
    """Where the data come from, as the user wrote it."""
    may_skip: bool
    """Leave bad rows out instead of stopping at them."""
    count: int = 0
    """Rows that cannot be used."""
    lines: list[str] = field(default_factory=list)
    """One sentence per bad row: all that are skipped, or the first ten."""

    def add(self, place: str, reason: str) -> None:
        """Note that a row cannot be used."""
        self.count += 1
        if self.may_skip or self.count <= SHOWN_PROBLEMS:
            self.lines.append(f"{place}: {reason}")

    def stop(self) -> None:
        """End the command if there are problems that may not be skipped.

        Raises:
            DataError: shows the first ten, and how many there are.
        """
        if self.count and not self.may_skip:
            raise DataError(
                f"{self.where}: every row must be usable, but {counted(self.count, 'row')} cannot be used:\n"
                f"{_list(self.lines, self.count)}\nMend them, or leave them out with --skip-bad-rows."
            )


def _list(lines: list[str], count: int) -> str:
    shown = [f"  {line}" for line in lines[:SHOWN_PROBLEMS]]
    return "\n".join([*shown, f"  and {count - len(shown)} more"] if count > len(shown) else shown)


@dataclass
class Rows:
    """The usable rows of all files, in order. The lists run in parallel."""

    examples: list[Example] = field(default_factory=list)
    """The text pairs."""
    splits: list[str | None] = field(default_factory=list)
    """What each row's `split` column says; None where the row has no such column."""
    records: list[Mapping[str, Any]] = field(default_factory=list)
    """The rows as the files hold them; empty unless asked for."""
    findings: list[str] = field(default_factory=list)
    """What a user should know though it stops nothing."""

    @property
    def has_split_column(self) -> bool:
        """Say whether the data name the split of their rows."""
        return any(split is not None for split in self.splits)


@dataclass(frozen=True)
class _Columns:
    """Where the task's columns stand in the data: task column -> data column."""

    needed: dict[str, str]
    """Columns that every row must have."""
    languages: dict[str, str]
    """Columns that a row may have, and that otherwise have a value of their own."""
    split: str


def read_rows(config: DataConfig, task: TaskConfig, problems: Problems, *, keep_records: bool = False) -> Rows:
    """Read all rows of the data and render them as examples.

    Args:
        problems: takes the rows that cannot be used; the caller decides when to stop.
        keep_records: also keep the rows as they are, which about doubles the memory.
    Raises:
        ConfigError: `columns` renames a column that the task does not have.
        DataError: a file cannot be read, a column is missing, or there are no rows at all.
    """
    columns = _locate_columns(config.columns, task)
    streams, findings = _open(problems.where)
    rows = Rows(findings=findings)
    for name, stream in streams:
        if not _read_into(rows, stream, name, columns, task, problems, keep_records=keep_records):
            findings.append(f"{name}: holds no rows.")
    if not rows.examples and not problems.count:
        raise DataError(f"{problems.where}: the data must hold rows, but they are empty.")
    _require_splits(rows, columns.split, problems)
    if not rows.examples:
        Problems(problems.where, may_skip=False, count=problems.count, lines=problems.lines).stop()
    return rows


def column_names(path: str) -> set[str]:
    """Return the columns of data, by a look at the first rows of each file.

    Raises:
        DataError: nothing is there, or a file cannot be read.
    """
    streams, _ = _open(path)
    first = (row for _, stream in streams for row in itertools.islice(stream, LOOKED_AT))
    return {name for row in first if not isinstance(row, BadRow) for name in row.values}


def data_path(config: DataConfig) -> str:
    """Return where the data are.

    Raises:
        ConfigError: the settings name none.
    """
    if config.path is None:
        raise ConfigError("data.path: must name a file, folder, glob, URI or hf:NAME. Give one with --data.")
    return config.path


def _locate_columns(renamed: Mapping[str, str], task: TaskConfig) -> _Columns:
    fields = {*template_fields(task.inputs), *template_fields(task.targets)}
    languages = [name for name in LANGUAGES if name in fields]
    needed = list(dict.fromkeys((*task.input_columns, *task.target_columns)))
    known = {*needed, *languages, SPLIT_COLUMN}
    wrong = [name for name in renamed if name not in known]
    if wrong:
        raise ConfigError(
            [
                f"--column {name}={renamed[name]}: task {task.name} has no column `{name}`. {did_you_mean(name, known)}"
                for name in wrong
            ]
        )
    return _Columns(
        needed={name: renamed.get(name, name) for name in needed},
        languages={name: renamed.get(name, name) for name in languages},
        split=renamed.get(SPLIT_COLUMN, SPLIT_COLUMN),
    )


def _open(path: str) -> tuple[Iterable[tuple[str, RowStream]], list[str]]:
    """Return the name and the rows of each file, and what was left out."""
    if path.startswith(PREFIX):
        hub_rows, findings = open_hub(path, SPLIT_NAMES)
        return [(path, hub_rows)], findings
    sources, findings, _ = find_sources(path)
    return ((source.name, read_source(source)) for source in sources), findings


def _read_into(
    rows: Rows,
    stream: RowStream,
    name: str,
    columns: _Columns,
    task: TaskConfig,
    problems: Problems,
    *,
    keep_records: bool,
) -> int:
    """Add the rows of one file; return how many it has, bad ones included."""
    seen, count = set[str](), 0
    for count, row in enumerate(stream, start=1):  # noqa: B007 (the last number is the count)
        if isinstance(row, BadRow):
            problems.add(row.place, row.reason)
            continue
        if not seen.issuperset(row.values):
            seen.update(row.values)
        try:
            example, split = _example(row, columns, task), _split_of(row, columns.split)
        except DataError as exc:
            problems.add(row.place, str(exc))
            continue
        rows.examples.append(example)
        rows.splits.append(split)
        if keep_records:
            rows.records.append(row.values)
    _require_columns(seen, columns, task, name)
    return count


def _require_columns(seen: set[str], columns: _Columns, task: TaskConfig, name: str) -> None:
    """Check that the rows of a file had every column that the task needs."""
    missing = {wanted: column for wanted, column in columns.needed.items() if column not in seen} if seen else {}
    if missing:
        raise DataError("\n".join(missing_column(name, task, *pair, seen) for pair in missing.items()))


def missing_column(name: str, task: TaskConfig, wanted: str, column: str, seen: set[str]) -> str:
    """Say that no row has a column, and which one may be meant.

    Args:
        name: of the data.
        wanted: the task's name for the column.
        column: the data's name for it.
        seen: columns that rows have.
    """
    return (
        f"{name}: task {task.name} needs column `{column}`, but no row has it. {did_you_mean(column, seen)} "
        f"Say which column it is with --column {wanted}=NAME."
    )


def _example(row: Row, columns: _Columns, task: TaskConfig) -> Example:
    values = {}
    for name, column in columns.needed.items():
        if column not in row.values:
            raise DataError(f"a row must have `{column}`, but this one has not")
        values[name] = row.values[column]
    for name, column in columns.languages.items():
        if column in row.values:
            values[name] = row.values[column]
    inputs, spans = render_spans(task, values)
    example = Example(inputs, render_references(task, values), row.place, spans)
    _require_unicode(example)
    return example


def _require_unicode(example: Example) -> None:
    """Refuse what JSON can spell (`"\\ud800"`) but no tokenizer, hash or file can hold."""
    try:
        "".join((example.inputs, *example.references)).encode()
    except UnicodeEncodeError as exc:
        raise DataError("text must be whole Unicode characters, but holds half of a surrogate pair") from exc


def _split_of(row: Row, column: str) -> str | None:
    if column not in row.values:
        return None
    value = row.values[column]
    split = SPLIT_NAMES.get(value.strip().lower()) if isinstance(value, str) else None
    if split is None:
        raise DataError(f"`{column}` must be one of {', '.join(SPLIT_NAMES)}, but is {value!r}")
    return split


def _require_splits(rows: Rows, column: str, problems: Problems) -> None:
    """Where some rows name their split, take out those that do not."""
    if not rows.has_split_column or None not in rows.splits:
        return
    keep = []
    for number, split in enumerate(rows.splits):
        if split is None:
            problems.add(rows.examples[number].place, f"must have `{column}`, as other rows do, but has not")
        else:
            keep.append(number)
    rows.examples = [rows.examples[number] for number in keep]
    rows.splits = [rows.splits[number] for number in keep]
    rows.records = [rows.records[number] for number in keep] if rows.records else []
