"""The end of a search, and what a kill in the middle of it leaves."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from t5ray.search import conclude as module
from t5ray.search.conclude import conclude
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.workspace import Workspace
from t5ray.tracking import Tracker
from t5ray.training.prepare import Prepared
from tests.search.events import epoch


def test_a_search_is_finished_only_once_its_results_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else --resume would say that nothing is left to do: search.json or the registered model would never come."""

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    for name in ("publish_best", "compare_candidates", "judge_on_test", "summary"):
        monkeypatch.setattr(module, name, lambda *given: None)
    monkeypatch.setattr(module, "write_summary", killed)
    ledger = Ledger(tmp_path / "ledger.json")
    ledger.trials = {0: TrialRecord(0, {}, "COMPLETE", reports=[epoch(1, 0.5, final=True)])}
    ledger.study_run_id = "study"
    prepared, tracker = cast(Prepared, SimpleNamespace(config=None)), cast(Tracker, None)
    workspace = Workspace(tmp_path, tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        conclude(prepared, ledger, workspace, tracker)
    assert not ledger.path.exists() or not Ledger.load(ledger.path).finished

    monkeypatch.setattr(module, "write_summary", lambda *given: None)
    monkeypatch.setattr(module, "_close_study", killed)
    with pytest.raises(KeyboardInterrupt):
        conclude(prepared, ledger, workspace, tracker)
    assert not ledger.path.exists() or not Ledger.load(ledger.path).finished  # MLflow has not heard of it yet

    monkeypatch.setattr(module, "_close_study", lambda *given: None)
    conclude(prepared, ledger, workspace, tracker)
    assert Ledger.load(ledger.path).finished
