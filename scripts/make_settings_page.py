"""Write the page of all settings: name, values, default and meaning of each.

    python scripts/make_settings_page.py [FILE]        default: docs/settings.md

Comes in: the settings models. Goes out: one Markdown table for each group of settings of each command; two runs give
equal bytes, and a test holds the page in the repository to them.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import typer

from t5ray import evaluate, options, predict, train, tune
from t5ray.config import (
    AugmentationConfig,
    EvaluateConfig,
    PredictConfig,
    Range,
    RunConfig,
    SamplerConfig,
    SchedulerConfig,
    Settings,
    TaskConfig,
    TrainingConfig,
)
from t5ray.config.training import PRESETS

INTRODUCTION = """# All settings

Give a setting by its whole name, `--set training.learning_rate=1e-4`, or in a file for `--config`:

```yaml
training:
  learning_rate: 1e-4
```

A flag wins over the file, `--set` over both. Settings without a flag are given in the other two ways.
`null` is what the descriptions call None. A search space may vary the settings marked ✓.
This page is written by `python scripts/make_settings_page.py`.

Chapters: [train and tune](#train-and-tune) · [presets](#presets) · [predict](#predict) · [evaluate](#evaluate) ·
[a task of one's own](#a-task-of-ones-own) · [search spaces: ranges](#search-spaces-ranges),
[samplers](#search-spaces-samplers), [schedulers](#search-spaces-schedulers)
"""


class Chapter(NamedTuple):
    """Settings of one model."""

    heading: str
    words: str
    """Under the heading."""
    model: type[Settings]
    commands: tuple[ModuleType, ...] = ()
    """Whose flags give the settings."""
    setting_of: Mapping[str, str] = {}
    """Parameter of a flag -> its setting, where that has another name."""


RANGES = """The `parameters` of a search-space file: settings marked ✓ above, each with one range, or with a list of
ranges that hold under conditions (`when`). [search_spaces](../search_spaces) has examples. Beside `parameters`,
`sampler` and `scheduler` a file may hold

```yaml
start_from:                              # points to run right after the default settings
  - {learning_rate: 1.0e-3, batch_size: 16}
```"""
PRESET_WORDS = "What `training.preset` sets where nothing else is given; of `none`, the defaults above."
CHAPTERS = (
    Chapter("train and tune", "", RunConfig, (tune, train), options.SETTING_OF),
    Chapter(
        "predict",
        "Any of `decode.…` above may be given here as well; the others are as the bundle says, or a plain model's "
        "`generation_config.json`.",
        PredictConfig,
        (predict,),
    ),
    Chapter("evaluate", "`decode.…` as for predict, `tracking.…` as above.", EvaluateConfig, (evaluate,)),
    Chapter("A task of one's own", "In a YAML file for `--task`; such settings have no prefix.", TaskConfig),
    Chapter("Search spaces: ranges", RANGES, Range),
    Chapter(
        "Search spaces: samplers",
        "The `sampler` of a search-space file. Before a colon: the samplers that know the setting.",
        SamplerConfig,
    ),
    Chapter(
        "Search spaces: schedulers",
        "The `scheduler` of a search-space file: which trials are stopped early.",
        SchedulerConfig,
    ),
)
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true, false",
    "null": "null",
    "array": "list",
    "object": "name: value",
}
"""Words of JSON Schema -> words of the page."""


Schema = dict[str, Any]


def page() -> str:
    """Return the page."""
    told: set[str] = set()
    chapters = [[*_chapter(chapter, told)] for chapter in CHAPTERS]
    chapters.insert(1, [*_presets()])
    return INTRODUCTION + "".join(line for chapter in chapters for line in chapter)


def _chapter(chapter: Chapter, told: set[str]) -> Iterator[str]:
    yield f"\n## {chapter.heading}\n" + (f"\n{chapter.words}\n" if chapter.words else "")
    schema, name = chapter.model.model_json_schema(), chapter.model.__name__
    yield from _tables("", name, {**schema.get("$defs", {}), name: schema}, _flags(chapter), told)


def _presets() -> Iterator[str]:
    """Give what each preset sets."""
    presets = {name: values for name, values in PRESETS.items() if values}
    yield f"\n## Presets\n\n{PRESET_WORDS}\n\n| setting | {' | '.join(f'`{name}`' for name in presets)} |\n"
    yield "|---" * (1 + len(presets)) + "|\n"
    for setting in dict.fromkeys(setting for values in presets.values() for setting in values):
        yield f"| `training.{setting}` | {' | '.join(_shown(values[setting]) for values in presets.values())} |\n"


def _flags(chapter: Chapter) -> dict[str, str]:
    """Return setting -> the flag that gives it."""
    found: dict[str, str] = {}
    for module in chapter.commands:
        app = typer.Typer()
        app.command()(module.command)
        for option in typer.main.get_command(app).params:
            found.setdefault(chapter.setting_of.get(str(option.name), str(option.name)), option.opts[0])
    if "seed" in found and chapter.setting_of:
        found |= dict.fromkeys(options.SEEDS, found["seed"])
    return found


def _tables(prefix: str, name: str, groups: dict[str, Schema], flags: dict[str, str], told: set[str]) -> Iterator[str]:
    """Give the settings of a group, then those of the groups in it that the page has not given yet."""
    listed: dict[str, Schema] = groups[name]["properties"]
    properties = dict(sorted(listed.items(), key=lambda item: item[0] in AugmentationConfig.model_fields))  # these last
    inner = {setting: group for setting, schema in properties.items() if (group := _group(schema)) is not None}
    own = [setting for setting in properties if setting not in inner]
    has_flags = any(f"{prefix}{setting}" in flags for setting in own)
    heads = ("setting", *["flag"] * has_flags, "values", "default", "meaning")
    yield f"\n### {prefix.removesuffix('.')}\n" if prefix else ""
    yield f"\n| {' | '.join(heads)} |\n{'|---' * len(heads)}|\n"
    for setting in own:
        schema, flag = properties[setting], flags.get(f"{prefix}{setting}")
        mark = " ✓" if name == TrainingConfig.__name__ and setting in TrainingConfig.searchable() else ""
        default = "must be given" if setting in groups[name].get("required", ()) else _shown(schema.get("default", {}))
        meaning = " ".join(schema["description"].split())
        flag_cell = [f"`{flag}`" if flag else ""] * has_flags
        cells = (f"`{prefix}{setting}`{mark}", *flag_cell, _values(schema), default, meaning)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
    for setting, group in inner.items():
        if f"{prefix}{setting}" not in told:
            told.add(f"{prefix}{setting}")
            yield from _tables(f"{prefix}{setting}.", group, groups, flags, told)


def _kinds(schema: Schema) -> list[Schema]:
    """Return the schemas that a value may meet, one of them."""
    return [kind for inner in schema["anyOf"] for kind in _kinds(inner)] if "anyOf" in schema else [schema]


def _group(schema: Schema) -> str | None:
    """Return the name of the group of settings that a setting is; None: it is a value."""
    return next((str(kind["$ref"]).rpartition("/")[2] for kind in _kinds(schema) if "$ref" in kind), None)


def _values(schema: Schema) -> str:
    """Say what a setting may be."""
    return ", or ".join(dict.fromkeys(map(_kind, _kinds(schema))))


def _kind(schema: Schema) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(map(_shown, schema.get("enum", [schema.get("const")])))
    if "items" in schema:
        return f"list of: {_values(schema['items'])}"
    if "prefixItems" in schema:
        return f"[{', '.join(map(_values, schema['prefixItems']))}]"
    bounds = [f"{words} {schema[bound]:,}" for bound, words in BOUNDS.items() if bound in schema]
    return " ".join([TYPES[schema["type"]], *[" and ".join(bounds)][: len(bounds)]])


def _shown(value: object) -> str:
    """Return a value as YAML has it, in code."""
    return f"`{json.dumps(value, ensure_ascii=False)}`" if not isinstance(value, str) else f"`{value}`"


def main(path: Path) -> None:
    """Write the page."""
    path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs" / "settings.md")
