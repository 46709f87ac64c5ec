"""The demo's model: small, loadable by plain transformers, and lossless on every text it meets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    T5Config,
    T5ForConditionalGeneration,
)

from t5ray.config import DecodeConfig
from t5ray.demo import dates_data, examples_data, model_files
from t5ray.model.bare import initialise
from t5ray.model.engine import Engine

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_demo_model.py"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(model_files())


def test_the_script_gives_the_shipped_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], check=True, capture_output=True)
    shipped = sorted(path.name for path in model_files().iterdir())
    assert shipped == ["config.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == shipped
    for name in shipped:
        made, kept = (json.loads((folder / name).read_text("utf-8")) for folder in (tmp_path, model_files()))
        for content in (made, kept):
            content.pop("transformers_version", None)
        assert made == kept


def test_it_has_at_most_a_million_parameters_and_a_tied_head() -> None:
    config = T5Config.from_pretrained(model_files())
    model = T5ForConditionalGeneration(config)
    assert model.num_parameters() <= 1_000_000
    assert model.lm_head.weight is model.shared.weight
    assert config.tie_word_embeddings is True


def test_pieces_are_characters_with_an_end(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<pad>", "</s>", "<unk>"]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("normalize date: 1º de março").input_ids)
    assert pieces == ["normalize date: ", *"1º de março", "</s>"]
    assert len(tokenizer) == T5Config.from_pretrained(model_files()).vocab_size


def test_every_text_decodes_to_itself(tokenizer: PreTrainedTokenizerBase) -> None:
    lines = [*dates_data().read_text("utf-8").splitlines(), *examples_data().read_text("utf-8").splitlines()]
    rows = [json.loads(line) for line in lines]
    texts = [text for row in rows for text in (row["text"], "normalize date: " + row["text"], row.get("iso", ""))]
    encoded = tokenizer(texts).input_ids
    assert tokenizer.batch_decode(encoded, skip_special_tokens=True) == texts
    assert all(tokenizer.unk_token_id not in ids for ids in encoded)


def test_spaces_survive(tokenizer: PreTrainedTokenizerBase) -> None:
    text = " two  spaces , and a dot . "
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("beams", [1, 3])
def test_the_engine_says_of_dates_what_transformers_generate_says(tmp_path: Path, beams: int) -> None:
    folder = initialise(model_files(), tmp_path, seed=3)
    lines = dates_data().read_text("utf-8").splitlines()[::1500]
    texts = ["normalize date: " + json.loads(line)["text"] for line in lines]
    found = Engine(str(folder), decode=DecodeConfig(max_new_tokens=12, num_beams=beams)).predict(texts)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    own = AutoTokenizer.from_pretrained(folder)
    for text, prediction in zip(texts, found, strict=True):
        output = model.generate(**own(text, return_tensors="pt"), max_new_tokens=12, num_beams=beams)
        assert prediction.text == own.decode(output[0], skip_special_tokens=True)
