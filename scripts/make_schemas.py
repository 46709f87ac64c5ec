"""Write the JSON Schemas of run files and search spaces, by which editors complete and check them.

    python scripts/make_schemas.py [FOLDER]        default: search_spaces/schema

Comes in: the settings models. Goes out: run.json and space.json; two runs give equal bytes, and a test holds the
files in the repository to them.
"""

import json
import sys
from pathlib import Path
from typing import Any

from t5ray.config import Range, RunConfig, SearchSpace

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """Return file name -> schema."""
    space = SearchSpace.model_json_schema()
    one = {"$ref": "#/$defs/Range"}
    assert Range.__name__ in space["$defs"]
    several = space["properties"]["parameters"]["additionalProperties"]
    space["properties"]["parameters"]["additionalProperties"] = {
        "anyOf": [one, several]
    }  # a single range needs no list
    return {
        "run.json": {"$schema": DRAFT, "title": "t5ray: --config", **_untitled(RunConfig.model_json_schema())},
        "space.json": {"$schema": DRAFT, "title": "t5ray: --search-space", **_untitled(space)},
    }


def _untitled(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != "title"}


def main(folder: Path) -> None:
    """Write the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        (folder / name).write_text(json.dumps(schema, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "search_spaces" / "schema")
