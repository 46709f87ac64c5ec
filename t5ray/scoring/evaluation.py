"""Predictions against references: how good a model is on labelled rows, with intervals and a report.

Comes in: a model and data, or the output of predict with the references in the same rows. Goes out, in a folder:

    config.yaml            the settings, all of them
    metrics.json           {rows, metrics, per_class, intervals, calibration, and what was judged}
    predictions.jsonl      each row as it was, with `inputs`, `references`, `prediction`, `error`, `correct`
    report.html            one file, opens offline
    confusion_matrix.csv   for a task with closed labels; lines are true labels, columns predicted ones
"""

import csv
import hashlib
import io
import itertools
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from t5ray.cluster import is_uri, local_path
from t5ray.config import DataConfig, EvaluateConfig, PredictConfig, TaskConfig, dump_yaml
from t5ray.data.formats import BadRow, read_source
from t5ray.data.partition import SEEN_SEED, digest_texts
from t5ray.data.rows import Problems, column_names
from t5ray.data.sources import find_sources
from t5ray.data.splits import EvaluationRows, fingerprint, read_examples
from t5ray.errors import ConfigError, DataError
from t5ray.model.card import SEEN
from t5ray.redaction import hide_secrets
from t5ray.report import render_evaluation
from t5ray.scoring.ledger import read_job, write_atomically, writing
from t5ray.scoring.plan import FinishedJob, Job, ScoringModel, open_model, output_folder, prepare
from t5ray.scoring.scorer import render_row
from t5ray.scoring.writing import ERROR, PREDICTION, SCORES, json_text
from t5ray.text.calibration import Calibration, calibration_of
from t5ray.text.metrics import Judgement, judge
from t5ray.text.squad import squad_exact_match
from t5ray.text.statistics import equals_reference
from t5ray.text.tasks import TEXTUAL, render_references, resolve_task, settle_columns
from t5ray.tracking.uri import shown

WORK = "_work"
"""Folder inside the output that holds the scoring job until the evaluation is done."""
FILES = ("config.yaml", "metrics.json", "predictions.jsonl", "report.html", "confusion_matrix.csv")
"""What an evaluation writes."""


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

    @property
    def notes(self) -> list[str]:
        """Findings, then the rows that were left out: their count and a line for each."""
        rows = "1 row" if len(self.skipped) == 1 else f"{len(self.skipped)} rows"
        left_out = [f"--skip-bad-rows left out {rows}:", *(f"  {line}" for line in self.skipped)]
        return [*self.findings, *(left_out if self.skipped else [])]


@dataclass(frozen=True)
class Scored:
    """What the model said of each row."""

    predictions: list[str | None]
    """None where the row failed."""
    errors: list[str | None]
    calibration: Calibration | None = None
    """Of the labels' probabilities; None where the model generates."""


@dataclass(frozen=True)
class Evaluation:
    """What was found, and where it is."""

    judgement: Judgement
    num_rows: int
    num_errors: int
    files: tuple[Path, ...]


def check_output(config: EvaluateConfig) -> None:
    """Refuse an output that is a URI, or would replace what is judged.

    Raises:
        ConfigError: it does.
    """
    output = output_folder(config.output).resolve()
    for name, path in (("predictions", config.predictions), ("data", config.data)):
        if path is None or is_uri(path):
            continue
        judged = local_path(path).resolve()
        if (name == "predictions" and judged == output) or judged in [output / file for file in FILES]:
            raise ConfigError(
                f"output: must be a folder of its own, so that what is judged stays as it is, but --{name} is there: "
                f"{path}. Choose another --output."
            )


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
    if config.split is None and rows.split == "all":
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
    )


def _columns(config: EvaluateConfig, model: ScoringModel) -> dict[str, str]:
    """Return where the task's columns stand in the data; these are looked into only where training renamed some."""
    learnt = {name: column for name, column in model.columns.items() if name not in config.columns}
    return settle_columns(config.columns, learnt, column_names(str(config.data)) if learnt else ())


def _unseen(rows: EvaluationRows, model: ScoringModel, where: str) -> EvaluationRows:
    """Leave out the rows whose input text training saw, or chose the model by.

    Raises:
        DataError: nothing is left.
    """
    file = Path(model.source) / SEEN
    if not file.is_file():
        return rows
    known = np.load(file, allow_pickle=False)
    fresh = ~np.isin(digest_texts((example.inputs for example in rows.examples), SEEN_SEED), known)
    num_seen = len(fresh) - int(fresh.sum())
    if num_seen == 0:
        return rows
    seen = f"{where}: the model saw the input text of {num_seen} of {len(fresh)} rows in training"
    if not fresh.any():
        raise DataError(
            f"{seen}, so nothing is left to judge it on. Give other data, or --split all to judge every row."
        )
    examples = tuple(itertools.compress(rows.examples, fresh))
    return replace(
        rows,
        examples=examples,
        records=tuple(itertools.compress(rows.records, fresh)),
        split="unseen",
        fingerprint=fingerprint(examples),
        findings=(
            *rows.findings,
            f"{seen}, so only the other {len(examples)} are judged. --split all judges every row.",
        ),
    )


def open_evaluated_model(config: EvaluateConfig) -> ScoringModel:
    """Open the model that is judged."""
    return open_model(_scoring_settings(config, input_path="", output=""))


def _scoring_settings(config: EvaluateConfig, *, input_path: str, output: str) -> PredictConfig:
    shared = PredictConfig.model_fields.keys() & EvaluateConfig.model_fields.keys() - {"output", "columns"}
    values = {name: getattr(config, name) for name in shared} | {"tracking_uri": config.tracking.uri}
    return PredictConfig(**values, input=input_path, output=output, format="jsonl")


def plan_scoring(config: EvaluateConfig, model: ScoringModel, rows: Labelled) -> Job | FinishedJob:
    """Make the scoring job over the rendered inputs. An interrupted one of the same rows and model goes on.

    Raises:
        DataError: the output folder cannot be written.
    """
    folder = _work_folder(config, model, rows)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "inputs.jsonl").exists():
            lines = "".join(json_text({"inputs": text}) + "\n" for text in rows.inputs)
            write_atomically(folder / "inputs.jsonl", lines.encode())
    settings = _scoring_settings(config, input_path=str(folder / "inputs.jsonl"), output=str(folder / "scored"))
    verbatim = model.task.model_copy(update={"inputs": "{inputs}"})
    settings = settings.model_copy(update={"all_scores": bool(model.labels)})
    return prepare(settings, replace(model, task=verbatim, columns={}, is_rendered=True))


def _work_folder(config: EvaluateConfig, model: ScoringModel, rows: Labelled) -> Path:
    """Name the folder after what decides its content, so that other settings never meet it."""
    parts = [model.fingerprint, rows.fingerprint, model.decode, config.precision, model.task.model_dump(mode="json")]
    parts += [model.labels, config.engine, config.engine_dtype]
    return local_path(config.output) / WORK / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def drop_work(config: EvaluateConfig) -> None:
    """Remove the scoring job once the evaluation is written."""
    shutil.rmtree(local_path(config.output) / WORK, ignore_errors=True)


def read_scored(config: EvaluateConfig, model: ScoringModel, rows: Labelled) -> Scored:
    """Read the predictions of the finished scoring job."""
    found = list(_read_parts(str(_work_folder(config, model, rows) / "scored")))
    assert len(found) == len(rows.inputs)
    calibration = calibration_of([row.get(SCORES) for _, row in found], rows.references, model.temperature)
    return Scored([row[PREDICTION] for _, row in found], [row[ERROR] for _, row in found], calibration)


def read_predictions(config: EvaluateConfig) -> tuple[Labelled, Scored]:
    """Read the output of predict, with the references in the same rows.

    Raises:
        ConfigError: no task is named and none is found beside the predictions.
        DataError: there are no predictions, or rows without references.
    """
    where = str(config.predictions)
    job = read_job(local_path(where)) if not is_uri(where) else None
    job = job or {}
    if job.get("state") == "running":
        raise DataError(f"{where}: the predictions must be complete, but the job still runs or was stopped. Finish it.")
    task = _task_of_predictions(config, job)
    problems = Problems(where, config.skip_bad_rows)
    columns = {**job.get("columns", job.get("fingerprint", {}).get("columns", {})), **config.columns}
    records, references, predictions = [], [], []
    for place, row in _read_parts(where, only_parts=bool(job)):
        if PREDICTION not in row:
            raise DataError(f"{where}: every row must have the column `{PREDICTION}`, but {place} has not.")
        try:
            named = {name: row[column] for name in task.target_columns if (column := columns.get(name, name)) in row}
            found = render_references(task, {**row, **named}), _prediction(row)
            references.append(found[0])
            predictions.append(found[1])
            records.append(row)
        except DataError as exc:
            problems.add(place, str(exc))
    problems.stop()
    if not records:
        raise DataError(f"{where}: there must be predictions to judge, but there are none.")
    about = {"predictions": hide_secrets(where), "model": str(job.get("config", {}).get("model", ""))}
    inputs = [_inputs(task, columns, row) for row in records]
    labelled = Labelled(task, records, inputs, references, about, "", skipped=tuple(problems.lines))
    return labelled, Scored(predictions, [row.get(ERROR) or None for row in records])


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


def _read_parts(folder: str, *, only_parts: bool = True) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield place and content of each row of an output folder.

    Args:
        only_parts: pass over what others put beside the parts.
    """
    sources, _ = find_sources(folder)
    for source in sources:
        if only_parts and not re.fullmatch(r"part-\d+\.\w+", source.name):
            continue
        for row in read_source(source):
            if isinstance(row, BadRow):
                raise DataError(f"{row.place}: {row.reason}")
            yield row.place, row.values


def conclude(config: EvaluateConfig, rows: Labelled, scored: Scored) -> Evaluation:
    """Judge the predictions and write all files.

    Raises:
        DataError: the output folder cannot be written.
    """
    judgement = judge(
        rows.task, scored.predictions, rows.references, bootstrap_samples=config.bootstrap_samples, seed=config.seed
    )
    num_errors = sum(error is not None for error in scored.errors)
    metrics = {
        "rows": len(rows.records),
        "metrics": judgement.metrics,
        "per_class": judgement.per_class,
        "intervals": judgement.intervals,
        "calibration": asdict(scored.calibration) if scored.calibration else None,
        "rows_with_error": num_errors,
        "rows_left_out": len(rows.skipped),
        "task": rows.task.name,
        **rows.about,
    }
    judged = list(_judged(rows, scored))
    contents = {
        "config.yaml": dump_yaml(_public(config)),
        "metrics.json": json.dumps(metrics, indent=1, ensure_ascii=False),
        "predictions.jsonl": "".join(f"{json_text({**row, **found})}\n" for row, found in judged),
        "report.html": render_evaluation(
            metrics,
            [found for _, found in judged],
            title=f"Evaluation: {rows.task.name}",
            meta={
                **rows.about,
                "rows": len(rows.records),
                "rows with an error": num_errors or None,
                "rows left out": len(rows.skipped) or None,
                "calibration error": scored.calibration,
            },
            confusion=_confusion_mapping(judgement),
        ),
    }
    if judgement.confusion is not None:
        contents["confusion_matrix.csv"] = _confusion_csv(judgement)
    folder = local_path(config.output)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            write_atomically(folder / name, text.encode("utf-8", "replace"))
    return Evaluation(judgement, len(rows.records), num_errors, tuple(folder / name for name in contents))


def _public(config: EvaluateConfig) -> EvaluateConfig:
    """Return the settings as they may be written down: no address in them holds a password or token."""
    tracking = config.tracking.model_copy(update={"uri": shown(config.tracking.uri)})
    return config.model_copy(update={"tracking": tracking}).public()


def _judged(rows: Labelled, scored: Scored) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    """Yield each row as it was, and what was found."""
    is_right = squad_exact_match if "token_f1" in rows.task.metrics else equals_reference
    for record, text, references, prediction, error in zip(
        rows.records, rows.inputs, rows.references, scored.predictions, scored.errors, strict=True
    ):
        yield (
            record,
            {
                "inputs": text,
                "references": list(references),
                PREDICTION: prediction,
                ERROR: error,
                "correct": prediction is not None and is_right(prediction, references) == 1.0,
            },
        )


def _confusion_mapping(judgement: Judgement) -> dict[str, dict[str, int]] | None:
    confusion = judgement.confusion
    if confusion is None:
        return None
    return {
        true: {label: count for label, count in zip(confusion.labels, counts, strict=True) if count}
        for true, counts in zip(confusion.labels, confusion.counts, strict=True)
    }


def _confusion_csv(judgement: Judgement) -> str:
    confusion = judgement.confusion
    assert confusion is not None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true \\ predicted", *confusion.labels])
    for label, counts in zip(confusion.labels, confusion.counts, strict=True):
        writer.writerow([label, *counts])
    return text.getvalue()
