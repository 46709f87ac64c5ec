"""Trials that share a GPU. Ray is told of a GPU that is not there: what is placed where does not depend on it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from t5ray.training import outcome
from t5ray.tune import main as tune
from tests.search.commands import SPACE, arguments, result

pytestmark = [pytest.mark.integration, pytest.mark.long]


@pytest.fixture
def one_gpu() -> Iterator[None]:
    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def test_two_trials_share_a_gpu_and_the_winner_is_judged_there(
    one_gpu: None, tmp_path: Path, words: Path, tiny_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    free, over = set[float](), threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            free.add(ray.available_resources().get("GPU", 0.0))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    for name in ("validate", "fit_label_temperature"):  # patched here, where the winner must not be judged
        monkeypatch.setattr(outcome, name, None)
    flags = {"gpus-per-worker": 0.5, "num-trials": 4, "max-epochs": 2, "tracking-uri": "none"}
    assert tune(arguments(words, tiny_t5, **flags)) == 0
    over.set()
    watcher.join()
    assert free <= {0.0, 0.5, 1.0}
    assert 0.0 in free  # both halves were taken
    found = result(tmp_path)
    assert {t["state"] for t in found["trials"]} <= {"COMPLETE", "PRUNED"}
    assert 0 <= found["test"]["accuracy"] <= 1
