"""Rows with their references: from data that a model is to be judged on, or from the output of predict.

Comes in: settings. Goes out: `Labelled`, and what was predicted where that is known. Must not know metrics or reports.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from t5ray.config import DataConfig, EvaluateConfig, TaskConfig
from t5ray.counting import counted
from t5ray.data.formats import BadRow, read_source
from t5ray.data.partition import SEEN_SEED, digest_texts
from t5ray.data.rows import Problems, column_names, missing_column
from t5ray.data.sources import Source, find_sources
from t5ray.data.splits import EvaluationRows, fingerprint, read_examples
from t5ray.errors import ConfigError, DataError
from t5ray.model.card import SEEN
from t5ray.redaction import hide_secrets
from t5ray.scoring.inputs import schema_of
from t5ray.scoring.ledger import read_job
from t5ray.scoring.opening import ScoringModel
from t5ray.scoring.predicting import render_row
from t5ray.scoring.restoring import Restore, from_mixed_cell, restorers
from t5ray.scoring.writing import ERROR, PREDICTION
from t5ray.storage import is_uri, local_path
from t5ray.text.calibration import Calibration
from t5ray.text.tasks import TEXTUAL, render_references, resolve_task, settle_columns


@dataclass(frozen=True)
class Labelled:
    """Rows with their references, before or after scoring. The lists run in parallel."""

    task: TaskConfig
    records: Sequence[Mapping[str, Any]]
    inputs: Sequence[str]
    references: Sequence[Sequence[str]]
    about: dict[str, str]
    """What is judged: model, data, split."""
    fingerprint: str
    findings: tuple[str, ...] = ()
    """What a user should know though it stops nothing."""
    skipped: tuple[str, ...] = ()
    """One sentence for each row that was left out on request."""
    num_seen: int | None = None
    """Rows that were left out as training saw their input text; None where nobody looked."""

    @property
    def notes(self) -> list[str]:
        """Findings, then the rows that were left out: their count and a line for each."""
        left_out = [
            f"--skip-bad-rows left out {counted(len(self.skipped), 'row')}:",
            *(f"  {line}" for line in self.skipped),
        ]
        return [*self.findings, *(left_out if self.skipped else [])]


@dataclass(frozen=True)
class Scored:
    """What the model said of each row."""

    predictions: list[str | None]
    """None where the row failed, or whoever predicted gave none."""
    errors: list[str | None]
    calibration: Calibration | None = None
    """Of the labels' probabilities; None where the model generates."""

    @property
    def num_errors(self) -> int:
        """How many rows have no prediction, as their error or whoever wrote them has it."""
        return sum(prediction is None for prediction in self.predictions)


def read_labelled(config: EvaluateConfig, model: ScoringModel) -> Labelled:
    """Read the rows of the asked split. Where none is asked for, rows that trained the model are left out.

    Raises:
        DataError: rows are unusable, or there is no such split.
    """
    data = DataConfig(
        path=config.data,
        columns=_columns(config, model),
        split_seed=model.split_seed,
        skip_bad_rows=config.skip_bad_rows,
    )
    rows = read_examples(data, model.task, config.split)
    num_rows = len(rows.examples)
    if config.split is None:
        rows = _unseen(rows, model, str(config.data))
    return Labelled(
        task=model.task,
        records=rows.records,
        inputs=[example.inputs for example in rows.examples],
        references=[example.references for example in rows.examples],
        about={"model": hide_secrets(str(config.model)), "data": hide_secrets(str(config.data)), "split": rows.split},
        fingerprint=rows.fingerprint,
        findings=rows.findings,
        skipped=rows.skipped,
        num_seen=num_rows - len(rows.examples) if config.split is None and _has_seen(model) else None,
    )


def _columns(config: EvaluateConfig, model: ScoringModel) -> dict[str, str]:
    """Return where the task's columns stand in the data; these are looked into only where training renamed some."""
    learnt = {name: column for name, column in model.columns.items() if name not in config.columns}
    return settle_columns(config.columns, learnt, column_names(str(config.data)) if learnt else ())


def _has_seen(model: ScoringModel) -> bool:
    """Say whether the model's folder tells which inputs it was trained on."""
    return (Path(model.source) / SEEN).is_file()


def _unseen(rows: EvaluationRows, model: ScoringModel, where: str) -> EvaluationRows:
    """Leave out the rows whose input text training saw, or chose the model by.

    Raises:
        DataError: nothing is left.
    """
    if not _has_seen(model):
        return rows
    known = np.load(Path(model.source) / SEEN, allow_pickle=False)
    fresh = ~np.isin(digest_texts((example.inputs for example in rows.examples), SEEN_SEED), known)
    num_seen = len(fresh) - int(fresh.sum())
    if num_seen == 0:
        return rows
    named = "" if rows.split == "all" else f"{rows.split} "
    seen = f"{where}: the model saw the input text of {num_seen} of {counted(len(fresh), f'{named}row')} in training"
    asking = f"--split {rows.split} judges every {'one' if named else 'row'}."
    if not fresh.any():
        raise DataError(f"{seen}, so nothing is left to judge it on. Give other data; {asking}")
    examples = tuple(itertools.compress(rows.examples, fresh))
    return replace(
        rows,
        examples=examples,
        records=tuple(itertools.compress(rows.records, fresh)),
        split=f"unseen {named}".rstrip(),
        fingerprint=fingerprint(examples),
        findings=(
            *rows.findings,
            f"{seen}, so only the other {len(examples)} are judged. {asking}",
        ),
    )


def read_predictions(config: EvaluateConfig) -> tuple[Labelled, Scored]:
    """Read the output of predict, with the references in the same rows.

    Raises:
        ConfigError: no task is named and none is found beside the predictions.
        DataError: there are no predictions, or rows without references.
    """
    where = str(config.predictions)
    job = _finished_job(where)
    task = _task_of_predictions(config, job)
    sources, findings, _ = ((), [], []) if job else find_sources(where)
    problems = Problems(where, config.skip_bad_rows)
    columns = {**job.get("columns", job.get("fingerprint", {}).get("columns", {})), **config.columns}
    records, references, predictions, errors, seen, num_rows = [], [], [], [], set[str](), 0
    ways = restorers(schema_of(job["schema"]), job["config"]["format"]) if "schema" in job else _former_ways(job)
    for place, cells in read_parts(where) if job else _rows_of(sources):
        row = {**cells, **{name: way(cells[name]) for name, way in ways.items() if name in cells}}
        seen.update(row)
        num_rows += 1
        if PREDICTION not in row:
            raise DataError(f"{where}: every row must have the column `{PREDICTION}`, but {place} has not.")
        try:
            named = {name: row[column] for name in task.target_columns if (column := columns.get(name, name)) in row}
            wanted, found = render_references(task, {**row, **named}), _prediction(row)
        except DataError as exc:
            problems.add(place, str(exc))
            continue
        references.append(wanted)
        predictions.append(found)
        errors.append(row.get(ERROR) or None)
        records.append({name: value for name, value in row.items() if name not in (PREDICTION, ERROR)})
    if num_rows != job.get("rows_out", num_rows):
        raise DataError(
            f"{where}: the parts must hold the {counted(job['rows_out'], 'row')} that the job wrote, but hold "
            f"{num_rows}. Copy all of them, or run the command of predict again."
        )
    _require_references(where, task, columns, config.columns, seen)
    problems.stop()
    if not records:
        raise DataError(f"{where}: there must be predictions to judge, but there are none.")
    about = {"predictions": hide_secrets(where), "model": str(job.get("config", {}).get("model", ""))}
    inputs = [_inputs(task, columns, row) for row in records]
    labelled = Labelled(task, records, inputs, references, about, "", tuple(findings), tuple(problems.lines))
    return labelled, Scored(predictions, errors)


def _finished_job(where: str) -> Mapping[str, Any]:
    """Return the record of the job that made predictions; an empty one where none is beside them.

    Raises:
        DataError: it has not ended.
    """
    job = (None if is_uri(where) else read_job(local_path(where))) or {}
    if job.get("state") == "running":
        raise DataError(f"{where}: the predictions must be complete, but the job still runs or was stopped. Finish it.")
    return job


def _former_ways(job: Mapping[str, Any]) -> dict[str, Restore]:
    """Return what restores the lists and objects in CSV cells of a job whose record has no types yet."""
    names = job.get("columns_with_parts", ()) if job.get("config", {}).get("format") == "csv" else ()
    return dict.fromkeys(names, partial(from_mixed_cell, kinds=(list, dict)))


def _require_references(
    where: str, task: TaskConfig, columns: Mapping[str, str], given: Mapping[str, str], seen: set[str]
) -> None:
    """Refuse predictions none of which stands beside a column that the task's references are made of.

    Args:
        columns: task's column -> column of the predictions.
        given: those of `columns` that this command names, in place of which no other will do.
    Raises:
        DataError: a column is missing.
    """
    pairs = {name: columns.get(name, name) for name in task.target_columns}
    missing = [
        missing_column(where, task, name, column, seen)
        for name, column in pairs.items()
        if seen and column not in seen and (name in given or name not in seen)
    ]
    if missing:
        raise DataError("\n".join(missing))


def _prediction(row: Mapping[str, Any]) -> str | None:
    """Return a row's prediction as text, written as `references` write numbers; None where the row failed.

    Raises:
        DataError: it is neither text nor number.
    """
    value = row[PREDICTION]
    if row.get(ERROR) or value is None or value != value:  # NaN is a table's missing number
        return None
    if not isinstance(value, TEXTUAL):
        raise DataError(f"`{PREDICTION}` must hold text or a number, but holds a {type(value).__name__}")
    return str(value)


def _inputs(task: TaskConfig, columns: Mapping[str, str], row: Mapping[str, Any]) -> str:
    try:
        return render_row(task, columns, row)
    except DataError:
        return ""  # a row that could not be scored has no input to show


def _task_of_predictions(config: EvaluateConfig, job: Mapping[str, Any]) -> TaskConfig:
    if config.task is not None:
        return resolve_task(config.task, source_language=config.source_language, target_language=config.target_language)
    if not job:
        raise ConfigError(f"task: must be given (--task), as {config.predictions} holds no `_job.json` that says it.")
    return TaskConfig.model_validate(job["fingerprint"]["task"])


def read_parts(folder: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield place and content of each row of a job's output, passing over what others put beside the parts."""
    sources = find_sources(folder).sources
    return _rows_of([source for source in sources if re.fullmatch(r"part-\d+\.\w+", source.name)])


def _rows_of(sources: Sequence[Source]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for source in sources:
        for row in read_source(source):
            if isinstance(row, BadRow):
                raise DataError(f"{row.place}: {row.reason}")
            yield row.place, row.values
