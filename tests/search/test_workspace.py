"""Where a search keeps what, here and at a URI."""

from pathlib import Path

import fsspec
import pytest

from t5ray.config import RunConfig
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

    files.pipe("/bucket/runs/study/state/trials/3/best/model.safetensors", b"weights")
    again.fetch_trial("3")
    assert (again.trials / "3" / "best" / "model.safetensors").read_bytes() == b"weights"
    again.drop_trial("3")
    assert not files.exists("/bucket/runs/study/state/trials/3")
    assert not (again.trials / "3").exists()
