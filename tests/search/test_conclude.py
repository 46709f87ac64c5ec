"""The end of a search, and what a kill in the middle of it leaves."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import fsspec
import pytest

from t5ray import storage
from t5ray.config import DecodeConfig, RunConfig
from t5ray.errors import ClusterError, ModelError
from t5ray.model.card import CARD, ENTRY, BundleCard
from t5ray.search import conclude as module
from t5ray.search import workspace as places
from t5ray.search.conclude import compare_candidates, conclude, interrupt
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.workspace import Workspace
from t5ray.text.tasks import resolve_task
from t5ray.tracking import MemoryTracker, NoTracker, Tracker
from t5ray.training.prepare import Prepared
from tests.search.events import epoch

TASK = resolve_task("summarize")


def test_a_search_is_finished_only_once_its_results_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else --resume would say that nothing is left to do: search.json or the registered model would never come."""

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    for name in ("publish_best", "compare_candidates", "judge_on_test"):
        monkeypatch.setattr(module, name, lambda *given: None)
    monkeypatch.setattr(module, "summary", lambda *given: {"best": None})
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


def prepared_of(tmp_path: Path) -> Prepared:
    space = tmp_path / "space.yaml"
    space.write_text("parameters:\n  learning_rate: {uniform: [1.0e-4, 1.0e-2]}\n")
    config = RunConfig.model_validate({"data": {"path": "rows.csv"}, "model": "t5", "search": {"space": str(space)}})
    task = SimpleNamespace(name="words")
    return cast(Prepared, SimpleNamespace(config=config, task=task, objective="accuracy", mode="max"))


def ended(number: int, value: float) -> TrialRecord:
    return TrialRecord(
        number, {"learning_rate": 1e-3 * (number + 1)}, "COMPLETE", reports=[epoch(1, value, final=True)]
    )


def concluded_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Prepared, Ledger, Workspace]:
    """A search whose bundle, of trial 1, lies on disk and was judged on test."""

    def publish(*given: Any) -> None:
        workspace.best.mkdir(exist_ok=True)
        (workspace.best / "made_of").write_text(str(given[3].name))
        card = BundleCard(task=TASK, decode=DecodeConfig(max_new_tokens=2), max_input_tokens=9, run=given[5])
        (workspace.best / CARD).write_text(card.model_dump_json())
        (workspace.best / ENTRY).write_text("{}")

    monkeypatch.setattr(module, "publish_best", publish)
    monkeypatch.setattr(module, "judge_on_test", lambda *given: {"accuracy": 0.65, "loss": 1.5})
    monkeypatch.setattr(module, "compare_candidates", lambda prepared, ledger, workspace: ledger.confirm)
    workspace = Workspace(tmp_path / "words", tmp_path / "cache")
    workspace.trials.mkdir(parents=True)
    ledger = Ledger(workspace.ledger, wall_s=2.0, trials={0: ended(0, 0.5), 1: ended(1, 0.75)})
    prepared = prepared_of(tmp_path)
    conclude(prepared, ledger, workspace, NoTracker())
    return prepared, ledger, workspace


def search_json(workspace: Workspace) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((workspace.folder / "search.json").read_text())
    return content


def test_an_extension_that_is_cut_off_leaves_what_the_bundle_on_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, ledger, workspace = concluded_search(tmp_path, monkeypatch)
    bundle = {"trial": 1, "value": 0.75, "epoch": 1}
    assert search_json(workspace)["best"] == bundle

    ledger.finished = False
    ledger.trials[2] = TrialRecord(2, {"learning_rate": 3e-3}, reports=[epoch(1, 0.625)])
    assert interrupt(prepared, ledger, workspace, NoTracker()) == []  # nothing leads but what the bundle is
    assert search_json(workspace)["leading"] is None

    ledger.trials[3] = ended(3, 0.875)
    for _ in range(2):  # cut off once more: search.json was written by an interruption
        said = interrupt(prepared, ledger, workspace, NoTracker())
        assert said == ["The bundle is still of trial 1. Trial 3 leads now: validation accuracy 0.8750 after epoch 1."]
        found = search_json(workspace)
        assert (found["best"], found["test"]) == (bundle, {"accuracy": 0.65, "loss": 1.5})
        assert found["leading"] == {"trial": 3, "value": 0.875, "epoch": 1}
        assert [trial["trial"] for trial in found["trials"]] == [0, 1, 2, 3]

    ledger.trials[2].state = "PRUNED"
    conclude(prepared, ledger, workspace, NoTracker())
    found = search_json(workspace)
    assert (found["best"]["trial"], found["leading"]) == (3, None)
    assert (workspace.best / "made_of").read_text() == ledger.trials[3].key


def test_the_bundle_is_of_the_weights_that_are_there_and_so_are_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may keep better ones when a search has been cut off already: those that it named are gone then."""
    prepared, ledger, workspace = concluded_search(tmp_path, monkeypatch)
    kept = workspace.trials / ledger.trials[1].key / "best-2"
    kept.mkdir(parents=True)
    (kept / "t5ray-report.json").write_text(json.dumps(epoch(2, 0.875)))
    conclude(prepared, ledger, workspace, NoTracker())
    assert search_json(workspace)["best"] == {"trial": 1, "value": 0.875, "epoch": 2}
    assert Ledger.load(ledger.path).trials[1].values == [0.75, 0.875]


def test_where_other_weights_make_another_trial_the_best_that_one_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are not deleted before that is known."""
    prepared, ledger, workspace = concluded_search(tmp_path, monkeypatch)
    for number in (0, 1):
        (workspace.trials / ledger.trials[number].key / "best-1").mkdir(parents=True, exist_ok=True)
    kept = workspace.trials / ledger.trials[1].key / "best-1"
    kept.rename(again := kept.with_name("best-2"))
    (again / "t5ray-report.json").write_text(json.dumps(epoch(2, 0.25) | {"epoch": 1, "best_epoch": 1}))
    conclude(prepared, ledger, workspace, NoTracker())
    assert search_json(workspace)["best"] == {"trial": 0, "value": 0.5, "epoch": 1}
    assert (workspace.best / "made_of").read_text() == ledger.trials[0].key
    assert [path.name for path in workspace.trials.iterdir()] == [ledger.trials[0].key]


def test_weights_that_go_for_better_ones_as_they_are_read_make_way_for_those(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, ledger, workspace = concluded_search(tmp_path, monkeypatch)
    publish, tries = vars(module)["publish_best"], list[int]()

    def too_late(*given: Any) -> Any:
        tries.append(given[2]["best_step"])
        if len(tries) == 1:
            kept = workspace.trials / ledger.trials[1].key / "best-2"
            kept.mkdir(parents=True)
            (kept / "t5ray-report.json").write_text(json.dumps(epoch(2, 0.875)))
            raise ModelError("best-1: must be a T5 model, but is not there.")
        return publish(*given)

    monkeypatch.setattr(module, "publish_best", too_late)
    conclude(prepared, ledger, workspace, NoTracker())
    assert tries == [1, 2]
    assert search_json(workspace)["best"] == {"trial": 1, "value": 0.875, "epoch": 2}


def test_a_confirmed_winner_stays_what_it_was_when_an_extension_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, ledger, workspace = concluded_search(tmp_path, monkeypatch)
    confirm = {
        "seeds": [1],
        "rows": 8,
        "candidates": [{"trial": t, "values": [v], "mean": v, "interval": [v, v]} for t, v in ((1, 0.7), (0, 0.4))],
        "winner": 1,
        "tie_with": [],
    }
    ledger.confirm, ledger.has_leader, ledger.confirm_seeds, ledger.finished = confirm, True, [1], False
    ledger.confirm_runs = [replace(ended(1, 0.7), seed=1), replace(ended(0, 0.4), seed=1)]
    conclude(prepared, ledger, workspace, NoTracker())
    bundle = {"trial": 1, "value": 0.7, "epoch": 1, "seed": 1}
    assert search_json(workspace)["best"] == bundle

    ledger.finished = False
    ledger.trials[2] = ended(2, 0.9)
    ledger.confirm_runs += [replace(ended(2, 0.8), seed=1)]
    said = interrupt(prepared, ledger, workspace, NoTracker())
    assert said == [
        "The bundle is still of trial 1 on seed 1. "
        "Trial 2 leads now: validation accuracy 0.8000 after epoch 1 on seed 1."
    ]
    found = search_json(workspace)
    assert (found["best"], found["confirm"]) == (bundle, confirm)
    assert found["leading"] == {"trial": 2, "value": 0.8, "epoch": 1, "seed": 1}


def test_a_search_that_was_never_concluded_names_its_best_so_far(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, tmp_path / "cache")
    workspace.trials.mkdir(parents=True)
    ledger = Ledger(workspace.ledger, trials={0: ended(0, 0.5)})
    for number, value in ((1, 0.25), (2, 0.75)):
        ledger.trials[number] = ended(number, value)
        assert interrupt(prepared_of(tmp_path), ledger, workspace, NoTracker()) == []
    found = search_json(workspace)
    assert found["best"] == {"trial": 2, "value": 0.75, "epoch": 1}
    assert (found["test"], found["leading"]) == (None, None)


def test_an_end_that_is_cut_off_while_it_judges_leaves_what_the_new_bundle_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it by a kill, after which nobody writes any more, or by Ctrl-C."""
    prepared, ledger, workspace = concluded_search(tmp_path, monkeypatch)

    def cut_off(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "judge_on_test", cut_off)
    ledger.finished = False
    ledger.trials[2] = ended(2, 0.875)
    with pytest.raises(KeyboardInterrupt):
        conclude(prepared, ledger, workspace, NoTracker())
    for _ in range(2):
        found = search_json(workspace)
        assert (workspace.best / "made_of").read_text() == ledger.trials[2].key
        assert (found["best"]["trial"], found["test"], found["leading"]) == (2, None, None)
        interrupt(prepared, ledger, workspace, NoTracker())


def on_another_machine(here: Workspace, remote: str, tmp_path: Path) -> Workspace:
    """Bring a search to a URI, and return its place on a machine that has nothing of it."""
    here = replace(here, remote=remote)
    here.upload()
    elsewhere = replace(here, folder=tmp_path / "elsewhere" / "words")
    elsewhere.trials.mkdir(parents=True)
    return elsewhere


def test_an_extension_elsewhere_knows_the_bundle_at_the_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, ledger, here = concluded_search(tmp_path, monkeypatch)
    elsewhere = on_another_machine(here, "memory://bucket/leading/words", tmp_path)
    elsewhere.best.mkdir()
    (elsewhere.best / "made_of").write_text("an earlier one")
    (elsewhere.folder / "search.json").write_text('{"wall_s": 1.0, "best": {"trial": 0}}')
    ledger.path, ledger.finished = elsewhere.ledger, False
    ledger.trials[2] = ended(2, 0.875)
    interrupt(prepared, ledger, elsewhere, NoTracker())
    files = fsspec.filesystem("memory")
    assert files.cat("/bucket/leading/words/best/made_of").decode() == ledger.trials[1].key
    found = json.loads(files.cat("/bucket/leading/words/search.json"))
    assert (found["best"]["trial"], found["test"]["accuracy"], found["leading"]["trial"]) == (1, 0.65, 2)


def test_a_bundle_that_came_to_the_uri_in_part_is_taken_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, here = concluded_search(tmp_path, monkeypatch)
    elsewhere = on_another_machine(here, "memory://bucket/part/words", tmp_path)
    files, best = fsspec.filesystem("memory"), "/bucket/part/words/best"
    files.rm(f"{best}/{ENTRY}")
    assert elsewhere.concluded() is None
    assert not elsewhere.best.exists()
    there = replace(here, remote=elsewhere.remote)
    there.upload()
    found = elsewhere.concluded()
    assert found is not None
    assert found["best"]["trial"] == 1
    files.pipe(f"{best}/made_of", b"there already")
    there.upload()
    assert files.cat(f"{best}/made_of") == b"there already"  # gigabytes do not go there twice


@pytest.mark.parametrize("is_older", [False, True])
def test_what_a_full_disk_left_of_an_end_is_no_other_trial_s_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_older: bool
) -> None:
    """A bundle has taken its place, but search.json is still of the one before; then an extension leads."""
    prepared, ledger, workspace = concluded_search(tmp_path, monkeypatch)

    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    ledger.finished = False
    ledger.trials[2] = ended(2, 0.875)
    with monkeypatch.context() as disk:
        disk.setattr(module, "write_summary", full)
        with pytest.raises(OSError, match="No space"):
            conclude(prepared, ledger, workspace, NoTracker())
    if is_older:  # whose bundles do not name their run
        card = json.loads((workspace.best / CARD).read_text())
        del card["run"]
        (workspace.best / CARD).write_text(json.dumps(card))
    ledger.trials[3] = ended(3, 0.9375)
    for _ in range(2):
        interrupt(prepared, ledger, workspace, NoTracker())
        found = search_json(workspace)
        assert found["leading"] == {"trial": 3, "value": 0.9375, "epoch": 1}
        if is_older:
            assert (found["best"]["trial"], found["test"]) == (1, {"accuracy": 0.65, "loss": 1.5})
        else:
            assert (workspace.best / "made_of").read_text() == ledger.trials[2].key
            assert (found["best"], found["test"]) == ({"trial": 2, "value": 0.875, "epoch": 1}, None)


def test_a_storage_that_is_away_hides_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that never had the bundle must not tell the storage that there is none."""
    prepared, ledger, here = concluded_search(tmp_path, monkeypatch)
    elsewhere = on_another_machine(here, "memory://bucket/away/words", tmp_path)
    ledger.path, ledger.finished = elsewhere.ledger, False
    ledger.trials[2] = ended(2, 0.875)
    before = fsspec.filesystem("memory").cat("/bucket/away/words/search.json")
    for name in ("is_there", "download_file", "download_dir"):

        def refuse(*given: Any) -> None:
            raise ClusterError("the storage must be reachable")

        with monkeypatch.context() as away:
            away.setattr(places if name != "download_dir" else storage, name, refuse)
            with pytest.raises(ClusterError, match="must be reachable"):
                interrupt(prepared, ledger, elsewhere, NoTracker())
        assert fsspec.filesystem("memory").cat("/bucket/away/words/search.json") == before
    interrupt(prepared, ledger, elsewhere, NoTracker())
    assert search_json(elsewhere)["best"]["trial"] == 1
    assert (elsewhere.best / "made_of").read_text() == ledger.trials[1].key


def test_a_search_at_a_uri_that_was_never_concluded_names_its_best_so_far(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, tmp_path / "cache", "memory://bucket/never/words")
    workspace.trials.mkdir(parents=True)
    ledger = Ledger(workspace.ledger, trials={0: ended(0, 0.5)})
    for number, value in ((1, 0.25), (2, 0.75)):
        ledger.trials[number] = ended(number, value)
        interrupt(prepared_of(tmp_path), ledger, workspace, NoTracker())
    found = json.loads(fsspec.filesystem("memory").cat("/bucket/never/words/search.json"))
    assert (found["best"]["trial"], found["leading"]) == (2, None)


def test_a_bundle_that_gave_all_rows_one_label_is_found(tmp_path: Path) -> None:
    """By what its run on the last seed did, whatever its run on another and the default did."""
    workspace = Workspace(tmp_path, tmp_path / "cache")
    workspace.confirmed.mkdir(parents=True)
    ledger = Ledger(workspace.ledger, trials={0: ended(0, 0.25), 1: ended(1, 0.75)}, confirm_seeds=[1, 2])
    given = {(0, 1): ["b", "a"], (0, 2): ["b", "a"], (1, 1): ["a", "b"], (1, 2): ["a", "a"]}
    for (trial, seed), predictions in given.items():
        run = replace(ended(trial, 0.25 + 0.5 * trial), seed=seed)
        ledger.confirm_runs.append(run)
        workspace.rows_of(run.key).write_text(json.dumps({"predictions": predictions, "losses": [], "tokens": []}))
    task = TASK.model_copy(update={"metrics": ("accuracy",), "closed_labels": True, "labels": ("a", "b")})
    data = SimpleNamespace(validation=[0, 1], validation_references=[["a"], ["b"]])
    prepared = cast(Prepared, SimpleNamespace(**{**vars(prepared_of(tmp_path)), "task": task, "data": data}))
    found = compare_candidates(prepared, ledger, workspace)
    assert found is not None
    assert (found["winner"], found["only_prediction"]) == (1, "a")
    run = ledger.confirm_run(1, 2)
    workspace.rows_of(run.key).write_text(json.dumps({"predictions": ["a", "b"], "losses": [], "tokens": []}))
    found = compare_candidates(prepared, ledger, workspace)
    assert found is not None
    assert found["only_prediction"] is None


@pytest.mark.parametrize(("tie_with", "said"), [([3, 0], "0, 3"), ([], "none")])
def test_mlflow_has_what_the_search_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tie_with: list[int], said: str
) -> None:
    prepared, ledger, workspace = concluded_search(tmp_path, monkeypatch)
    tracker = MemoryTracker()
    ledger.study_run_id = tracker.start_run("words")
    conclude(prepared, ledger, workspace, tracker)
    study = tracker.runs[ledger.study_run_id]
    plain = {"best_accuracy": 0.75, "test_accuracy": 0.65, "test_loss": 1.5}
    assert (study.metrics, study.tags) == (plain, {"t5ray.best_trial": "1"})  # nothing was confirmed

    spans = {1: (0.7, 0.65, 0.76), 0: (0.4, 0.3, 0.5)}
    ledger.confirm = {
        "seeds": [1, 2],
        "rows": 8,
        "candidates": [{"trial": t, "values": [m, m], "mean": m, "interval": [a, b]} for t, (m, a, b) in spans.items()],
        "winner": 1,
        "tie_with": tie_with,
        "gain": 0.3,
        "gain_interval": [0.1, 0.5],
    }
    conclude(prepared, ledger, workspace, tracker)
    assert study.metrics == plain | {
        "winner_mean": 0.7,
        "winner_mean_low": 0.65,
        "winner_mean_high": 0.76,
        "default_mean": 0.4,
        "default_mean_low": 0.3,
        "default_mean_high": 0.5,
        "gain": 0.3,
        "gain_low": 0.1,
        "gain_high": 0.5,
    }
    assert study.tags["t5ray.tie"] == said

    ledger.confirm["candidates"].pop()
    ledger.confirm |= {"gain": None, "gain_interval": None}
    study.metrics.clear()
    conclude(prepared, ledger, workspace, tracker)  # the default failed on a seed
    assert set(study.metrics) == {*plain, "winner_mean", "winner_mean_low", "winner_mean_high"}
