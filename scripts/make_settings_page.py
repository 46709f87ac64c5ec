"""Write the page of all settings: name, values, default and meaning of each.

    python scripts/make_settings_page.py [FILE]        default: docs/settings.md

Comes in: the settings models. Goes out: one Markdown table for each group of settings of each command; two runs give
equal bytes, and a test holds the page in the repository to them.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t5ray.config import (
    AugmentationConfig,
    EvaluateConfig,
    PredictConfig,
    RunConfig,
    Settings,
    TaskConfig,
    TrainingConfig,
)

INTRODUCTION = """# All settings

Give a setting by its whole name, `--set training.learning_rate=1e-4`, or in a file for `--config`:

```yaml
training:
  learning_rate: 1e-4
```

A flag wins over the file, `--set` over both; `--help` of a command shows which settings have a flag of their own.
`null` is what the descriptions call None. A search space may vary the settings marked ✓.
This page is written by `python scripts/make_settings_page.py`.
"""
CHAPTERS: tuple[tuple[str, str, type[Settings]], ...] = (
    ("train and tune", "", RunConfig),
    ("predict", "Any of `decode.…` above may be given here as well; the others are as the bundle says.", PredictConfig),
    ("evaluate", "`decode.…` as for predict, `tracking.…` as above.", EvaluateConfig),
    ("A task of one's own", "In a YAML file for `--task`; such settings have no prefix.", TaskConfig),
)
"""Heading, words under it, and the settings."""
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
    chapters = (_chapter(heading, words, model, told) for heading, words, model in CHAPTERS)
    return INTRODUCTION + "".join(line for chapter in chapters for line in chapter)


def _chapter(heading: str, words: str, model: type[Settings], told: set[str]) -> Iterator[str]:
    yield f"\n## {heading}\n" + (f"\n{words}\n" if words else "")
    schema = model.model_json_schema()
    yield from _tables("", model.__name__, {**schema.get("$defs", {}), model.__name__: schema}, told)


def _tables(prefix: str, name: str, groups: dict[str, Schema], told: set[str]) -> Iterator[str]:
    """Give the settings of a group, then those of the groups in it that the page has not given yet."""
    listed: dict[str, Schema] = groups[name]["properties"]
    properties = dict(sorted(listed.items(), key=lambda item: item[0] in AugmentationConfig.model_fields))  # these last
    inner = {setting: group for setting, schema in properties.items() if (group := _group(schema)) is not None}
    yield f"\n### {prefix.removesuffix('.')}\n" if prefix else ""
    yield "\n| setting | values | default | meaning |\n|---|---|---|---|\n"
    for setting, schema in properties.items():
        if setting not in inner:
            mark = " ✓" if name == TrainingConfig.__name__ and setting in TrainingConfig.searchable() else ""
            default = (
                "must be given" if setting in groups[name].get("required", ()) else _shown(schema.get("default", {}))
            )
            cells = (f"`{prefix}{setting}`{mark}", _values(schema), default, " ".join(schema["description"].split()))
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
    for setting, group in inner.items():
        if group not in told:
            told.add(group)
            yield from _tables(f"{prefix}{setting}.", group, groups, told)


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
        return f"list of: {_kind(schema['items'])}"
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
