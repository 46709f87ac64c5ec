"""The wheel: what `pip install .` gives to somebody without the repository."""

import configparser
import os
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import t5ray

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *quiet, "--wheel-dir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (path,) = folder.iterdir()
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def installed(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    wheel.extractall(folder)
    return folder


def about(wheel: zipfile.ZipFile, name: str) -> bytes:
    (path,) = [path for path in wheel.namelist() if path.endswith(f".dist-info/{name}")]
    return wheel.read(path)


def run(installed: Path, where: Path, *argv: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, *argv]
    found = subprocess.run(command, cwd=where, env=environment, check=True, capture_output=True, text=True)
    return found.stdout


def test_it_holds_the_package_with_all_its_files_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    files = {path for path in (ROOT / "t5ray").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    spaces = {path for path in (ROOT / "search_spaces").rglob("*") if path.suffix in (".yaml", ".json")}
    wanted = {str(path.relative_to(ROOT)): path for path in files}
    wanted |= {f"t5ray/{path.relative_to(ROOT)}": path for path in spaces}
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == set(wanted)
    assert [name for name, path in wanted.items() if wheel.read(name) != path.read_bytes()] == []


@pytest.mark.parametrize(
    "name",
    [
        "demo/dates.jsonl",
        "demo/dates.yaml",
        "demo/examples.jsonl",
        "demo/wordnet.jsonl",
        "demo/WORDNET_LICENSE",
        "demo/model/config.json",
        "demo/model/tokenizer.json",
        "demo/model/tokenizer_config.json",
        "report/templates/search.html",
        "report/templates/evaluation.html",
        "report/templates/style.css",
        *(f"search_spaces/{space}.yaml" for space in ("demo", "t5_small", "t5_base", "t5_large", "adafactor")),
    ],
)
def test_it_holds_what_the_commands_read(wheel: zipfile.ZipFile, name: str) -> None:
    assert wheel.getinfo(f"t5ray/{name}").file_size > 0


def test_it_brings_the_console_script(wheel: zipfile.ZipFile) -> None:
    scripts = configparser.ConfigParser()
    scripts.read_string(about(wheel, "entry_points.txt").decode())
    assert dict(scripts["console_scripts"]) == {"t5ray": "t5ray.__main__:main"}


def test_it_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    metadata = message_from_bytes(about(wheel, "METADATA"))
    assert (metadata["Name"], metadata["Version"]) == ("t5ray", t5ray.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert about(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert about(wheel, "licenses/NOTICE") == (ROOT / "NOTICE").read_bytes()


def test_it_finds_its_files_without_the_repository(installed: Path, tmp_path: Path) -> None:
    code = (
        "import t5ray; from t5ray import demo; from t5ray.config import load_space, shipped_spaces; "
        "[load_space(name) for name in shipped_spaces()]; "
        "print(t5ray.__file__, demo.dates_data(), *shipped_spaces().values(), sep='\\n')"
    )
    paths = [Path(line) for line in run(installed, tmp_path, "-c", code).splitlines()]
    assert len(paths) == 2 + 5
    assert all(path.is_relative_to(installed) and path.is_file() for path in paths)


def test_it_can_begin_the_demo_without_the_repository(installed: Path, tmp_path: Path) -> None:
    shown = run(installed, tmp_path, "-m", "t5ray", "train", "--preview", "--storage", str(tmp_path / "runs"))
    assert "data         8,000 training, 1,000 validation, 1,000 test rows" in shown
