"""Each room opens with the list of its modules."""

import ast
import re
from pathlib import Path

import pytest

import t5ray

PACKAGE = Path(t5ray.__file__).parent
ROOMS = sorted(path.parent for path in PACKAGE.rglob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(PACKAGE)))
def test_a_room_lists_the_modules_that_it_has_and_no_others(room: Path) -> None:
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    listed = set(re.findall(r"(?<![\w/])\w+(?:\.py\b|/(?=\s))", text.partition("Comes in:")[0]))
    modules = {path.name for path in room.glob("*.py")} - {"__init__.py"}
    packages = {f"{path.parent.name}/" for path in room.glob("*/__init__.py")}
    assert modules | packages <= listed
    assert {name for name in listed if name.endswith(".py")} <= modules
