"""What must not change between the sessions of a run or search, and which of them can be gone on with.

Comes in: settings, and what earlier sessions left in the storage. Goes out: nothing, or what differs, with both values.
Light enough to be asked before torch or ray is imported.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from t5ray.config import DecodeConfig, RunConfig, SearchSpace, load_space
from t5ray.errors import ConfigError
from t5ray.redaction import hide_secrets
from t5ray.storage import is_uri, local_path
from t5ray.text.objectives import choose_objective
from t5ray.text.tasks import resolve_task
from t5ray.tracking.uri import NO_TRACKING

LOCAL_STORAGE = "t5ray_runs"
"""Where a command works when the storage is a URI."""
SEARCH_BOOK, RUN_BOOK = "state/ledger.json", "state/run.json"
"""Where a search, and a single run, keep what they began with, in their folder."""
SAVED_LEDGER = "saved/ledger.json"
"""A search's book at a storage URI."""
SEARCH_FILES, RUN_FILES = (SEARCH_BOOK, SAVED_LEDGER, "search.json"), (RUN_BOOK, "train.json")
"""What tells the folder of a search, and of a single run, whether it has ended or not."""
LEFT_TO_PRESETS = "settings that were not given and are left to the preset"
"""What decides, beside their values, which settings the trials of a search over presets have."""
GROUPS = {
    "model files": "commit of the model, or digest of its files",
    "lengths": "data",
    "training settings": "training",
    "decode settings": "decode",
    "back translation": "back_translation",
    "search space": "search space",
    "search seed": "search.seed",
    "experiment": "tracking.experiment",
}
"""Part of an identity -> what its settings are called."""


def folder_of(storage: str) -> Path:
    """Return the folder here that holds the runs of a storage."""
    return Path(LOCAL_STORAGE) if is_uri(storage) else local_path(storage)


def identity_of(config: RunConfig, objective: str, decode: DecodeConfig) -> dict[str, str]:
    """Return what settings say of a run that must not change between its sessions, by name.

    Args:
        objective: what it is judged by, and whether more is better.
        decode: with `max_new_tokens` set.
    """
    return {
        "objective": objective,
        "model": hide_secrets(str(config.model)),
        "training settings": config.training.model_dump_json(),
        "decode settings": decode.model_dump_json(),
        "back translation": hide_secrets(config.back_translation.model_dump_json()),
    }


def search_identity(space: SearchSpace, config: RunConfig) -> dict[str, str]:
    """Return what must not change besides between the sessions of a search."""
    found = {"search space": space.model_dump_json(), "search seed": str(config.search.seed)}
    if "preset" in space.parameters:
        left = config.training.left_to_presets
        found[LEFT_TO_PRESETS] = ", ".join(left) or "none"
    return found | _experiment(config)


def _experiment(config: RunConfig) -> dict[str, str]:
    """Return the MLflow experiment that all runs of a search belong to, as its study's run does."""
    return {} if config.tracking.uri == NO_TRACKING else {"experiment": config.tracking.experiment}


def require_same(before: Mapping[str, str], now: Mapping[str, str], place: Path | str) -> None:
    """Refuse to go on with a run that began otherwise.

    Args:
        now: the identity, or as much of it as is known already.
    Raises:
        ConfigError: names each setting that differs, with both values.
    """
    if differ := _differing(before, now):
        raise ConfigError(
            f"{place}: a run must go on with what it began with, but these differ: {'; '.join(differ)}. "
            "Give the same settings, or begin a new run with another --name."
        )


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [one for name in now if name in before for one in _differences(name, before[name], now[name])]


def require_same_settings(config: RunConfig, book: str, *, extends: bool = False) -> None:
    """Refuse, before data are read, to go on with other settings; what only the data tell is left to `require_same`.

    What has ended trains no more: of its settings only the experiment counts, for what was not sent yet.

    Args:
        book: `SEARCH_BOOK` or `RUN_BOOK`.
        extends: a finished search is to go on as well.
    """
    saved = _read(folder_of(config.storage) / str(config.name) / book)
    before = saved.get("identity")
    if not before:
        return
    place = f"{config.storage.rstrip('/')}/{config.name}"
    if saved.get("finished") and not extends:
        require_same(before, _experiment(config), place)
        return
    require_same(before, _settings_identity(config, book, before), place)


def not_applied(config: RunConfig, before: Mapping[str, str]) -> list[str]:
    """Return what to tell of settings that differ from those of a search that has ended."""
    differ = _differing(before, _settings_identity(config, SEARCH_BOOK, before)) if before else []
    return [f"Not applied, as nothing is trained: {'; '.join(differ)}."] if differ else []


def _settings_identity(config: RunConfig, book: str, before: Mapping[str, str]) -> dict[str, str]:
    """Return what settings alone say of a run that must not change between its sessions."""
    task = resolve_task(
        str(config.task), source_language=config.source_language, target_language=config.target_language
    )
    objective = "{} ({})".format(*choose_objective(config.search.metric, task))
    now = identity_of(config, objective, _with_cap(config.decode, before.get("decode settings", "{}")))
    if book == SEARCH_BOOK:
        now |= search_identity(load_space(config.search.space), config)
    return now


def require_demo(config: RunConfig, book: str, flag: str) -> None:
    """Refuse to go on with a run on other data as if it were the embedded demo, which is meant where none is named.

    Args:
        flag: --resume or --extend.
    Raises:
        ConfigError: says how to name them.
    """
    folder = folder_of(config.storage) / str(config.name)
    model = _read(folder / book).get("identity", {}).get("model")
    if model is not None and Path(model).parts[-2:] != Path(str(config.model)).parts[-2:]:
        raise ConfigError(
            f"{folder}: {flag} must stand beside the flags that it began with, but --data, --task and --model are "
            f"missing, and the model was {model}. Give its first command again with {flag}, or "
            f"--config {folder}/config.yaml."
        )


def unnamed_problems(flag: str, storage: str, book: str) -> list[str]:
    """Say that what is to go on must be named, and what there is.

    Args:
        flag: --resume, or --extend, which takes finished searches, too.
        storage: as the settings name it; of a URI the runs that were made from here are known.
    """
    names = _names(folder_of(storage), book, flag)
    there = f"{storage} has {', '.join(names)}" if names else f"there is none in {folder_of(storage)}"
    return [f"{flag}: must stand beside --name, which says what is to go on: {there}."]


def others(folder: Path, book: str, flag: str) -> str:
    """Return the clause of a message that says what a folder of runs has to go on with; empty where it has nothing.

    Example:
        ", while runs has first, second"
    """
    names = _names(folder, book, flag)
    return f", while {folder} has {', '.join(names)}" if names else ""


def _names(folder: Path, book: str, flag: str) -> list[str]:
    """Return the names of the runs in a folder that --resume, or --extend, takes."""
    books = {path: _read(path) for path in folder.glob(f"*/{book}")}
    return sorted(
        path.relative_to(folder).parts[0]
        for path, saved in books.items()
        if saved and (flag == "--extend" or not saved.get("finished"))
    )


def _read(path: Path) -> dict[str, Any]:
    """Return a saved book; nothing where there is none here, or a broken one, which its owner tells."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return saved if isinstance(saved, dict) else {}


def _with_cap(decode: DecodeConfig, before: str) -> DecodeConfig:
    """Take the output cap, which the data gave where the settings do not, from an earlier session."""
    if decode.max_new_tokens is not None:
        return decode
    return decode.model_copy(update={"max_new_tokens": json.loads(before).get("max_new_tokens")})


def _differences(name: str, before: str, now: str) -> Iterator[str]:
    """Yield what differs in one part of an identity, setting by setting where it holds several.

    Example:
        "training settings" -> "training.learning_rate: was 0.001, now 0.002"
    """
    if name == "data":
        yield from ["data: the rows or their splits are others"] if before != now else []
        return
    group = GROUPS.get(name, name)
    old, new = dict(_leaves(group, _value(before))), dict(_leaves(group, _value(now)))
    for setting in {**new, **old}:
        if old.get(setting) != new.get(setting):
            yield f"{setting}: was {_shown(old.get(setting))}, now {_shown(new.get(setting))}"


def _value(text: str) -> Any:
    return json.loads(text) if text.startswith("{") else text


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield name, value
        return
    for inner, part in value.items():
        yield from _leaves(f"{name}.{inner}", part)


def _shown(value: Any) -> str:
    """Return a value as a settings file would hold it; of ranges only what is given."""
    if value is None:
        return "not set"
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        value = [{key: given for key, given in part.items() if given not in (None, {})} for part in value]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
