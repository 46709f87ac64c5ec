"""What a long search meets: many trials in one slot, full disks, workers that die."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from transformers import T5ForConditionalGeneration

from t5ray.config import TrainingConfig
from t5ray.search import study
from t5ray.search.capacity import checkpoint_bytes
from t5ray.search.journal import open_storage
from t5ray.tune import main as tune
from tests.disk import watched
from tests.search.commands import SPACE, arguments, result
from tests.tiny import character_tokenizer, tiny_config

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(580)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE + "scheduler: {name: none}\n")
    return tmp_path


@pytest.fixture
def wide_t5(tmp_path: Path) -> Path:
    """A model of some 20 MB: next to it the names and numbers beside the weights are small."""
    T5ForConditionalGeneration(tiny_config(d_model=512)).save_pretrained(tmp_path / "wide")
    character_tokenizer().save_pretrained(tmp_path / "wide")
    return tmp_path / "wide"


def test_thirty_trials_in_one_slot_need_no_more_memory_or_disk_than_five(
    local_ray: None, folder: Path, words: Path, wide_t5: Path
) -> None:
    size = (wide_t5 / "model.safetensors").stat().st_size
    flags = {"num-trials": 30, "max-epochs": 2, "max-concurrent": 1, "tracking-uri": "none"}
    with watched(folder / "runs/words/state/trials") as disk:
        assert tune(arguments(words, wide_t5, **flags)) == 0
    trials = json.loads((folder / "runs/words/state/ledger.json").read_text())["trials"]
    used = [trial["reports"][0]["history"][-1]["memory_bytes"] for trial in trials]
    growth = sorted(used[25:])[2] - sorted(used[5:10])[2]
    assert growth < 20 * size / 2, used  # of 20 trials: half of what one copy of the weights for each would take
    assert size < disk.size_bytes < 1.05 * checkpoint_bytes(str(wide_t5), TrainingConfig(), slots=1)


@pytest.mark.parametrize(("optimizer", "moments"), [("adamw", 2), ("sgd", 1), ("adafactor", 0)])
@pytest.mark.parametrize("slots", [1, 2])
def test_trials_have_no_more_on_disk_than_two_checkpoints_each_and_one_more(
    local_ray: None, folder: Path, words: Path, wide_t5: Path, optimizer: str, moments: int, slots: int
) -> None:
    """In bytes, a checkpoint is what a run goes on from, weights and moments, and all that is half written counts.

    Adafactor has no moments to speak of: there the one that is being written comes on top.
    """
    checkpoint = (1 + moments) * (wide_t5 / "model.safetensors").stat().st_size
    flags = {"num-trials": 4, "max-epochs": 4, "max-concurrent": slots, "tracking-uri": "none"}
    with watched(folder / "runs/words/state/trials") as disk:
        assert tune([*arguments(words, wide_t5, **flags), "--set", f"training.optimizer={optimizer}"]) == 0
    assert slots + 1 <= disk.whole <= 2 * slots + 1
    assert disk.weights <= slots + 2
    assert disk.states in (slots, slots + 1)
    most = checkpoint_bytes(str(wide_t5), TrainingConfig.model_validate({"optimizer": optimizer}), slots=slots)
    assert checkpoint < disk.size_bytes < 1.02 * most
    assert most <= 1.001 * (2 * slots + 1 + (moments == 0)) * checkpoint


def test_a_trial_whose_process_is_killed_again_and_again_goes_on_from_its_last_checkpoint(
    local_ray: None, folder: Path, words: Path, tiny_t5: Path
) -> None:
    flags = {"num-trials": 2, "max-epochs": 20, "max-concurrent": 1, "tracking-uri": "none"}
    assert tune(arguments(words, tiny_t5, **flags, name="whole")) == 0
    killer = Killer(folder / "runs/killed/state/ledger.json", trial=1, epochs=4, times=study.CRASHES_ALLOWED + 1)
    assert tune(arguments(words, tiny_t5, **flags, name="killed")) == 0
    killer.join()
    whole, killed = (result(folder, name) for name in ("whole", "killed"))
    assert known(killed) == known(whole)
    after = json.loads((folder / "runs/killed/state/ledger.json").read_text())["trials"][1]["reports"]
    assert 4 <= len(killer.before) < 20
    told = killer.before[:-1]  # the seconds that saving the last one took are not in what was saved
    assert after[: len(told)] == told  # seconds of training included: they were not trained again


def test_a_trial_whose_process_dies_for_good_fails_with_its_cause_and_the_search_goes_on(
    local_ray: None, folder: Path, words: Path, tiny_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "CRASHES_ALLOWED", 0)
    killer = Killer(folder / "runs/killed/state/ledger.json", trial=1, epochs=2)
    flags = {"num-trials": 3, "max-epochs": 40, "max-concurrent": 1, "name": "killed"}
    assert tune(arguments(words, tiny_t5, **flags)) == 0
    killer.join()
    found = result(folder, "killed")
    assert [trial["state"] for trial in found["trials"]] == ["COMPLETE", "FAIL", "COMPLETE"]
    failed = found["trials"][1]
    assert "worker process has died" in failed["reason"]
    told = optuna.load_study(
        study_name="t5ray", storage=open_storage(folder / "runs/killed/state/optuna.journal")
    ).trials
    assert [trial.state.name for trial in told] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert told[1].user_attrs["cause"] == failed["reason"]
    assert list(told[1].intermediate_values.values()) == failed["values"]
    run = MlflowClient(f"sqlite:///{folder}/mlflow.db").get_run(failed["mlflow_run_id"])
    assert (run.info.status, run.data.tags["t5ray.reason"]) == ("FAILED", failed["reason"])
    assert found["best"]["trial"] != 1
    assert not list((folder / "runs/killed/state/trials").glob("1*"))


def known(search: dict[str, Any]) -> list[dict[str, Any]]:
    names = ("trial", "state", "reason", "params", "values", "best_epoch", "best_value")
    return [{name: trial[name] for name in names} for trial in search["trials"]] + [search["best"], search["test"]]


class Killer(threading.Thread):
    """Kills (SIGKILL) the one process that runs trials once a trial has told its epochs, then the next one."""

    def __init__(self, ledger: Path, *, trial: int, epochs: int, times: int = 1) -> None:
        super().__init__(daemon=True)
        self.ledger, self.trial, self.epochs, self.times = ledger, trial, epochs, times
        self.before: list[dict[str, Any]] = []
        """What was told before the kill."""
        self.start()

    def run(self) -> None:
        for _ in range(self.times):
            while len(self._reports()) < max(self.epochs, len(self.before) + 1):
                time.sleep(0.02)
            (slot,) = (p for p in psutil.Process().children(recursive=True) if "Trainable" in " ".join(p.cmdline()))
            slot.suspend()  # so that nothing is told between the look and the kill
            time.sleep(0.5)
            self.before = self._reports()
            slot.kill()

    def _reports(self) -> list[dict[str, Any]]:
        if not self.ledger.exists():
            return []
        trials = json.loads(self.ledger.read_text())["trials"]
        reports: list[dict[str, Any]] = trials[self.trial]["reports"] if len(trials) > self.trial else []
        return reports
