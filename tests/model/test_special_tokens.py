"""Where a text starts and ends, as a checkpoint's two files say it. Expected texts are transformers' own."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    ByT5Tokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5ForConditionalGeneration,
)

from t5ray.config import DecodeConfig, RunConfig
from t5ray.demo import model_files
from t5ray.doctor import check_model
from t5ray.errors import ModelError
from t5ray.model.bare import initialise
from t5ray.model.ctranslate import CTranslateEngine, is_installed
from t5ray.model.engine import Engine
from t5ray.model.loading import check_weights, load_model
from tests.model.decoding.models import make
from tests.tiny import character_tokenizer, make_tiny_t5, tiny_config

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


def test_where_generation_config_names_no_end_predict_goes_by_config_and_generate_has_none(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    make("mt5").save_pretrained(folder)  # whose texts end at different lengths
    character_tokenizer().save_pretrained(folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if "eos" not in key}))
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = [tokenizer(text, return_tensors="pt") for text in TEXTS]
    endless = [model.generate(**row, max_new_tokens=12, do_sample=False)[0, 1:] for row in rows]
    ended = [model.generate(**row, max_new_tokens=12, do_sample=False, eos_token_id=1)[0, 1:] for row in rows]
    assert any(1 in ids for ids in ended)
    assert all(len(ids) == 12 for ids in endless)
    found = Engine(str(folder), decode=DecodeConfig(max_new_tokens=12)).predict(TEXTS)
    assert [one.text for one in found] == [tokenizer.decode(ids, skip_special_tokens=True) for ids in ended]
    assert [one.hit_cap for one in found] == [1 not in ids for ids in ended]


NOT_THE_TOKENIZERS = [
    ({}, {"eos_token_id": 40}, r"eos_token_id .* is 40 in .*, and 1 \(</s>\) in the tokenizer\. .*write 1 into"),
    ({"eos_token_id": 40}, {"eos_token_id": None}, r"eos_token_id .* is 40 in .*, and 1 \(</s>\) in the tokenizer"),
    ({}, {"pad_token_id": 5}, r"pad_token_id .* is 5 in .*, and 0 \(<pad>\) in the tokenizer\. .*write 0 into"),
]


@pytest.mark.parametrize(
    ("config", "generation", "message"), NOT_THE_TOKENIZERS, ids=["end", "config's end", "padding"]
)
def test_an_end_or_padding_that_is_not_the_tokenizers_is_refused(
    tmp_path: Path, config: Values, generation: Values, message: str
) -> None:
    folder = stating(tmp_path / "model", config, generation)
    for look in (
        lambda: load_model(str(folder)),
        lambda: check_weights(folder),
        lambda: Engine(str(folder)),
        lambda: check_model(RunConfig(model=str(folder))),
    ):
        with pytest.raises(ModelError, match=message):
            look()


@pytest.mark.skipif(not is_installed(), reason="ctranslate2 is an extra")
@pytest.mark.parametrize(
    ("config", "generation", "message"), NOT_THE_TOKENIZERS, ids=["end", "config's end", "padding"]
)
def test_ctranslate2_refuses_it_as_well(tmp_path: Path, config: Values, generation: Values, message: str) -> None:
    folder = stating(tmp_path / "model", config, generation)
    with pytest.raises(ModelError, match=message):
        CTranslateEngine(str(folder), decode=DecodeConfig(max_new_tokens=12), cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def of_bytes() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """ByT5's tokenizer, and a model of its vocabulary."""
    tokenizer, config = ByT5Tokenizer(), tiny_config()
    config.vocab_size = 384
    return T5ForConditionalGeneration(config), tokenizer


def moved() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Tokens in MADLAD-400's places: 1 pads, 2 ends, 0 starts."""
    tokenizer, config = character_tokenizer(), tiny_config()
    tokenizer.pad_token, tokenizer.eos_token, tokenizer.unk_token = "</s>", "<unk>", "<pad>"
    config.pad_token_id, config.eos_token_id = 1, 2
    return T5ForConditionalGeneration(config), tokenizer


SOUND = {
    "mt5": lambda: (make("mt5"), character_tokenizer()),
    "umt5": lambda: (make("umt5"), character_tokenizer()),
    "byt5": of_bytes,
    "moved": moved,
}


@pytest.mark.parametrize(("kind", "tokens"), [("mt5", (1, 0)), ("umt5", (1, 0)), ("byt5", (1, 0)), ("moved", (2, 1))])
def test_models_with_their_own_tokenizer_load(tmp_path: Path, kind: str, tokens: tuple[int, int]) -> None:
    for part in SOUND[kind]():
        part.save_pretrained(tmp_path)
    check_weights(tmp_path)
    loaded = load_model(str(tmp_path))
    for of in (loaded.model.config, loaded.tokenizer):
        assert (of.eos_token_id, of.pad_token_id) == tokens


def test_the_demos_model_loads(tmp_path: Path) -> None:
    folder = initialise(model_files(), tmp_path, seed=0)
    check_weights(folder)
    assert load_model(str(folder)).tokenizer.eos_token_id == 1
