"""The built-in tasks, and what any task makes of a row.

Comes in: a task and a row, column -> value. Goes out: the text for the encoder, the texts that count as right, and a
prediction as it is compared. Errors name the column; the caller, who knows the file and line, adds the place. Light to
import: no metrics, no numpy.
"""

import datetime
import decimal
import os.path
import re
import string
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from t5ray.config import LANGUAGES, TaskConfig, load_task_file, template_fields
from t5ray.errors import ConfigError, DataError, did_you_mean

BUILT_IN: Mapping[str, TaskConfig] = MappingProxyType(
    {
        task.name: task
        for task in (
            TaskConfig(
                name="classify",
                inputs="classify: {text}",
                targets="{label}",
                metrics=(
                    "accuracy",
                    "macro_f1",
                    "macro_precision",
                    "macro_recall",
                    "weighted_f1",
                    "weighted_precision",
                    "weighted_recall",
                ),
                closed_labels=True,
            ),
            TaskConfig(
                name="summarize",
                inputs="summarize: {text}",
                targets="{summary}",
                metrics=("rougeL", "rouge1", "rouge2", "rougeLsum"),
            ),
            TaskConfig(
                name="answer",
                inputs="answer: {context} question: {question}",
                targets="{answer}",
                metrics=("token_f1", "exact_match"),
            ),
            TaskConfig(
                name="translate",
                inputs="translate {source_language} to {target_language}: {source}",
                targets="{target}",
                metrics=("chrf", "bleu"),
            ),
        )
    }
)
"""Name -> task. The columns they look for can be renamed with `--column`."""

Spans = tuple[tuple[int, int], ...]
TEXTUAL = (str, int, float, decimal.Decimal, datetime.date, datetime.time)
"""What a template value may be; bool is an int, datetime a date. Rendered with `str`."""
LONGEST_LANGUAGE = 64
"""Characters of a language's name, at most, where a doubled prefix is looked for."""


def resolve_task(
    name_or_path: str, *, source_language: str | None = None, target_language: str | None = None
) -> TaskConfig:
    """Return a built-in task by name, or read a task YAML.

    Args:
        source_language: takes the place of the task's own. None: keep that.
        target_language: likewise.
    Raises:
        ConfigError: there is no such task or file, its content is wrong, or its templates have no place for a
            language that is given.
    """
    given = {"source_language": source_language, "target_language": target_language}
    languages = {name: value for name, value in given.items() if value is not None}
    task = _find_task(name_or_path)
    known = {*template_fields(task.inputs), *template_fields(task.targets)}
    problems = [
        f"{name}: task {task.name} must have {{{name}}} in its templates to use it, but `inputs` is {task.inputs!r}. "
        "Leave the setting out."
        for name in languages
        if name not in known
    ]
    problems += [f"{name}: must not be empty." for name, value in languages.items() if not value.strip()]
    if problems:
        raise ConfigError(problems)
    return task.model_copy(update=languages)


def _find_task(name_or_path: str) -> TaskConfig:
    if name_or_path in BUILT_IN:
        return BUILT_IN[name_or_path]
    if Path(name_or_path).suffix in (".yaml", ".yml") or os.path.isfile(name_or_path):
        return load_task_file(name_or_path)
    raise ConfigError(
        f"task: must be a built-in task or a YAML file, but got {name_or_path!r}. "
        f"{did_you_mean(name_or_path, BUILT_IN)}"
    )


def settle_columns(given: Mapping[str, str], learnt: Mapping[str, str], present: Collection[str]) -> dict[str, str]:
    """Return where the columns of a task stand: as the user says, else as in training where the data have that column.

    A column that is not in the result stands under its own name.

    Args:
        given: column the task looks for -> column of the data, as asked for.
        learnt: likewise, as it was in training.
        present: columns of the data.
    Example:
        settle_columns({}, {"text": "review"}, ["review", "stars"]) -> {"text": "review"}
    """
    return {**{name: column for name, column in learnt.items() if column in present}, **given}


def render_input(task: TaskConfig, row: Mapping[str, object]) -> str:
    """Fill the `inputs` template: the text for the encoder, prefix included.

    White space around a value is no part of it. A language is the row's own where it has one, else the task's.

    Raises:
        DataError: a column is missing, null, empty, or neither text nor number; names the column, no place.
    Example:
        render_input(BUILT_IN["classify"], {"text": "a small dog "}) -> "classify: a small dog"
    """
    return render_spans(task, row)[0]


def render_spans(task: TaskConfig, row: Mapping[str, object]) -> tuple[str, Spans]:
    """Fill the `inputs` template, and say which parts of it augmentation may change.

    Those are the values of the task's augmentable columns, where they are text; never prefix, language or number.

    Returns:
        The text for the encoder, and (start, end) of each part, ascending.
    Raises:
        DataError: as in `render_input`.
    Example:
        render_spans(BUILT_IN["classify"], {"text": "a dog"}) -> ("classify: a dog", ((10, 15),))
    """
    text, spans = "", list[tuple[int, int]]()
    augmentable = task.augmentable_columns
    for literal, name in _pieces(task.inputs):
        text += literal
        if name is None:
            continue
        value = _field(task, row, name)
        if name in augmentable and isinstance(row[name], str):
            spans.append((len(text), len(text) + len(value)))
        text += value
    return text, tuple(spans)


@lru_cache(maxsize=16)
def _pieces(template: str) -> tuple[tuple[str, str | None], ...]:
    """Return each literal text of a template with the field that follows it."""
    return tuple((literal, name) for literal, name, _, _ in string.Formatter().parse(template))


def render_references(task: TaskConfig, row: Mapping[str, object]) -> tuple[str, ...]:
    """Fill the `targets` template: the texts that count as right, of which the first is trained on.

    Where `targets` names one column and that holds a list, each item gives a reference; equal ones are taken once.

    Raises:
        DataError: as in `render_input`; or the list is empty, or stands in one of several columns.
    Example:
        render_references(BUILT_IN["answer"], {"answer": ["1,000", "one thousand"]}) -> ("1,000", "one thousand")
    """
    fields = template_fields(task.targets)
    if len(task.target_columns) == 1:
        column = task.target_columns[0]
        items = _plain(_cell(row, column))
        if isinstance(items, list | tuple):
            if not items:
                raise DataError(f"`{column}` must hold at least one reference, but is an empty list")
            values = {name: _field(task, row, name) for name in fields if name != column}
            texts = [_as_text(item, f"{column}[{number}]") for number, item in enumerate(items)]
            return tuple(dict.fromkeys(task.targets.format_map({**values, column: text}).strip() for text in texts))
    return (task.targets.format_map({name: _field(task, row, name) for name in fields}).strip(),)


def read_prediction(task: TaskConfig, text: str) -> str:
    """Return a model's output as it is compared and written: without white space around it.

    Nothing is guessed: an output of a task with closed labels that is no label stays what it is, and counts as wrong.
    """
    return text.strip()


def collect_labels(references: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Return the closed set of labels, sorted, that the training rows are trained on: their first references."""
    return tuple(sorted({texts[0] for texts in references}))


def has_doubled_prefix(task: TaskConfig, inputs: str) -> bool:
    """Say whether a rendered input carries the task's prefix twice: the row's own text already started with it.

    Example:
        has_doubled_prefix(BUILT_IN["classify"], "classify: classify: a small dog") -> True
    """
    pattern = _doubled_prefix(task.inputs)
    return pattern is not None and pattern.match(inputs) is not None


@lru_cache(maxsize=16)
def _doubled_prefix(template: str) -> re.Pattern[str] | None:
    """Return what a doubled prefix matches; None where the template starts with a column or with mere punctuation.

    Languages may be any text, since rows may bring their own, but must be the same both times.
    """
    literals, parts = "", []
    for literal, name, _, _ in string.Formatter().parse(template):
        literals += literal
        if name not in LANGUAGES:
            parts.append(re.escape(literal.rstrip()))
            break
        parts += [re.escape(literal), f".{{1,{LONGEST_LANGUAGE}}}?"]
    if not re.search(r"\w", literals):
        return None
    whole_word = r"(?:(?<=\W)|(?!\w))"  # the prefix "the" is not doubled in "the theory"
    return re.compile(rf"({''.join(parts)})\s*\1{whole_word}", re.DOTALL)


def _field(task: TaskConfig, row: Mapping[str, object], name: str) -> str:
    """Return the text of one template field."""
    if name in LANGUAGES and _is_missing(row.get(name)):
        return str(getattr(task, name))
    return _as_text(_cell(row, name), name)


def _cell(row: Mapping[str, object], column: str) -> object:
    if column not in row:
        raise DataError(f"`{column}` must be a column of the row, but is missing. {did_you_mean(column, row)}".rstrip())
    return row[column]


def _as_text(value: object, column: str) -> str:
    value = _plain(value)
    if _is_null(value):
        raise DataError(f"`{column}` must hold text, but is null")
    if not isinstance(value, TEXTUAL):
        raise DataError(f"`{column}` must hold text or a number, but holds a {type(value).__name__}")
    text = str(value).strip()
    if not text:
        raise DataError(f"`{column}` must hold text, but is empty")
    return text


def _is_missing(value: object) -> bool:
    value = _plain(value)
    return _is_null(value) or (isinstance(value, str) and not value.strip())


def _is_null(value: object) -> bool:
    """Say whether a value is None, or the NaN or NaT that tables read a missing number or date as."""
    return value is None or (isinstance(value, TEXTUAL) and value != value)


def _plain(value: object) -> object:
    """Turn numpy's scalars and arrays, which tables are read as, into Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value
