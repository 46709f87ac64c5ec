"""Settings -> a job: everything that can be wrong is found here, before Ray starts.

A job is known by its fingerprint: model, task, decode settings, precision, input by content, format. What precision
`auto` is, of a new job, is settled when it starts and the cluster is known. The same fingerprint in the same folder
goes on; another one is refused, and told apart by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t5ray.config import LANGUAGES, DecodeConfig, EvaluateConfig, PredictConfig, TaskConfig
from t5ray.data.rows import missing_column
from t5ray.data.sources import printable
from t5ray.errors import ConfigError, DataError, did_you_mean
from t5ray.model.hardware import auto_precision
from t5ray.scoring.engines import EngineSpec
from t5ray.scoring.hub_copy import copied, is_hub
from t5ray.scoring.inputs import Input, Shard, list_sources, recall, remembered
from t5ray.scoring.ledger import JOB_FILE, Entry, JobSummary, Ledger, read_job
from t5ray.scoring.opening import ScoringModel, open_model
from t5ray.scoring.overlap import would_be_read
from t5ray.scoring.predicting import Texts
from t5ray.scoring.sameness import is_done, job_fingerprint, refuse_other_job
from t5ray.scoring.scanning import scan
from t5ray.scoring.scorer import ScorerSpec
from t5ray.scoring.writing import Extras, result_columns
from t5ray.storage import is_uri, local_path
from t5ray.text.tasks import settle_columns


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
    notes: tuple[str, ...] = ()
    """What a user should know of the input though it stops nothing: files that are not read."""


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
        DataError: the input is unusable as a whole or has no name that can be kept, or the output cannot be written.
        ModelError: the model is missing or broken.
    """
    require_utf8(config)
    output = output_folder(config.output).absolute()
    _refuse_output_in_input(config, output)
    model = model or open_model(config)
    _check_columns(config.columns, model.task)
    extras = _extras(config, model)
    _check_engine(config, model)
    earlier = read_job(output)
    config = _as_before(config, earlier)
    wanted = job_fingerprint(config, model)
    if earlier is None:
        _require_free(output)
    if earlier and is_done(earlier, wanted, config):
        return FinishedJob(JobSummary.read(earlier))
    refuse_other_job(earlier, wanted, config)
    rows, notes = _read_input(config, output)
    columns = settle_columns(config.columns, model.columns, rows.schema.names)
    _check_input(config, model.task, columns, rows, extras)
    wanted["input"] = rows.digests
    refuse_other_job(earlier, wanted, config)
    spec = _spec(config, model, columns, rows, output)
    spec.ledger.open()
    spec.ledger.remember_input(remembered(rows))
    finished = spec.ledger.finished() if earlier else {}
    hopeful = {index: entry for index, entry in finished.items() if entry.errors > entry.unusable}
    retried = hopeful if config.retry_errors else {}
    finished = {index: entry for index, entry in finished.items() if index not in retried}
    pending = tuple(
        replace(shard, attempts=retried[shard.index].num_attempts) if shard.index in retried else shard
        for shard in rows.shards
        if shard.index not in finished
    )
    seconds = spec.ledger.seconds_of_runs(earlier) if earlier else 0.0
    return Job(config, spec, wanted, finished, pending, seconds, notes)


def require_same_job(job: Job) -> None:
    """Look again, under the lock: another command may have taken the folder since the job was planned.

    Raises:
        ConfigError: it holds another job by now.
    """
    refuse_other_job(read_job(job.spec.output), job.fingerprint, job.config)


def settled(job: Job, gpus: float) -> Job:
    """Say which precision `auto` is: an earlier run's in the same folder, else what this machine is fast at.

    Were it left to the workers, unlike machines would give rows of unlike precision.

    Args:
        gpus: of each scorer; with none it is the CPU that is to be fast.
    """
    config = _as_before(job.config, read_job(job.spec.output))
    if config.precision == "auto" and config.engine == "torch":
        config = config.model_copy(update={"precision": auto_precision(gpus)})
    engine = replace(job.spec.engine, precision=config.precision)
    fingerprint = {**job.fingerprint, "precision": config.precision}
    return replace(job, config=config, spec=replace(job.spec, engine=engine), fingerprint=fingerprint)


def _as_before(config: PredictConfig, earlier: Mapping[str, Any] | None) -> PredictConfig:
    """Let precision `auto` be what an earlier run in the same folder settled it to."""
    found = earlier["fingerprint"].get("precision") if earlier else None
    if config.precision != "auto" or config.engine != "torch" or not found:
        return config
    return config.model_copy(update={"precision": found})


def _read_input(config: PredictConfig, output: Path) -> tuple[Input, tuple[str, ...]]:
    """Scan the input, unless an earlier run did and no file has changed since; also say what is not read of it."""
    path = str(copied(config.input, output)) if is_hub(config.input) else config.input
    sources, notes, links = list_sources(path)
    if any(output.resolve().is_relative_to(Path(link).resolve()) for link in links):
        raise _output_in_input(config)
    known = Ledger(output, config.format, 1).recall_input()
    if known is not None and known["shard_rows"] == config.shard_rows and (rows := recall(known, sources)):
        return rows, tuple(notes)
    return scan(path, config.shard_rows, sources), tuple(notes)


def require_utf8(config: PredictConfig | EvaluateConfig) -> None:
    """Refuse paths that are no UTF-8: neither Ray, which keeps the command line, nor `_job.json` could hold them.

    Raises:
        DataError: one is none.
    """
    for name, value in config:
        if isinstance(value, str) and (shown := printable(value)) != value:
            raise DataError(
                f"{name}: a path that is given must be UTF-8, but {shown} is not. Rename it; a file may also keep its "
                "name if its folder is given."
            )


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
    if would_be_read(config.input, output / f"part-00000.{config.format}"):
        raise _output_in_input(config)


def _output_in_input(config: PredictConfig) -> ConfigError:
    return ConfigError(
        f"output: must lie outside of the input, whose rows its parts would become, but {config.output} is in "
        f"{config.input}. Choose another --output."
    )


def _spec(
    config: PredictConfig, model: ScoringModel, columns: Mapping[str, str], rows: Input, output: Path
) -> ScorerSpec:
    return ScorerSpec(
        engine=EngineSpec(
            source=model.source,
            decode=DecodeConfig.model_validate(model.decode),
            precision=config.precision,
            batch_tokens=config.batch_tokens,
            origin=model.origin,
            commit=model.commit,
            labels=model.labels,
            engine=config.engine,
            dtype=config.engine_dtype,
        ),
        input=rows,
        texts=Texts(model.task, columns, refuse_long=config.on_long == "error", is_rendered=model.is_rendered),
        output=output,
        part_format=config.format,
        extras=_extras(config, model),
    )


def _check_engine(config: PredictConfig, model: ScoringModel) -> None:
    """Refuse an engine that is not there, or cannot do what is asked for."""
    if config.engine == "torch":
        return
    from t5ray.model.ctranslate import is_installed, unfit

    if not is_installed():
        raise ConfigError(
            "engine: ctranslate2 must be installed, but is not. In t5ray's repository: "
            "pip install -c constraints.txt '.[ctranslate2]'"
        )
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
    needed, seen = {name: columns.get(name, name) for name in task.input_columns}, set(rows.schema.names)
    problems = [
        missing_column(config.input, task, name, column, seen) for name, column in needed.items() if column not in seen
    ]
    for name in result_columns(extras):
        if name in seen:
            problems.append(
                f"{config.input}: the output adds the column `{name}`, but the input has one of that name. "
                "Rename it there."
            )
    if problems:
        raise DataError("\n".join(problems))
