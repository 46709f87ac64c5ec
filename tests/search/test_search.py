"""Searches on a real Ray: what is told to whom, what is left behind, and what an interruption costs."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import optuna
import psutil
import pytest
import ray.util
import torch
from transformers import AutoModelForSeq2SeqLM, T5ForConditionalGeneration

from t5ray.model.loading import LoadedModel
from t5ray.search import conclude
from t5ray.training.outcome import judge_on_test
from t5ray.training.prepare import Prepared
from t5ray.tune import main as tune
from tests.disk import watched
from tests.search.commands import SPACE, arguments, result
from tests.tiny import make_tiny_t5

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path


def study_trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "runs/words/state/optuna.journal"))
    return list(optuna.load_study(study_name="t5ray", storage=optuna.storages.JournalStorage(backend)).trials)


def test_a_search_from_data_to_bundle(
    local_ray: None,
    folder: Path,
    words: Path,
    tiny_t5: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with watched(folder / "runs/words/state/trials") as disk:
        assert tune(arguments(words, tiny_t5, register="kinds")) == 0
    # two trials at a time have a best and a last checkpoint, and the best of those that have ended has one; besides,
    # one of the two is writing
    assert disk.whole <= 2 * 2 + 1
    assert disk.weights <= 2 + 1 + 1
    assert disk.states <= 2 + 1
    assert disk.looks > 20
    found = result(folder)
    trials = found["trials"]
    assert [t["trial"] for t in trials] == [0, 1, 2, 3, 4]
    assert trials[0]["params"] == {"learning_rate": 3e-4, "batch_size": 32}  # the first runs the defaults
    assert found["default"]["value"] == trials[0]["best_value"]
    assert all(t["best_value"] == max(t["values"]) for t in trials)
    assert all(t["values"].index(t["best_value"]) + 1 == t["best_epoch"] for t in trials)
    best = max(trials, key=lambda t: (t["best_value"], -t["trial"]))
    assert found["best"] == {"trial": best["trial"], "value": best["best_value"], "epoch": best["best_epoch"]}
    assert set(found["test"]) >= {"accuracy", "macro_f1"}
    assert all((t["state"] == "COMPLETE") == (len(t["values"]) == 3) for t in trials)
    AutoModelForSeq2SeqLM.from_pretrained(folder / "runs/words/best")
    assert "<html" in (folder / "runs/words/report.html").read_text()
    kept = [path.name.partition(".")[0] for path in (folder / "runs/words/state/trials").iterdir()]
    assert kept == [str(best["trial"])]  # losers' checkpoints are deleted
    left = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
    assert left == []

    told = study_trials(folder)
    assert [t.state.name for t in told] == [t["state"] for t in trials]
    assert [list(t.intermediate_values.values()) for t in told] == [t["values"] for t in trials]
    assert [t.value for t in told if t.state.name == "COMPLETE"] == [
        t["best_value"] for t in trials if t["state"] == "COMPLETE"
    ]

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("t5ray").experiment_id])
    children = {run.info.run_id: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert set(children) == {t["mlflow_run_id"] for t in trials}
    for trial in trials:
        run = children[trial["mlflow_run_id"]]
        assert run.data.params == {name: str(value) for name, value in trial["params"].items()}
        assert run.data.metrics["best_accuracy"] == trial["best_value"]
        history = client.get_metric_history(run.info.run_id, "accuracy")
        assert [(m.step, m.value) for m in history] == list(enumerate(trial["values"], start=1))
    with_models = [run_id for run_id, run in children.items() if run.outputs.model_outputs]
    assert with_models == [best["mlflow_run_id"]]
    assert client.get_model_version_by_alias("kinds", "champion").run_id == best["mlflow_run_id"]
    (study,) = (run.info.run_id for run in runs if run.info.run_id not in children)
    assert {file.path for file in client.list_artifacts(study)} == {"report.html", "search.json"}

    assert tune(arguments(words, tiny_t5)) == 2  # the folder is taken
    capsys.readouterr()
    assert tune([*arguments(words, tiny_t5), "--resume"]) == 0
    assert "this search is finished; nothing was trained again" in capsys.readouterr().out

    looks: list[object] = []

    def judge(prepared: Prepared, loaded: LoadedModel) -> dict[str, float]:
        looks.append(prepared)
        return judge_on_test(prepared, loaded)

    monkeypatch.setattr(conclude, "judge_on_test", judge)
    assert tune([*arguments(words, tiny_t5, **{"confirm-seeds": 2}), "--extend", "2"]) == 0
    extended = result(folder)["trials"]
    assert extended[:5] == trials
    assert [t["trial"] for t in extended] == list(range(7))
    assert len(looks) == 1  # the winner, once
    require_confirmed_winner(folder)


def require_confirmed_winner(folder: Path) -> None:
    """Check that the best were trained again on fresh seeds, and that the best of those is the bundle."""
    found, folder = result(folder), folder / "runs/words"
    confirm, values = found["confirm"], {t["trial"]: t["best_value"] for t in found["trials"]}
    ranked = sorted(values, key=lambda trial: (-values[trial], trial))
    assert (confirm["seeds"], {c["trial"] for c in confirm["candidates"]}) == ([1, 2], {0, *ranked[:3]})
    best = max(confirm["candidates"], key=lambda c: (c["mean"], values[c["trial"]], -c["trial"]))
    assert confirm["winner"] == best["trial"]
    assert found["best"] | {"epoch": 0} == {"trial": best["trial"], "value": best["values"][1], "epoch": 0, "seed": 2}
    assert all(c["interval"][0] <= c["mean"] <= c["interval"][1] for c in confirm["candidates"])
    (kept,) = (folder / "state/trials").iterdir()
    assert kept.name.partition(".")[0] == f"{best['trial']}-seed2"
    card = json.loads((folder / "best/t5ray.json").read_text())
    assert card["training"] == card["training"] | found["trials"][best["trial"]]["params"] | {"seed": 2}
    assert card["metrics"]["accuracy"] == best["values"][1]
    rows = json.loads((folder / f"state/confirm/{kept.name}.json").read_text())
    assert len(rows["predictions"]) == confirm["rows"]


def test_failed_trials_end_neither_the_search_nor_their_slot_and_the_end_says_why(
    local_ray: None, folder: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = T5ForConditionalGeneration.from_pretrained(make_tiny_t5(tmp_path / "broken"))
    with torch.no_grad():
        model.encoder.final_layer_norm.weight.fill_(math.inf)
    model.save_pretrained(tmp_path / "broken")
    given = arguments(words, tmp_path / "broken", **{"num-trials": 3, "max-concurrent": 1})
    assert tune(given) == 1
    said, message = (" ".join(text.split()) for text in capsys.readouterr())
    why = "all 3 failed: the loss must be finite, but is nan at step 1 (trial 0, 1, 2)"
    assert why in message
    assert "--resume" not in said  # there is nothing to go on with
    found = result(folder)
    assert [t["state"] for t in found["trials"]] == ["FAIL"] * 3
    assert found["best"] is None
    told = study_trials(folder)
    assert [t.state.name for t in told] == ["FAIL"] * 3
    assert {t.user_attrs["cause"] for t in told} == {"the loss must be finite, but is nan at step 1"}
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("t5ray").experiment_id])
    assert [run.info.status for run in runs] == ["FAILED"] * 4  # the study and its trials
    (study,) = (run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert {file.path for file in client.list_artifacts(study)} == {"report.html", "search.json"}

    assert tune([*given, "--resume"]) == 1
    said, message = (" ".join(text.split()) for text in capsys.readouterr())
    assert "this search is finished; nothing was trained again" in said
    assert why in message


def test_a_trial_that_can_never_fit_is_refused_at_once(
    local_ray: None, folder: Path, words: Path, tiny_t5: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(arguments(words, tiny_t5, **{"workers-per-trial": 3, "tracking-uri": "none"})) == 6
    assert "needs 3 workers of 1 CPU" in capsys.readouterr().err
    assert tune(arguments(words, tiny_t5, **{"gpus-per-worker": 1, "tracking-uri": "none", "name": "gpu"})) == 6


def test_a_time_budget_closes_the_books_of_running_trials_and_what_it_left_out_is_said(
    local_ray: None, folder: Path, words: Path, tiny_t5: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"max-epochs": 100_000, "num-trials": 3, "max-concurrent": 1, "confirm-seeds": 1}
    begin = arguments(words, tiny_t5, **flags, **{"time-budget": "12s"})
    again = [*arguments(words, tiny_t5, **flags, **{"time-budget": "100s"}), "--resume"]
    assert tune(begin) == 0 or tune(again) == 0  # a machine that is busy may need more for an epoch
    said = " ".join(capsys.readouterr().out.split())
    assert "Nothing was confirmed: fewer than two different trials have a value." in said
    (trial,) = result(folder)["trials"]
    assert trial["state"] == "PRUNED"
    assert "the time budget was used up" in trial["reason"]
    assert trial["stopped_epoch"] is None
    assert not list((folder / "runs/words/state/trials").rglob("*.pt*"))
    assert "they would have trained" not in (folder / "runs/words/report.html").read_text()  # ASHA saved nothing
    (told,) = study_trials(folder)
    assert (told.state.name, told.user_attrs["cause"]) == ("FAIL", trial["reason"])  # pruned is what ASHA stopped
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    assert client.get_run(trial["mlflow_run_id"]).info.status == "KILLED"
    AutoModelForSeq2SeqLM.from_pretrained(folder / "runs/words/best")


def test_a_time_budget_that_is_up_before_an_epoch_costs_no_trial(
    local_ray: None, folder: Path, words: Path, tiny_t5: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"max-epochs": 1, "num-trials": 2, "max-concurrent": 1}
    assert tune(arguments(words, tiny_t5, **flags, **{"time-budget": "1s"})) == 1
    assert "the time budget was used up before" in " ".join(capsys.readouterr().err.split())
    assert tune([*arguments(words, tiny_t5, **flags), "--resume"]) == 0
    found = result(folder)
    assert [(trial["trial"], trial["state"]) for trial in found["trials"]] == [(0, "COMPLETE"), (1, "COMPLETE")]
    assert found["default"]["value"] is not None
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("t5ray").experiment_id])
    assert sorted(run.info.status for run in runs) == ["FINISHED"] * 3


@pytest.mark.long
def test_two_workers_per_trial(local_ray: None, folder: Path, words: Path, tiny_t5: Path) -> None:
    flags = {"workers-per-trial": 2, "num-trials": 2, "max-epochs": 2, "tracking-uri": "none"}
    assert tune(arguments(words, tiny_t5, **flags)) == 0
    assert [t["state"] for t in result(folder)["trials"]] in (["COMPLETE", "COMPLETE"], ["COMPLETE", "PRUNED"])
    left = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
    assert left == []


@pytest.mark.parametrize("how", ["SIGINT", pytest.param("SIGKILL", marks=pytest.mark.long)])
def test_an_interrupted_search_goes_on_where_it_was(folder: Path, words: Path, tiny_t5: Path, how: str) -> None:
    given = arguments(words, tiny_t5, **{"num-trials": 3, "max-epochs": 12, "max-concurrent": 1})
    command = [sys.executable, "-m", "t5ray.tune", *given]
    process = subprocess.Popen(command, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    family = _family_after_first_report(process, folder / "runs/words/state/ledger.json")
    started = time.monotonic()
    process.send_signal(getattr(signal, how))
    code = process.wait(30)
    if how == "SIGINT":
        assert code == 130
        assert time.monotonic() - started < 15
    # Ctrl-C waits for Ray to end; after a kill, Ray's processes notice one by one that they are alone
    _, alive = psutil.wait_procs(family, timeout=15 if how == "SIGINT" else 90)
    assert alive == []
    before = json.loads((folder / "runs/words/state/ledger.json").read_text())
    ended = subprocess.run([*command, "--resume"], check=False)
    assert ended.returncode == 0
    after = result(folder)
    assert [t["trial"] for t in after["trials"]] == [0, 1, 2]
    assert all(t["state"] in ("COMPLETE", "PRUNED") for t in after["trials"])
    for old in before["trials"]:
        new = after["trials"][old["trial"]]
        assert new["params"] == old["params"]
        assert new["mlflow_run_id"] == old["mlflow_run_id"]
        known = [report["value"] for report in old["reports"]]
        assert new["values"][: len(known)] == known
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("t5ray").experiment_id])
    assert len(runs) == 4  # one study, three trials, none twice


def _family_after_first_report(process: subprocess.Popen[bytes], ledger: Path) -> list[psutil.Process]:
    """Wait until the search has heard of a few epochs; return its processes, Ray's included."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None
        if ledger.exists():
            trials = json.loads(ledger.read_text())["trials"]
            if any(len(trial["reports"]) >= 3 for trial in trials):
                return psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.2)
    raise AssertionError("the search reported no epoch within two minutes")
