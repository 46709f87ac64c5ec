"""What makes two scoring jobs the same: the same fingerprint goes on in its folder, another one is refused.

Comes in: settings, and what `_job.json` says of an earlier run. Goes out: a fingerprint, or what differs by name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t5ray.config import LANGUAGES, DecodeConfig, PredictConfig
from t5ray.config.decode import DEFAULT_NEW_TOKENS
from t5ray.data.hub import PREFIX
from t5ray.errors import ConfigError
from t5ray.scoring.hub_copy import is_hub
from t5ray.scoring.inputs import are_as_stamped, list_sources
from t5ray.scoring.opening import ScoringModel
from t5ray.storage import local_path


def job_fingerprint(config: PredictConfig, model: ScoringModel) -> dict[str, Any]:
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


def is_done(earlier: Mapping[str, Any], wanted: Mapping[str, Any], config: PredictConfig) -> bool:
    """Say whether there is nothing to do, without reading the input's content."""
    if earlier["state"] != "done":
        return False
    if config.retry_errors and earlier["rows_with_error"] > earlier.get("rows_unusable", 0):
        return False
    if sum(1 for _ in local_path(config.output).glob("part-*")) != earlier["num_shards"]:
        return False
    found, free = _fingerprint_of(earlier), {"input", *_free(config)}
    if any(found.get(name) != wanted.get(name) for name in {*found, *wanted} - free):
        return False
    if is_hub(config.input):
        if Path(config.input.removeprefix(PREFIX).partition(":")[0]).is_dir():
            return False  # no dataset of the hub, but a folder, which may hold other rows by now
        return bool(earlier["config"]["input"] == config.input)  # its copy is gone, and the hub is not asked again
    return are_as_stamped(earlier["stamps"], list_sources(config.input).sources)


def refuse_other_job(earlier: Mapping[str, Any] | None, wanted: Mapping[str, Any], config: PredictConfig) -> None:
    """Raise where the folder belongs to a job that another fingerprint started.

    With --retry-errors `on_long` may become `truncate`, which decides over rows with errors only. Rows that were cut
    have none, so it may not become `error`.

    Raises:
        ConfigError: it does; what differs is named.
    """
    if earlier is None:
        return
    free = _free(config)
    found, asked = _fingerprint_of(earlier), _asked_for(config, earlier.get("config", {}))
    different = [name for name in wanted if name not in free and found.get(name) != wanted[name]]
    if "model" in different:  # whose card says the rest
        different = [name for name in different if asked.get(name) != set()]
    if different:
        told = (_difference(name, found.get(name), wanted[name], asked.get(name, set())) for name in different)
        unread = "" if "input" in wanted else " The input was not compared."
        raise ConfigError(
            f"{config.output}: holds the results of another job, which differs in {'; '.join(told)}.{unread} "
            "Choose another --output, or remove this one."
        )


def _free(config: PredictConfig) -> set[str]:
    """Return what of a fingerprint may differ all the same."""
    return {"on_long"} if config.retry_errors and config.on_long == "truncate" else set()


def _fingerprint_of(earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decided the output of an earlier run; older records lack a plain model's defaults."""
    found, default = earlier["fingerprint"], DecodeConfig(max_new_tokens=DEFAULT_NEW_TOKENS)
    return {**found, "decode": {**default.model_dump(mode="json"), **found.get("decode", {})}}


def _asked_for(config: PredictConfig, earlier: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return what commands themselves set of the groups that else are the model's own."""
    here = config.decode.model_fields_set if config.decode else set()
    default = DecodeConfig().model_dump(mode="json")
    there = {name for name, value in (earlier.get("decode") or {}).items() if value != default.get(name)}
    task = {name for name in ("task", *LANGUAGES) if getattr(config, name)}  # a bundle's is no choice of the user
    return {"decode": {*here, *there}, "task": task}


def _difference(name: str, there: Any, here: Any, asked: set[str]) -> str:
    """Say what differs; of settings in groups those that were asked for, where any of these do."""
    if name == "model":
        return f"model (weights, tokenizer or card: {str(there)[:12]} there, {str(here)[:12]} here)"
    if name == "input":
        old, new = dict(there or ()), dict(here)
        files = [file for file in {**old, **new} if old.get(file) != new.get(file)]
        return f"input (content of {', '.join(files[:3])}{' and more' if len(files) > 3 else ''})"
    if isinstance(there, dict) and isinstance(here, dict):
        keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        keys = [key for key in keys if key in asked] or keys
        return ", ".join(f"{name}.{key} ({there.get(key)!r} there, {here.get(key)!r} here)" for key in keys)
    return f"{name} ({there!r} there, {here!r} here)"
