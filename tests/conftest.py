"""Fixtures for every room."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from t5ray import heap

# `make test` draws the same examples each time (--hypothesis-profile=ci); `make test-all` goes and looks for new ones.
hypothesis.settings.register_profile("exploring", deadline=None, max_examples=500)
# A shell that starts the tests in the background has them, and the commands they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
# As in an activated virtual environment: printed commands then begin with `python`.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: more threads only wait for each other
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # else each group of workers takes 2 s to end


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share the tests out to processes: all modules that start a Ray have the same, as two Rays take each other's cores."""
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class OneRay(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            module = config.rootpath / nodeid.split("::")[0]
            return "ray" if "mark.integration" in module.read_text(encoding="utf-8") else str(module)

    return OneRay(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what takes longest: the modules that start a Ray."""
    modules = {item.path for item in items if item.get_closest_marker("integration")}
    items.sort(key=lambda item: item.path not in modules)  # stable


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny random T5 and a character tokenizer."""
    from tests.tiny import make_tiny_t5

    return make_tiny_t5(tmp_path_factory.mktemp("tiny-t5"))


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray with two CPUs that the tests of a module share, begun as `tune` does; commands in this process join it."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        for name, value in heap.environment().items():
            patch.setenv(name, value)
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def gpu_in_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have torch say that there is a GPU, which may not be true: whatever computes there then fails."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """Rows of short words and their first letter's kind: a vowel or not."""
    words = [a + b + c for a in "abcdefgh" for b in "aeiou" for c in "klmn"]
    path = tmp_path / "words.jsonl"
    rows = ({"text": word, "label": "vowel" if word[0] in "ae" else "consonant"} for word in words)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
