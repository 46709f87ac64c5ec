"""Where a search keeps what, here and at a URI."""

import json
from pathlib import Path

import fsspec
import pytest

from t5ray.config import RunConfig
from t5ray.search import workspace as module
from t5ray.search.workspace import Workspace


def test_a_folder(tmp_path: Path) -> None:
    workspace = Workspace.of(RunConfig(storage=str(tmp_path), name="study"))
    assert (workspace.folder, workspace.cache, workspace.remote) == (tmp_path / "study", tmp_path / "cache", None)
    assert workspace.shown == str(tmp_path / "study")


def test_results_and_state_go_to_a_uri_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = RunConfig(storage="memory://bucket/runs", name="study")
    workspace = Workspace.of(config)
    assert workspace.shown == "memory://bucket/runs/study"
    workspace.best.mkdir(parents=True)
    workspace.trials.mkdir(parents=True)
    (workspace.best / "config.json").write_text("{}")
    (workspace.folder / "search.json").write_text("[]")
    workspace.ledger.write_text("ledger")
    workspace.journal.write_text("journal")
    workspace.upload()
    files = fsspec.filesystem("memory")
    assert files.cat("/bucket/runs/study/search.json") == b"[]"
    assert files.cat("/bucket/runs/study/best/config.json") == b"{}"

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = Workspace.of(config)
    again.fetch_state()
    assert (again.ledger.read_text(), again.journal.read_text()) == ("ledger", "journal")

    files.pipe("/bucket/runs/study/state/trials/3/best-8/model.safetensors", b"weights")
    again.fetch_trial("3", 8)
    assert (again.trials / "3" / "best-8" / "model.safetensors").read_bytes() == b"weights"
    again.drop_trial("3")
    assert not files.exists("/bucket/runs/study/state/trials/3")
    assert not (again.trials / "3").exists()


def test_a_ledger_at_a_uri_knows_of_nothing_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head node that goes down between two copies leaves a state that can be gone on with."""
    workspace = at_bucket(tmp_path, monkeypatch)
    workspace.confirmed.mkdir()
    for path in (workspace.ledger, workspace.journal, workspace.rows_of("1-seed1")):
        path.write_text("{}")
    copied = list[str]()
    for name in ("upload_file", "upload_dir"):
        monkeypatch.setattr(module, name, lambda path, target: copied.append(path.name))
    workspace.upload_state()
    assert copied == ["confirm", "optuna.journal", "ledger.json"]


def at_bucket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(folder)
    workspace = Workspace.of(RunConfig(storage=f"memory://{folder.name}/runs", name="study"))
    workspace.trials.mkdir(parents=True)
    return workspace


def test_better_weights_that_another_node_left_replace_those_that_lie_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = at_bucket(tmp_path, monkeypatch)
    here = workspace.trials / "3" / "best-8"
    here.mkdir(parents=True)
    (here / "model.safetensors").write_bytes(b"made first")
    there = f"/{tmp_path.name}/runs/study/state/trials/3/best-8/model.safetensors"
    fsspec.filesystem("memory").pipe(there, b"made again")
    workspace.fetch_trial("3", 8)
    assert (here / "model.safetensors").read_bytes() == b"made again"


@pytest.mark.parametrize(("here_s", "kept"), [(90.0, "here"), (10.0, "there"), (None, "there")])
def test_the_newer_state_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here_s: float | None, kept: str) -> None:
    workspace = at_bucket(tmp_path, monkeypatch)
    if here_s is not None:
        workspace.ledger.write_text(json.dumps({"wall_s": here_s, "of": "here"}))
    there = json.dumps({"wall_s": 60.0, "of": "there"}).encode()
    fsspec.filesystem("memory").pipe(f"/{tmp_path.name}/runs/study/saved/ledger.json", there)
    workspace.fetch_state()
    assert json.loads(workspace.ledger.read_text())["of"] == kept


def test_a_search_is_read_by_another_without_a_touch(tmp_path: Path) -> None:
    workspace = Workspace.of(RunConfig(storage=str(tmp_path), name="study"))
    workspace.trials.mkdir(parents=True)
    workspace.ledger.write_text("ledger")
    workspace.journal.write_text("a whole line\nhalf a li")
    copy = workspace.copy_state(tmp_path / "other")
    copy.journal.write_text("")
    assert (copy.ledger.read_text(), workspace.journal.read_text()) == ("ledger", "a whole line\nhalf a li")
