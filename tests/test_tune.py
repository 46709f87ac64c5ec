"""The search command: what it says at its end, and what it does with a search that has ended."""

import json
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import fsspec
import pytest

from t5ray import cli
from t5ray.config import DecodeConfig, RunConfig, SearchConfig, load_space
from t5ray.model.card import CARD, ENTRY, BundleCard
from t5ray.search import books, conclude, run_ids, study
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.workspace import Workspace
from t5ray.sessions import identity_of, search_identity
from t5ray.terminal import to_judge
from t5ray.text.tasks import BUILT_IN
from t5ray.tracking import NoTracker
from t5ray.tune import _close, _is_done, _search, _send_rest, _tune
from tests.search.events import epoch
from tests.search.test_result import CONTENT


def test_a_second_ctrl_c_at_the_end_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(books, "open_study", interrupted)
    monkeypatch.setattr(conclude, "interrupt", interrupted)
    workspace = Workspace(tmp_path, tmp_path / "cache")
    prepared: Any = SimpleNamespace(config=RunConfig(name="words"))
    ledger, nothing = Ledger(workspace.ledger), cast(Any, None)
    assert _search(prepared, nothing, ledger, workspace, nothing, nothing) is None
    said = capsys.readouterr().out.splitlines()
    assert "Interrupted again: search.json and report.html may be older than what --resume goes on from." in said
    assert said[-1].startswith("Go on with: ")
    ledger.finished = True
    assert _search(prepared, nothing, ledger, workspace, nothing, nothing) is None
    assert "The search has ended. What was not sent yet is by: " in capsys.readouterr().out


def test_a_winner_is_said_to_be_judged_only_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A time budget may be used up before a trial has ended an epoch."""
    monkeypatch.setattr(books, "open_study", lambda *given: None)
    monkeypatch.setattr(study, "run_search", lambda *given, **named: None)
    monkeypatch.setattr(conclude, "conclude", lambda prepared, ledger, *given: {"best": ledger.best})
    monkeypatch.setattr(run_ids, "settle_run_ids", lambda *given: None)
    workspace, nothing = Workspace(tmp_path, tmp_path / "cache"), cast(Any, None)
    data = SimpleNamespace(test=[0, 1])
    prepared: Any = SimpleNamespace(config=RunConfig(name="words"), data=data, objective="accuracy", mode="max")
    ledger = Ledger(workspace.ledger)
    assert _search(prepared, nothing, ledger, workspace, nothing, nothing) == {"best": None}
    assert "Judging" not in capsys.readouterr().out
    ledger.trials[0] = TrialRecord(0, {}, "COMPLETE", reports=[epoch(1, 0.5, final=True)])
    _search(prepared, nothing, ledger, workspace, nothing, nothing)
    assert "Judging the winner on 2 test rows." in capsys.readouterr().out


def test_a_grid_that_has_run_whole_is_done_though_more_trials_were_asked_for(tmp_path: Path) -> None:
    """Else each --resume would judge the winner on test again."""
    ledger = Ledger(tmp_path / "ledger.json", finished=True)
    assert ledger.settle_target(20, 2) == 2
    search = SearchConfig(num_trials=20, confirm_seeds=0)
    ledger.trials[0] = TrialRecord(0, {}, "COMPLETE")
    assert not _is_done(search, ledger)
    ledger.trials[1] = TrialRecord(1, {}, "COMPLETE")
    assert _is_done(search, ledger)
    ledger.settle_target(20)
    assert not _is_done(search, ledger)


class CutOff(NoTracker):
    """As a tracker whose last sending Ctrl-C ends."""

    was_interrupted = True


def test_a_finished_search_whose_sending_was_cut_off_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t5ray.tracking.open_tracker", lambda *_, **__: CutOff())
    workspace = Workspace(tmp_path, tmp_path / "cache")
    report = {"value": 0.5, "best_epoch": 1, "best_value": 0.5}
    ledger = Ledger(workspace.ledger, trials={0: TrialRecord(0, {}, "COMPLETE", reports=[report])})
    settings = RunConfig(name="words")
    assert _send_rest(settings, workspace, ledger, preview=False) == 0  # nothing is left to send
    workspace.outbox.parent.mkdir()
    workspace.outbox.touch()
    assert _send_rest(settings, workspace, ledger, preview=True) == 0
    assert _send_rest(settings, workspace, ledger, preview=False) == 130


def test_settings_that_a_finished_search_does_not_take_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = {"name": "words", "task": "classify", "model": "a/model"}
    config = RunConfig.model_validate(began)
    identity = identity_of(config, "accuracy (max)", DecodeConfig(max_new_tokens=9))
    identity |= search_identity(load_space(config.search.space), config) | {"data": "digest"}
    workspace = Workspace(tmp_path, tmp_path / "cache")
    report = {"value": 0.5, "best_epoch": 1, "best_value": 0.5}
    trials = {0: TrialRecord(0, {}, "COMPLETE", reports=[report])}
    ledger = Ledger(workspace.ledger, trials=trials, identity=identity)
    assert _send_rest(config, workspace, ledger, preview=True) == 0
    assert "Not applied" not in capsys.readouterr().out
    other = RunConfig.model_validate({**began, "training": {"batch_size": 4, "dropout": 0.3}})
    assert _send_rest(other, workspace, ledger, preview=True) == 0
    told = "Not applied, as nothing is trained: training.batch_size: was 32, now 4; training.dropout: was 0.1, now 0.3."
    assert told in capsys.readouterr().out


def test_what_a_time_budget_left_undone_is_said_with_the_command_that_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_ARGV", [])
    report = {"value": 0.5, "best_epoch": 1, "best_value": 0.5}
    ledger = Ledger(tmp_path / "ledger.json", target=6, trials={0: TrialRecord(0, {}, "PRUNED", reports=[report])})
    _close(RunConfig(name="words"), "runs/words", CONTENT, ledger)
    said = capsys.readouterr().out
    assert "on test 0.8500. The time budget cut off 1 trial, 5 have not run." in " ".join(said.split())
    assert re.search(r"the other trials .*t5ray.tune --name words --resume", said)
    ledger.target, ledger.trials[0].stopped_epoch = 1, 1  # by ASHA
    _close(RunConfig(name="words"), "runs/words", CONTENT, ledger)
    said = capsys.readouterr().out
    assert "budget" not in said
    assert "--resume" not in said


def test_the_end_says_what_was_registered_and_how_it_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = {"value": 0.5, "best_epoch": 1, "best_value": 0.5}
    ledger = Ledger(tmp_path / "ledger.json", target=1, trials={0: TrialRecord(0, {}, "COMPLETE", reports=[report])})
    settings = RunConfig(name="words", register_as="reviews")
    _close(settings, "runs/words", CONTENT, ledger)
    said = capsys.readouterr().out
    assert " Registered in MLflow as reviews, alias champion. Bundle: runs/words/best" in said
    assert (
        "t5ray.predict --model models:/reviews@champion --input ROWS.jsonl --output reviews-champion-predictions\n"
        in said
    )
    _close(settings, "runs/words", CONTENT, ledger, ["MLflow did not answer."])
    assert "champion" not in capsys.readouterr().out


def test_the_command_that_judges_logs_and_leaves_out_as_its_run_did() -> None:
    made = RunConfig.model_validate(
        {"data": {"path": "a.csv", "skip_bad_rows": True}, "tracking": {"uri": "sqlite:///a.db", "experiment": "x y"}}
    )
    said = to_judge("runs/words/best", made)
    assert said.endswith("--output words-evaluation --skip-bad-rows --tracking-uri sqlite:///a.db --experiment 'x y'")
    assert to_judge("runs/words/best", RunConfig.model_validate({"data": {"path": "a.csv"}})).endswith(
        "words-evaluation"
    )


def test_resuming_a_finished_search_leaves_what_an_extension_elsewhere_has_published(tmp_path: Path) -> None:
    def published(machine: str, *, seconds: float, trial: int) -> Workspace:
        workspace = Workspace(tmp_path / machine, tmp_path / "cache", f"memory://{tmp_path.name}/words")
        workspace.best.mkdir(parents=True)
        run = {"trial": trial, "value": 0.5, "epoch": 1}
        card = BundleCard(task=BUILT_IN["classify"], decode=DecodeConfig(), max_input_tokens=9, run=run)
        (workspace.best / CARD).write_text(card.model_dump_json())
        (workspace.best / ENTRY).write_text("{}")
        (workspace.best / "made_by").write_text(machine)
        (workspace.folder / "search.json").write_text(json.dumps({"wall_s": seconds, "best": run}))
        workspace.upload()
        return workspace

    here = published("here", seconds=1.0, trial=0)
    published("there", seconds=2.0, trial=1)
    report = {"value": 0.5, "best_epoch": 1, "best_value": 0.5}
    ledger = Ledger(here.ledger, trials={0: TrialRecord(0, {}, "COMPLETE", reports=[report])})
    assert _send_rest(RunConfig(name="words"), here, ledger, preview=False) == 0
    assert fsspec.filesystem("memory").cat(f"/{tmp_path.name}/words/best/made_by") == b"there"
    assert (here.best / "made_by").read_text() == "there"
    assert json.loads((here.folder / "search.json").read_text())["best"]["trial"] == 1


def test_a_search_whose_last_sending_was_cut_off_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its end is told all the same."""

    def given(value: Any) -> Any:
        return lambda *_, **__: value

    space = tmp_path / "space.yaml"
    space.write_text("parameters:\n  learning_rate: {uniform: [1.0e-4, 1.0e-2]}\n")
    settings = RunConfig.model_validate({"name": "words", "storage": str(tmp_path), "search": {"space": str(space)}})
    prepared = SimpleNamespace(notes=(), config=settings)
    found: dict[str, Any] = {
        "t5ray.training.prepare.prepare": prepared,
        "t5ray.search.books.require_same_search": None,
        "t5ray.search.contradictions.require_fit": None,
        "t5ray.search.finite.most_trials": None,
        "t5ray.tracking.open_tracker": CutOff(),
        "t5ray.cluster.connect": nullcontext(),
        "t5ray.search.capacity.settle_cpus": prepared,
        "t5ray.search.preview.describe": [],
        "t5ray.back_translation.with_back_translations": prepared,
        "t5ray.tune._search": {**CONTENT, "best": {"trial": 3, "value": 0.9, "epoch": 2}},
    }
    for name, value in found.items():
        monkeypatch.setattr(name, given(value))
    assert _tune(settings, preview=False, resume=False, extend=None) == 130
    assert "Best: trial 3, epoch 2" in capsys.readouterr().out
