"""The probe takes steps of the middle, trains with the loop's own step, and says what cannot train."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import T5ForConditionalGeneration

from t5ray.config import DecodeConfig, RunConfig, TrainingConfig
from t5ray.data.batches import token_budget
from t5ray.training import probe
from t5ray.training.group import Group
from t5ray.training.plan import RunFailed
from t5ray.training.prepare import Prepared, prepare
from t5ray.training.probe import ProbeSpec, measure, median_steps
from tests.tiny import make_tiny_t5

LIMIT = token_budget(10_000)


@pytest.fixture
def prepared(words: Path, tiny_t5: Path, tmp_path: Path) -> Prepared:
    given = {"data": {"path": str(words)}, "task": "classify", "model": str(tiny_t5)}
    return prepare(RunConfig.model_validate(given), tmp_path / "cache")


def spec(prepared: Prepared, model: str) -> ProbeSpec:
    config, decode = TrainingConfig(batch_size=16), DecodeConfig(max_new_tokens=4)
    return ProbeSpec(model, config, prepared.task, decode, num_workers=1, threads=torch.get_num_threads())


def test_every_part_takes_time(prepared: Prepared) -> None:
    found = measure(spec(prepared, prepared.model), prepared.data)
    assert all(math.isfinite(s) and s > 0 for s in (found.load_s, found.step_s, found.validate_row_s))


@pytest.mark.parametrize(("gpus", "device"), [(0.0, "cpu"), (0.5, "cuda")])
def test_it_is_measured_on_a_gpu_only_where_a_worker_has_one(
    prepared: Prepared, gpu_in_sight: None, monkeypatch: pytest.MonkeyPatch, gpus: float, device: str
) -> None:
    devices = list[str]()

    def group(given: torch.device) -> Group:
        devices.append(given.type)
        return Group()

    monkeypatch.setattr(probe, "Group", group)
    assert measure(replace(spec(prepared, prepared.model), gpus=gpus), prepared.data).step_s > 0
    assert devices == [device]


def test_settings_that_cannot_train_are_told(prepared: Prepared, tmp_path: Path) -> None:
    model = T5ForConditionalGeneration.from_pretrained(make_tiny_t5(tmp_path / "broken"))
    with torch.no_grad():
        model.encoder.final_layer_norm.weight.fill_(math.inf)
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(RunFailed, match="the loss must be finite, but is nan at step 1"):
        measure(spec(prepared, str(tmp_path / "broken")), prepared.data)


def test_steps_of_the_middle_are_chosen(prepared: Prepared) -> None:
    split = prepared.data.train

    def sizes(count: int) -> list[int]:
        steps = median_steps(split, TrainingConfig(batch_size=8), LIMIT, 1, count)
        lengths = np.asarray(split.input_lengths) + np.asarray(split.label_lengths)
        return [int(max(lengths[rows].max() for rows in step.micro_batches)) for step in steps]

    everything, middle = sizes(1000), sizes(3)
    assert len(middle) == 3
    assert min(everything) <= min(middle) <= max(middle) <= max(everything)
    assert np.median(everything) in middle


def test_a_share_of_a_step_is_a_workers(prepared: Prepared) -> None:
    (whole,) = median_steps(prepared.data.train, TrainingConfig(batch_size=16), LIMIT, 1, 1)
    (half,) = median_steps(prepared.data.train, TrainingConfig(batch_size=16), LIMIT, 2, 1)
    assert sum(map(len, whole.micro_batches)) == 16
    assert sum(map(len, half.micro_batches)) == 8
