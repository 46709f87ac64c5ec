"""Reads settings: default < YAML < flag < `--set section.key=value`. The only module that knows YAML.

Every problem of every source is found before the first is reported.
"""

import copy
import os.path
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from t5ray.config.base import Settings
from t5ray.config.explain import explain, in_file
from t5ray.config.origins import Origins
from t5ray.config.space import SearchSpace
from t5ray.config.task import TaskConfig
from t5ray.config.training import TrainingConfig
from t5ray.errors import ConfigError, did_you_mean, nearest, one_line

MAX_YAML_BYTES = 1_000_000
S = TypeVar("S", bound=Settings)


class _Loader(yaml.SafeLoader):
    """YAML without tags or aliases, that reads `1e-3` as a number and refuses a key given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (`*name`) are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a name must be one word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"`{key.value}` is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """YAML that `_Loader` reads back: without aliases, and with quotes around a text such as `1e-3`."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text safely.

    Raises:
        ConfigError: the text is larger than 1 MB, is no YAML, or uses tags or aliases.
    """
    if len(text) > MAX_YAML_BYTES:
        raise ConfigError(f"{where}: a settings file must hold at most {MAX_YAML_BYTES} characters, but holds more.")
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        reason = one_line(exc).replace('in "<unicode string>", ', "at ")
        raise ConfigError(f"{where}: must be plain YAML, but could not be read: {reason}") from exc


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read one YAML file that holds a mapping."""
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_YAML_BYTES + 1)
    except FileNotFoundError as exc:
        near = nearest(path.name, [other.name for other in path.parent.glob("*.y*ml") if other.is_file()])
        hint = f"Did you mean {path.parent / near}?" if near else "Check the path."
        raise ConfigError(f"{path}: the file must exist, but does not. {hint}") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: the file must exist and hold UTF-8 text, but reading it failed: {exc}.") from exc
    value = parse_yaml(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must hold `name: value` lines, but holds a {type(value).__name__}.")
    return value


def dump_yaml(settings: Settings) -> str:
    """Return settings as YAML that `--config` reads back.

    What was left to presets is shown in comments: read back as given, it would win over the preset of a trial.
    """
    values = settings.model_dump(mode="json", by_alias=True)
    texts = {name: _dump({name: value}) for name, value in values.items()}
    if isinstance(training := getattr(settings, "training", None), TrainingConfig):
        names = "|".join(training.left_to_presets)
        texts["training"] = re.sub(rf"(?m)^  ({names}):", r"  # \1:", texts["training"])
    return "".join(texts.values())


def _dump(value: Mapping[str, Any]) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def load_settings(
    model: type[S],
    *,
    config: str | Path | None,
    flags: Mapping[str, Any],
    flag_names: Mapping[str, str] | None = None,
    sets: Iterable[str] = (),
    base: Mapping[str, Any] | None = None,
    checks: Sequence[Callable[[Mapping[str, Any]], list[str]]] = (),
) -> S:
    """Merge the sources and validate them.

    Args:
        config: a YAML file, or None.
        flags: dotted setting (`training.learning_rate`) -> value; None values are flags not given.
        flag_names: dotted setting -> the flag as it is typed, by which its problems name it.
        sets: `section.key=value` texts, values in YAML.
        base: dotted setting -> value that takes the place of the default.
        checks: further looks at the merged settings, valid or not: what is wrong with the files that they name. Each
            problem begins with the setting.
    Raises:
        ConfigError: holds every problem of the merged settings, each under the source that gave the setting.
    """
    problems: list[str] = []
    merged: dict[str, Any] = {}
    origins = Origins()
    is_whole = True
    for name, value in (base or {}).items():
        _put(merged, name, copy.deepcopy(value))
    if config is not None:
        try:
            given = read_yaml(config)
            _merge(merged, given)
            origins.note_file(given, config)
        except ConfigError as exc:
            problems += exc.problems
            is_whole = False
    for name, value in flags.items():
        if value is not None:
            _put(merged, name, value)
            origins.note_flag(name, (flag_names or {}).get(name, name))
    for item in sets:
        try:
            name, value = _set(item)
        except ConfigError as exc:
            problems += exc.problems
            continue
        _put(merged, name, value)
        origins.note_set(name, value)
    try:
        settings = model.model_validate(merged)
    except ValidationError as exc:
        problems += explain(model, exc, origins.place_of, is_whole=is_whole)
    problems += (origins.attributed(problem) for check in checks for problem in check(merged))
    if problems:
        raise ConfigError(problems)
    return settings


def _set(item: str) -> tuple[str, Any]:
    """Read `section.key=value`."""
    name, equals, text = item.partition("=")
    name = name.strip()
    if not (name and equals):
        raise ConfigError(f"--set: must be section.key=value, but got {item!r}.")
    return name, parse_yaml(text, f"--set {name}")


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Put a nested mapping over another, group by group."""
    for name, value in other.items():
        if isinstance(value, dict) and isinstance(tree.get(name), dict):
            _merge(tree[name], value)
        else:
            tree[name] = value


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set tree["a"]["b"] for `a.b`; a mapping value is merged into one that is there."""
    *groups, leaf = dotted.split(".")
    for group in groups:
        inner = tree.get(group)
        tree[group] = inner = inner if isinstance(inner, dict) else {}
        tree = inner
    if isinstance(value, dict) and isinstance(tree.get(leaf), dict):
        value = {**tree[leaf], **value}
    tree[leaf] = value


def _load_file(model: type[S], path: str | Path) -> S:
    try:
        return model.model_validate(read_yaml(path))
    except ValidationError as exc:
        raise ConfigError(explain(model, exc, in_file(path))) from exc


def load_task_file(path: str | Path) -> TaskConfig:
    """Read a task YAML."""
    return _load_file(TaskConfig, path)


def shipped_spaces() -> dict[str, Path]:
    """Return the search spaces that come with t5ray: name -> file."""
    package = Path(str(resources.files("t5ray")))
    folder = package / "search_spaces"  # inside the wheel; a checkout has them beside the package
    if not folder.is_dir():
        folder = package.parent / "search_spaces"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_space(name_or_path: str) -> SearchSpace:
    """Read a search space by path, or by the name of a shipped one.

    Raises:
        ConfigError: there is no such file or name, or its content is wrong.
    """
    shipped = shipped_spaces()
    if Path(name_or_path).suffix in (".yaml", ".yml") or os.path.isfile(name_or_path):
        return _load_file(SearchSpace, name_or_path)
    if name_or_path in shipped:
        return _load_file(SearchSpace, shipped[name_or_path])
    raise ConfigError(
        f"search.space: must be a YAML file or a shipped space, but got {name_or_path!r}. "
        f"{did_you_mean(name_or_path, shipped)}"
    )
