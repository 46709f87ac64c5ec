from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from t5ray.config import DecodeConfig
from t5ray.data.tokens import TokenisedData
from t5ray.model.loading import load_model
from t5ray.training.calibration import fit_label_temperature
from tests.training.conftest import TASK, WORDS

CLOSED = TASK.model_copy(update={"closed_labels": True, "labels": tuple("abcdefgh")})
DECODE = DecodeConfig(max_new_tokens=4)


def test_the_temperature_minimises_the_loss_over_labels(tiny_t5: Path, data: TokenisedData) -> None:
    rows = np.arange(len(data.validation))
    loaded = load_model(str(tiny_t5))
    found = fit_label_temperature(loaded, data.validation, data.validation_references, CLOSED, DECODE, rows=rows)
    scores = torch.tensor([exhaustive(tiny_t5, word) for word in WORDS[::5][::2]])
    truths = torch.tensor(["abcdefgh".index(word[0]) for word in WORDS[::5][::2]])
    losses = [
        torch.nn.functional.cross_entropy(scores / temperature, truths).item()
        for temperature in (found * 0.98, found, found * 1.02)
    ]
    assert found > 2  # random weights are far too sure
    assert losses[1] == min(losses)


def exhaustive(folder: Path, word: str) -> list[float]:
    """The log-probability of each label by transformers' own loss."""
    loaded = load_model(str(folder))
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    inputs = loaded.tokenizer(f"first: {word}", return_tensors="pt").input_ids
    labels = [loaded.tokenizer(label, return_tensors="pt").input_ids for label in CLOSED.labels]
    with torch.no_grad():
        return [-model(input_ids=inputs, labels=ids).loss.item() * ids.shape[1] for ids in labels]


def test_rows_of_unknown_labels_teach_nothing(tiny_t5: Path, data: TokenisedData) -> None:
    loaded, rows = load_model(str(tiny_t5)), np.arange(len(data.validation))
    unknown = [("nothing",)] * len(rows)
    assert fit_label_temperature(loaded, data.validation, unknown, CLOSED, DECODE, rows=rows) == 1.0
    mixed = [*data.validation_references[:8], *unknown[8:]]
    some = fit_label_temperature(loaded, data.validation, mixed, CLOSED, DECODE, rows=rows)
    first = fit_label_temperature(loaded, data.validation, data.validation_references, CLOSED, DECODE, rows=rows[:8])
    assert some == pytest.approx(first)


def test_a_task_that_generates_has_none(tiny_t5: Path, data: TokenisedData) -> None:
    loaded = load_model(str(tiny_t5))
    assert fit_label_temperature(loaded, data.validation, [], TASK, DECODE, rows=np.arange(2)) == 1.0
