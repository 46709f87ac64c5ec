"""Where a text starts and ends, as a checkpoint's two files say it. Expected texts are transformers' own."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from t5ray.config import DecodeConfig
from t5ray.errors import ModelError
from t5ray.model.engine import Engine
from t5ray.model.loading import check_weights, load_model
from tests.tiny import make_tiny_t5

TEXTS = ["hello world", "a tale of two", "b", "zz top"]
Values = dict[str, Any]


def stating(folder: Path, config: Values, generation: Values) -> Path:
    """Make a model whose files say so; None: they say nothing."""
    make_tiny_t5(folder)
    for name, values in (("config.json", config), ("generation_config.json", generation)):
        content = {**json.loads((folder / name).read_text()), **values}
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return folder


@pytest.mark.parametrize(
    ("config", "generation"),
    [
        ({"decoder_start_token_id": None}, {"decoder_start_token_id": 0}),
        ({}, {"decoder_start_token_id": 7}),
        ({}, {"eos_token_id": 40}),
        ({"eos_token_id": [1]}, {"eos_token_id": [1]}),
    ],
)
def test_a_text_starts_and_ends_as_it_does_in_generate(tmp_path: Path, config: Values, generation: Values) -> None:
    folder = stating(tmp_path / "model", config, generation)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    expected = [
        tokenizer.decode(
            model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=12, do_sample=False)[0, 1:],
            skip_special_tokens=True,
        )
        for text in TEXTS
    ]
    found = Engine(str(folder), decode=DecodeConfig(max_new_tokens=12)).predict(TEXTS)
    assert [prediction.text for prediction in found] == expected


@pytest.mark.parametrize(
    ("config", "generation", "message"),
    [
        ({"decoder_start_token_id": None}, {"decoder_start_token_id": None}, "decoder_start_token_id .* but is None"),
        ({}, {"eos_token_id": [1, 40]}, r"eos_token_id .* but is \[1, 40\]"),
    ],
)
def test_a_token_that_is_missing_or_not_one_is_refused(
    tmp_path: Path, config: Values, generation: Values, message: str
) -> None:
    folder = stating(tmp_path / "model", config, generation)
    for look in (lambda: load_model(str(folder)), lambda: check_weights(folder)):
        with pytest.raises(ModelError, match=message):
            look()
