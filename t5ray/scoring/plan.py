"""Settings -> a job: everything that can be wrong is found here, before Ray starts.

A job is known by its fingerprint: model, task, decode settings, input by content, format. The same fingerprint in the
same folder goes on; another one is refused, and told apart by name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsspec.utils import glob_translate

from t5ray.cluster import is_uri, local_path
from t5ray.config import LANGUAGES, DecodeConfig, PredictConfig, TaskConfig
from t5ray.errors import ConfigError, DataError, did_you_mean
from t5ray.model.card import REGISTRY_SCHEMES, require_model
from t5ray.scoring.fetching import fetch_registered, fetch_uri
from t5ray.scoring.hub_copy import copied, is_hub
from t5ray.scoring.inputs import Input, Shard, list_sources, recall, remembered, stamp_of
from t5ray.scoring.ledger import JOB_FILE, Entry, JobSummary, Ledger, read_job
from t5ray.scoring.scanning import scan
from t5ray.scoring.scorer import EngineSpec, ScorerSpec
from t5ray.scoring.writing import Extras, result_columns
from t5ray.text.tasks import resolve_task, settle_columns


@dataclass(frozen=True)
class ScoringModel:
    """A model that is to score, read without loading its weights."""

    source: str
    """Directory or hub id."""
    fingerprint: str
    task: TaskConfig
    decode: dict[str, Any]
    """Decode settings in force; empty: the model's own."""
    split_seed: int
    """Seed that cut the data in training: with it, `test` are the rows that training did not see."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Column the task looks for -> column of the data that trained the model."""
    origin: str = ""
    """URI that `source` was fetched from; empty where the model is a folder or of the hub."""
    labels: tuple[str, ...] = ()
    """The closed set that predictions are taken from; empty where the model generates."""
    temperature: float = 1.0
    """Divides the labels' scores before they become probabilities."""
    is_rendered: bool = False
    """True where the input's one column holds what the task renders, to be scored to the letter."""

    @property
    def gives_texts(self) -> bool:
        """True where a row gets several texts."""
        return not self.labels and self.decode.get("num_return_sequences", 1) > 1


@dataclass(frozen=True)
class Job:
    """A scoring job that may start, go on, or be done already."""

    config: PredictConfig
    spec: ScorerSpec
    fingerprint: dict[str, Any]
    finished: dict[int, Entry]
    """Shards that need no work."""
    pending: tuple[Shard, ...]
    """Shards to hand out, in input order."""
    seconds_before: float
    """What earlier runs of the same command took."""


@dataclass(frozen=True)
class FinishedJob:
    """A job that an earlier run of the same command finished."""

    summary: JobSummary


def prepare(config: PredictConfig, model: ScoringModel | None = None) -> Job | FinishedJob:
    """Check settings, model and input, and find out what is left to do.

    Args:
        model: what `open_model` gave for these settings, with another task maybe. None: it is opened here.
    Raises:
        ConfigError: settings do not fit the model or input, or the folder holds another job.
        DataError: the input is unusable as a whole, or the output cannot be written.
        ModelError: the model is missing or broken.
    """
    output = output_folder(config.output).absolute()
    _refuse_output_in_input(config, output)
    model = model or open_model(config)
    _check_columns(config.columns, model.task)
    extras = _extras(config, model)
    _check_engine(config, model)
    earlier = read_job(output)
    wanted = _fingerprint(config, model)
    if earlier is None:
        _require_free(output)
    if earlier and _is_done(earlier, wanted, config):
        return FinishedJob(JobSummary.read(earlier))
    _refuse_other_job(earlier, wanted, config)
    rows = _read_input(config, output)
    columns = settle_columns(config.columns, model.columns, rows.schema.names)
    _check_input(config, model.task, columns, rows, extras)
    wanted["input"] = rows.digests
    _refuse_other_job(earlier, wanted, config)
    spec = _spec(config, model, columns, rows, output)
    spec.ledger.open()
    spec.ledger.remember_input(remembered(rows))
    finished = spec.ledger.finished() if earlier else {}
    if config.retry_errors:
        finished = {index: entry for index, entry in finished.items() if not entry.errors}
    pending = tuple(shard for shard in rows.shards if shard.index not in finished)
    return Job(config, spec, wanted, finished, pending, float(earlier["seconds"]) if earlier else 0.0)


def _read_input(config: PredictConfig, output: Path) -> Input:
    """Scan the input, unless an earlier run did and no file has changed since."""
    path = str(copied(config.input, output)) if is_hub(config.input) else config.input
    sources, known = list_sources(path), Ledger(output, config.format, 1).recall_input()
    if known is not None and known["shard_rows"] == config.shard_rows and (rows := recall(known, sources)):
        return rows
    return scan(path, config.shard_rows, sources)


def output_folder(output: str) -> Path:
    """Return the folder that results go to.

    Raises:
        ConfigError: it is a URI.
    """
    if is_uri(output):
        raise ConfigError(
            f"output: must be a folder, on a share where there are several nodes, but got {output!r}. Write to a "
            "folder and copy it there afterwards."
        )
    return local_path(output)


def _require_free(output: Path) -> None:
    """Refuse a folder with other things in it; what a job killed at its beginning left is ours."""
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output}: --output must be a folder, but is a file. Name a new folder.")
    others = sorted(path.name for path in output.glob("*") if not path.name.startswith(("_", ".")))
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise ConfigError(
            f"{output}: --output must be a new or empty folder, or hold this job, but has no `{JOB_FILE}` and holds "
            f"{', '.join(others[:3])}{more}. Name a new folder."
        )


def _refuse_output_in_input(config: PredictConfig, output: Path) -> None:
    """Refuse an output whose parts would be rows of the input when the same command is run again."""
    if is_uri(config.input):
        return
    given, part = local_path(config.input).absolute(), output / f"part-00000.{config.format}"
    inside = given.is_dir() and output.resolve().is_relative_to(given.resolve())
    if inside or any(_matches(str(given), path) for path in (part, *part.parents)):
        raise ConfigError(
            f"output: must lie outside of the input, whose rows its parts would become, but {config.output} is in "
            f"{config.input}. Choose another --output."
        )


def _matches(pattern: str, path: Path) -> bool:
    try:
        return re.match(glob_translate(pattern), str(path)) is not None
    except ValueError:  # no pattern, which the scan says better
        return False


def _spec(
    config: PredictConfig, model: ScoringModel, columns: Mapping[str, str], rows: Input, output: Path
) -> ScorerSpec:
    return ScorerSpec(
        engine=EngineSpec(
            source=model.source,
            decode=DecodeConfig.model_validate(model.decode) if model.decode else None,
            precision=config.precision,
            batch_tokens=config.batch_tokens,
            origin=model.origin,
            labels=model.labels,
            engine=config.engine,
            dtype=config.engine_dtype,
        ),
        input=rows,
        task=model.task,
        is_rendered=model.is_rendered,
        columns=columns,
        output=output,
        part_format=config.format,
        extras=_extras(config, model),
        refuse_long=config.on_long == "error",
        keep_good_rows=config.retry_errors,
    )


def _check_engine(config: PredictConfig, model: ScoringModel) -> None:
    """Refuse an engine that is not there, or cannot do what is asked for."""
    if config.engine == "torch":
        return
    from t5ray.model.ctranslate import is_installed, unfit

    if not is_installed():
        raise ConfigError("engine: ctranslate2 must be installed, but is not: pip install 't5ray[ctranslate2]'.")
    if reason := unfit(DecodeConfig.model_validate(model.decode), model.labels):
        raise ConfigError(f"{config.model}: {reason}")


def _extras(config: PredictConfig, model: ScoringModel) -> Extras:
    """Return the columns that are asked for.

    Raises:
        ConfigError: scores of all labels are, of a task that has none.
    """
    if config.all_scores and not model.labels:
        raise ConfigError(
            f"all_scores: needs a task with closed labels, but {model.task.name} with {config.model} generates text. "
            "Leave --all-scores out; --scores gives the probability of each text."
        )
    return Extras(config.scores, config.all_scores, model.gives_texts)


def open_model(config: PredictConfig, *, task: TaskConfig | None = None) -> ScoringModel:
    """Find the model and its task.

    Args:
        task: one whose input column holds the encoder's text to the letter, in place of the model's own.
    Raises:
        ConfigError: neither the model nor the settings say what the task is, or both do.
        ModelError: the model is missing or broken.
        ClusterError, TrackingError: what holds it cannot be reached.
    """
    from t5ray.model.card import fingerprint, read_card

    source, origin = _locate(config)
    card = read_card(source)
    decode = _decode(config.decode, card.decode if card else None)
    known = task or _task(config, card.task if card else None)
    labels = (decode.answers if decode else ()) or (known.labels if known.closed_labels else ())
    return ScoringModel(
        source=source,
        fingerprint=fingerprint(source),
        task=known,
        labels=labels,
        temperature=card.temperature_of(labels) if card else 1.0,
        decode=decode.model_dump(mode="json") if decode else {},
        split_seed=card.seeds.get("split", 0) if card else 0,
        columns=card.columns if card else {},
        origin=origin,
        is_rendered=task is not None,
    )


def _decode(asked: DecodeConfig | None, own: DecodeConfig | None) -> DecodeConfig | None:
    """Put the settings that are asked for upon those of the bundle."""
    if asked is None or own is None:
        return asked or own
    return own.model_copy(update=asked.model_dump(exclude_unset=True))


def _locate(config: PredictConfig) -> tuple[str, str]:
    """Return the model's directory on this machine, or its hub id, and the URI that it was fetched from, if any."""
    if config.model.startswith(REGISTRY_SCHEMES):
        return str(fetch_registered(config.model, config.tracking_uri)), ""
    if is_uri(config.model):
        return str(fetch_uri(config.model)), config.model
    folder = local_path(config.model)
    require_model(str(folder))
    return (str(folder.absolute()) if folder.is_dir() else config.model), ""  # workers run in other directories


def _task(config: PredictConfig, own: TaskConfig | None) -> TaskConfig:
    given = [name for name in ("task", *LANGUAGES) if getattr(config, name) is not None]
    if own is not None and given:
        raise ConfigError(
            f"{given[0]}: {config.model} is a bundle and brings its own task ({own.name}). "
            f"Leave --{_flag(given[0])} out."
        )
    if own is not None:
        return own
    if config.task is None:
        raise ConfigError(
            f"task: {config.model} is no bundle, so --task must say how rows become inputs: classify, summarize, "
            "answer, translate or a YAML file. If it is meant to be a bundle, check the path."
        )
    return resolve_task(config.task, source_language=config.source_language, target_language=config.target_language)


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _check_columns(columns: Mapping[str, str], task: TaskConfig) -> None:
    """Refuse a rename of a column that the task does not have."""
    known = {*task.input_columns, *task.target_columns, *LANGUAGES}
    problems = [
        f"--column {name}={column}: task {task.name} has no column `{name}`. {did_you_mean(name, known)}"
        for name, column in columns.items()
        if name not in known
    ]
    if problems:
        raise ConfigError(problems)


def _check_input(
    config: PredictConfig, task: TaskConfig, columns: Mapping[str, str], rows: Input, extras: Extras
) -> None:
    """Refuse an input without the task's columns, or with columns that the output adds."""
    problems = []
    for name in task.input_columns:
        column = columns.get(name, name)
        if column not in rows.schema.names:
            problems.append(
                f"{config.input}: task {task.name} needs column `{column}`, but no row has it. "
                f"{did_you_mean(column, rows.schema.names)} Say which column it is with --column {name}=NAME."
            )
    for name in result_columns(extras):
        if name in rows.schema.names:
            problems.append(
                f"{config.input}: the output adds the column `{name}`, but the input has one of that name. "
                "Rename it there."
            )
    if problems:
        raise DataError("\n".join(problems))


def _fingerprint(config: PredictConfig, model: ScoringModel) -> dict[str, Any]:
    """Return what decides the output, but for the input's content."""
    return {
        "model": model.fingerprint,
        "task": model.task.model_dump(mode="json"),
        "decode": model.decode,
        "engine": config.engine,
        "engine_dtype": config.engine_dtype,
        "precision": config.precision,
        "columns": dict(config.columns),
        "scores": config.scores,
        "all_scores": config.all_scores,
        "on_long": config.on_long,
        "format": config.format,
        "shard_rows": config.shard_rows,
    }


def _is_done(earlier: Mapping[str, Any], wanted: Mapping[str, Any], config: PredictConfig) -> bool:
    """Say whether there is nothing to do, without reading the input's content."""
    if earlier["state"] != "done" or (config.retry_errors and earlier["rows_with_error"]):
        return False
    if sum(1 for _ in local_path(config.output).glob("part-*")) != earlier["num_shards"]:
        return False
    if {name: value for name, value in earlier["fingerprint"].items() if name != "input"} != wanted:
        return False
    if is_hub(config.input):
        return bool(earlier["config"]["input"] == config.input)  # its copy is gone, and the hub is not asked again
    return list(earlier["stamps"]) == [[source.name, stamp_of(source)] for source in list_sources(config.input)]


def _refuse_other_job(earlier: Mapping[str, Any] | None, wanted: Mapping[str, Any], config: PredictConfig) -> None:
    """Raise where the folder belongs to a job that another fingerprint started.

    `on_long` may change with --retry-errors: it decides over rows with errors only.
    """
    if earlier is None:
        return
    free = {"on_long"} if config.retry_errors else set()
    found = earlier["fingerprint"]
    different = [name for name in wanted if name not in free and found.get(name) != wanted[name]]
    if different:
        raise ConfigError(
            f"{config.output}: holds the results of another job, which differs in "
            f"{'; '.join(_difference(name, found.get(name), wanted[name]) for name in different)}. "
            "Choose another --output, or remove this one."
        )


def _difference(name: str, there: Any, here: Any) -> str:
    if name == "model":
        return f"model (weights, tokenizer or card: {str(there)[:12]} there, {str(here)[:12]} here)"
    if name == "input":
        old, new = dict(there or ()), dict(here)
        files = [file for file in {**old, **new} if old.get(file) != new.get(file)]
        return f"input (content of {', '.join(files[:3])}{' and more' if len(files) > 3 else ''})"
    if isinstance(there, dict) and isinstance(here, dict):
        keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        return ", ".join(f"{name}.{key} ({there.get(key)!r} there, {here.get(key)!r} here)" for key in keys)
    return f"{name} ({there!r} there, {here!r} here)"
