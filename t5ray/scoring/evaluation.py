"""Predictions against references: how good a model is on labelled rows, with intervals and a report.

Comes in: a model and data, or the output of predict with the references in the same rows. Goes out, in a folder:

    config.yaml            the settings, all of them
    metrics.json           {rows, metrics, per_class, only_prediction, intervals, calibration, and what was judged}
    predictions.jsonl      each row as it was, with `inputs`, `references`, `prediction`, `error`, `correct`; a column
                           of the rows that has one of these names is called NAME_in_data
    report.html            one file, opens offline
    confusion_matrix.csv   for a task with closed labels; lines are true labels, columns predicted ones
    _work/                 the scoring job, until the evaluation is done
    _lock                  held by the command that works on the folder
"""

import csv
import hashlib
import io
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from t5ray.config import EvaluateConfig, PredictConfig, dump_yaml
from t5ray.errors import ConfigError
from t5ray.report import render_evaluation
from t5ray.scoring.labelled import Labelled, Scored, read_parts
from t5ray.scoring.ledger import write_atomically, writing
from t5ray.scoring.opening import ScoringModel, open_model
from t5ray.scoring.overlap import would_be_read
from t5ray.scoring.plan import FinishedJob, Job, output_folder, prepare, require_utf8
from t5ray.scoring.writing import ERROR, PREDICTION, SCORES, json_text
from t5ray.storage import is_uri, local_path
from t5ray.text.calibration import calibration_of
from t5ray.text.metrics import Judgement, judge
from t5ray.text.squad import squad_exact_match
from t5ray.text.statistics import equals_reference
from t5ray.tracking.uri import shown

WORK = "_work"
"""Folder inside the output that holds the scoring job until the evaluation is done."""
FILES = ("config.yaml", "metrics.json", "predictions.jsonl", "report.html", "confusion_matrix.csv")
"""What an evaluation writes."""


@dataclass(frozen=True)
class Evaluation:
    """What was found, and where it is."""

    judgement: Judgement
    num_rows: int
    num_errors: int
    files: tuple[Path, ...]


def check_output(config: EvaluateConfig) -> None:
    """Refuse an output that is a URI, or would replace what is judged, and paths that are no UTF-8.

    Raises:
        ConfigError: it does.
        DataError: a path is no UTF-8.
    """
    require_utf8(config)
    output = output_folder(config.output).absolute()
    for name, path in (("predictions", config.predictions), ("data", config.data)):
        if path is None or is_uri(path):
            continue
        if name == "predictions" and local_path(path).is_dir():  # whose parts alone are read, if a job left them
            is_judged = local_path(path).resolve() == output.resolve()
        else:
            is_judged = any(would_be_read(path, output / file) for file in FILES)
        if is_judged:
            raise ConfigError(
                f"output: must lie outside of what is judged, so that it stays as it is and the same command finds "
                f"nothing else, but --{name} {path} holds {config.output}. Choose another --output."
            )


def notes_on_output(config: EvaluateConfig, rows: Labelled) -> list[str]:
    """Say that the output holds the evaluation of something else, which this one will take the place of."""
    try:
        earlier = json.loads((local_path(config.output) / "metrics.json").read_text(encoding="utf-8"))
        known = {name: str(earlier[name]) for name in rows.about if name in earlier}
    except (OSError, ValueError, TypeError):
        return []
    if known == rows.about:
        return []
    what = ", ".join(f"{name} {value}" for name, value in known.items()) or "other predictions"
    return [f"{config.output} holds another evaluation ({what}): its files are replaced when this one is done."]


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
    found = list(read_parts(str(_work_folder(config, model, rows) / "scored")))
    assert len(found) == len(rows.inputs)
    calibration = calibration_of([row.get(SCORES) for _, row in found], rows.references, model.temperature)
    return Scored([row[PREDICTION] for _, row in found], [row[ERROR] for _, row in found], calibration)


def conclude(config: EvaluateConfig, rows: Labelled, scored: Scored) -> Evaluation:
    """Judge the predictions and write all files.

    Raises:
        DataError: the output folder cannot be written.
    """
    judgement = judge(
        rows.task, scored.predictions, rows.references, bootstrap_samples=config.bootstrap_samples, seed=config.seed
    )
    contents = _contents(config, rows, scored, judgement)
    folder = local_path(config.output)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            write_atomically(folder / name, text.encode("utf-8", "replace"))
        for name in FILES:
            if name not in contents:  # of an earlier evaluation, of another task
                (folder / name).unlink(missing_ok=True)
    return Evaluation(judgement, len(rows.records), scored.num_errors, tuple(folder / name for name in contents))


def _contents(config: EvaluateConfig, rows: Labelled, scored: Scored, judgement: Judgement) -> dict[str, str]:
    """Return name -> text of the files to write."""
    metrics, judged = _metrics(rows, scored, judgement), list(_judged(rows, scored))
    contents = {
        "config.yaml": dump_yaml(_public(config)),
        "metrics.json": f"{json.dumps(_with_nulls(metrics), indent=1, ensure_ascii=False, allow_nan=False)}\n",
        "predictions.jsonl": "".join(f"{json_text({**_beside(row, found), **found})}\n" for row, found in judged),
        "report.html": render_evaluation(
            metrics,
            [found for _, found in judged],
            title=f"Evaluation: {rows.task.name}",
            meta={
                **rows.about,
                "rows with an error": scored.num_errors or None,
                "rows left out": len(rows.skipped) or None,
                "rows seen in training, left out": rows.num_seen or None,
                "calibration error": scored.calibration,
            },
            confusion=_confusion_mapping(judgement),
        ),
    }
    if judgement.confusion is not None:
        contents["confusion_matrix.csv"] = _confusion_csv(judgement)
    return contents


def _metrics(rows: Labelled, scored: Scored, judgement: Judgement) -> dict[str, Any]:
    """Return the content of metrics.json."""
    return {
        "rows": len(rows.records),
        "metrics": judgement.metrics,
        "per_class": judgement.per_class,
        "only_prediction": judgement.only_prediction,
        "intervals": judgement.intervals,
        "calibration": asdict(scored.calibration) if scored.calibration else None,
        "rows_with_error": scored.num_errors,
        "rows_left_out": len(rows.skipped),
        "rows_seen_in_training": rows.num_seen,
        "task": rows.task.name,
        **rows.about,
    }


def _with_nulls(value: Any) -> Any:
    """Return a value with null for each number that JSON has not."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _with_nulls(inner) for name, inner in value.items()}
    return [_with_nulls(inner) for inner in value] if isinstance(value, list | tuple) else value


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


def _beside(row: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose columns leave the names of what was found free."""
    return {_free_name(name, row) if name in found else name: value for name, value in row.items()}


def _free_name(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name += "_in_data"
    return name


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
