"""What the documents tell users to install has the versions of constraints.txt, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

from tests.deploy.launcher import ROOT, Pins, split_pin

ALL = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [*ALL, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
DOCUMENTS = [path for path in ALL if "pip install" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_is_to_be_installed_is_pinned(path: Path, pins: Pins) -> None:
    for command in re.findall(r"pip install ([^`#\n]+)", path.read_text(encoding="utf-8")):
        option, file, *packages = command.replace("'", "").split()
        assert (option, Path(file).name) == ("-c", "constraints.txt")
        for package in packages:
            name, version = split_pin(package)
            assert package.startswith(".") or version in ("", pins[name])
            assert package.startswith(".") or name in pins


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = path.parent / file if file else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target
