"""What a plain model's files say of decoding. Expected texts are those of `generate` on the same directory."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from t5ray.config import DecodeConfig
from t5ray.errors import ModelError
from t5ray.model.ctranslate import CTranslateEngine, is_installed
from t5ray.model.engine import Engine
from t5ray.model.own_decode import plain_decode
from tests.model.decoding.models import TEXTS, make
from tests.tiny import character_tokenizer, make_tiny_t5

Values = dict[str, Any]
WAYS: dict[str, Values] = {
    "beams": {"num_beams": 4, "no_repeat_ngram_size": 2, "length_penalty": 0.6, "max_length": 15},
    "early": {"num_beams": 3, "early_stopping": True, "max_new_tokens": 12, "max_length": 5},
    "never": {"num_beams": 3, "early_stopping": "never", "length_penalty": -1.0, "max_new_tokens": 12},
    "penalised": {"repetition_penalty": 1.7, "min_length": 8, "max_length": 11},
    "shortest": {"min_new_tokens": 7, "min_length": 2, "max_new_tokens": 10},
    "samples": {"do_sample": True, "top_k": 1, "temperature": 0.5, "top_p": 0.9, "max_new_tokens": 10},
    "idle": {"temperature": 0.5, "top_k": 5, "top_p": 0.9, "typical_p": 0.5, "num_beam_groups": 1, "max_length": 10},
    "groups of one": {"num_beam_groups": 3, "diversity_penalty": 0.5, "renormalize_logits": True, "max_length": 10},
    "beams alone": {
        "num_beams": 3,
        "diversity_penalty": 0.5,
        "penalty_alpha": 0.6,
        "dola_layers": "low",
        "max_length": 9,
    },
    "one candidate": {"penalty_alpha": 0.6, "top_k": 1, "max_length": 10.0},
}


def stating(folder: Path, values: Values, *, file: str = "generation_config.json") -> Path:
    """Make a model whose texts end at different lengths, and one of whose files states these values as well."""
    make("mt5").save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    if file == "config.json":
        (folder / "generation_config.json").unlink()
    (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **values}))
    return folder


def generated(folder: Path, **asked: Any) -> list[list[str]]:
    """Return what transformers generates from each text, by the model's files unless asked otherwise."""
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = (tokenizer(text, return_tensors="pt") for text in TEXTS)
    return [tokenizer.batch_decode(model.generate(**row, **asked), skip_special_tokens=True) for row in rows]


@pytest.mark.parametrize(
    ("way", "file"), [*((way, "generation_config.json") for way in WAYS), ("beams", "config.json")]
)
def test_a_plain_model_decodes_as_its_files_say(tmp_path: Path, way: str, file: str) -> None:
    folder = stating(tmp_path / "model", WAYS[way], file=file)
    expected = [texts[0] for texts in generated(folder)]
    assert [one.text for one in Engine(str(folder)).predict(TEXTS)] == expected
    greedy = Engine(str(folder), decode=DecodeConfig(max_new_tokens=10)).predict(TEXTS)
    assert (expected == [one.text for one in greedy]) == (way == "samples")  # of one token at a time: greedy itself


def test_several_texts_where_the_model_says_so(tmp_path: Path) -> None:
    folder = stating(tmp_path / "model", {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 9})
    assert [list(one.texts) for one in Engine(str(folder)).predict(TEXTS)] == generated(folder)


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_a_hub_models_files_are_looked_at_where_they_were_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    commit, repo = "a" * 40, tmp_path / "models--some--model"
    stating(repo / "snapshots" / commit, {"num_beams": 3, "max_length": 8}, file=file)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert plain_decode("some/model") == DecodeConfig(num_beams=3, max_new_tokens=7)


def test_what_is_asked_for_wins_and_the_rest_stays_the_models(tmp_path: Path) -> None:
    folder = stating(tmp_path / "model", WAYS["beams"])
    decode = plain_decode(str(folder), DecodeConfig(num_beams=2))
    expected = generated(folder, num_beams=2)
    assert [one.text for one in Engine(str(folder), decode=decode).predict(TEXTS)] == [texts[0] for texts in expected]
    own = plain_decode(str(folder))
    assert (own.num_beams, own.no_repeat_ngram_size, own.length_penalty, own.max_new_tokens) == (4, 2, 0.6, 14)


def test_a_model_that_samples_does_so_from_the_tokens_that_generate_would(tmp_path: Path) -> None:
    folder = str(stating(tmp_path / "model", {"do_sample": True, "temperature": 0.7}))
    own = plain_decode(folder)
    assert (own.do_sample, own.temperature) == (True, 0.7)
    assert own.top_k == GenerationConfig._get_default_generation_params()["top_k"]
    assert plain_decode(folder, DecodeConfig(do_sample=False)) == DecodeConfig(max_new_tokens=128)
    with pytest.raises(ValidationError, match="do_sample needs num_beams 1, but got 2"):
        plain_decode(folder, DecodeConfig(num_beams=2))


def test_rules_of_sampling_wait_until_sampling_is_asked_for(tmp_path: Path) -> None:
    folder = str(stating(tmp_path / "model", {"temperature": 0.7, "min_p": 0.1}))
    assert plain_decode(folder) == DecodeConfig(max_new_tokens=128)
    with pytest.raises(ModelError, match=r"decoding here does not know, but it has min_p 0\.1\."):
        plain_decode(folder, DecodeConfig(do_sample=True))


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_what_decoding_here_does_not_know_is_refused_by_name(tmp_path: Path, file: str) -> None:
    stated = {"suppress_tokens": [5, 6], "encoder_no_repeat_ngram_size": 3, "forced_bos_token_id": None}
    folder = str(stating(tmp_path / "model", stated, file=file))
    message = rf"{file} must ask .* but it has encoder_no_repeat_ngram_size 3, suppress_tokens \[5, 6\]\. Take that out"
    for look in (lambda: plain_decode(folder), lambda: Engine(folder)):
        with pytest.raises(ModelError, match=message):
            look()


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ({"penalty_alpha": 0.6}, r"penalty_alpha 0\.6"),
        ({"penalty_alpha": 0.6, "top_k": 4}, r"penalty_alpha 0\.6"),
        ({"dola_layers": "low"}, 'dola_layers "low"'),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, "num_beam_groups 2"),
        ({"num_beams": 4, "renormalize_logits": True}, "renormalize_logits true"),
        ({"watermarking_config": {}}, r"watermarking_config \{\}"),
        ({"max_time": 100}, "max_time 100"),
    ],
)
def test_what_changes_texts_beside_the_other_settings_is_refused(tmp_path: Path, stated: Values, told: str) -> None:
    folder = str(stating(tmp_path / "model", stated))
    with pytest.raises(ModelError, match=rf"decoding here does not know, but it has {told}\. Take that out"):
        plain_decode(folder)


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ({"max_length": "20"}, 'max_length must be a whole number, but is "20"'),
        ({"min_length": 2.5}, r"min_length must be a whole number, but is 2\.5"),
        ({"max_length": [20]}, r"max_length must be a whole number, but is \[20\]"),
    ],
)
def test_a_length_that_is_no_whole_number_is_refused(tmp_path: Path, stated: Values, told: str) -> None:
    folder = str(stating(tmp_path / "model", stated))
    with pytest.raises(ModelError, match=rf"model: generation_config\.json: {told}\. Mend the file"):
        plain_decode(folder)


def test_a_file_that_is_no_object_of_json_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_t5(tmp_path / "model")
    for text, message in (
        ("{", "must be JSON that can be read"),
        ("[4]", r"must hold one JSON object, but holds \[4\]"),
    ):
        (folder / "generation_config.json").write_text(text)
        with pytest.raises(ModelError, match=rf"generation_config\.json: {message}"):
            plain_decode(str(folder))


def test_a_text_cannot_have_to_be_longer_than_it_may(tmp_path: Path) -> None:
    folder = str(make_tiny_t5(tmp_path / "model"))
    with pytest.raises(ModelError, match=r"decode: min_new_tokens must be at most max_new_tokens 128\."):
        Engine(folder, decode=DecodeConfig(min_new_tokens=129))
    own = str(stating(tmp_path / "own", {"min_length": 200}))
    with pytest.raises(ModelError, match=r"own: decode: min_new_tokens must be at most max_new_tokens 128\."):
        Engine(own)


@pytest.mark.skipif(not is_installed(), reason="ctranslate2 is an extra")
def test_ctranslate2_goes_by_the_models_files_as_well(tmp_path: Path) -> None:
    values = {"num_beams": 2, "no_repeat_ngram_size": 2, "max_length": 9}
    engine = CTranslateEngine(str(stating(tmp_path / "model", values)), cache=tmp_path / "cache")
    assert engine.decode == DecodeConfig(num_beams=2, no_repeat_ngram_size=2, max_new_tokens=8)
    never = stating(tmp_path / "never", WAYS["never"])
    with pytest.raises(ModelError, match=r"needs decode\.early_stopping false, but it is never"):
        CTranslateEngine(str(never), cache=tmp_path / "cache")
