"""CTranslate2 as an engine. Expected texts and probabilities are transformers' own."""

import importlib.metadata
import json
import math
import shutil
from itertools import product
from pathlib import Path

import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from t5ray.config import DecodeConfig, TaskConfig
from t5ray.errors import ModelError
from t5ray.model.card import BundleCard, fingerprint
from tests.tiny import make_tiny_t5

pytest.importorskip("ctranslate2")
from t5ray.model import ctranslate
from t5ray.model.ctranslate import CTranslateEngine, converted

TEXTS = ["a tale of two cities", "b", "the quick brown fox jumps over the lazy dog", "42 is the answer", "b"]
DECODE = DecodeConfig(max_new_tokens=8)


@pytest.fixture
def gated(tmp_path: Path) -> Path:
    return make_tiny_t5(tmp_path / "model", gated=True, tied=False)


@pytest.mark.parametrize(("is_gated", "tied"), list(product([False, True], [False, True])))
def test_greedy_texts_and_probabilities_are_those_of_generate(tmp_path: Path, is_gated: bool, tied: bool) -> None:
    folder = make_tiny_t5(tmp_path / "model", gated=is_gated, tied=tied)
    engine = CTranslateEngine(str(folder), decode=DECODE, cache=tmp_path / "cache", batch_tokens=60)
    found = engine.predict(TEXTS, scores=True)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for text, prediction in zip(TEXTS, found, strict=True):
        output = model.generate(
            **tokenizer(text, return_tensors="pt"), max_new_tokens=8, output_scores=True, return_dict_in_generate=True
        )
        steps = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
        assert prediction.text == tokenizer.decode(output.sequences[0], skip_special_tokens=True)
        assert prediction.score == pytest.approx(steps.sum().exp().item(), rel=1e-3)
        assert prediction.hit_cap == (1 not in output.sequences[0, 1:])
    assert engine.tally.real_tokens == sum(len(text) + 1 for text in set(TEXTS))
    assert engine.tally.padded_tokens >= engine.tally.real_tokens


def test_int8_texts_are_those_of_ctranslate2s_own_int8_model(gated: Path, tmp_path: Path) -> None:
    found = CTranslateEngine(str(gated), decode=DECODE, dtype="int8", cache=tmp_path / "cache").predict(TEXTS)
    import ctranslate2

    theirs = tmp_path / "theirs"
    ctranslate2.converters.TransformersConverter(str(gated)).convert(str(theirs), quantization="int8")
    tokenizer = AutoTokenizer.from_pretrained(gated)
    rows = [tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) for text in TEXTS]
    results = ctranslate2.Translator(str(theirs)).translate_batch(rows, beam_size=1, max_decoding_length=8)
    ids = [tokenizer.convert_tokens_to_ids(result.hypotheses[0]) for result in results]
    assert [one.text for one in found] == tokenizer.batch_decode(ids, skip_special_tokens=True)


def test_beams_give_generates_text_first_and_others_after_it(gated: Path, tmp_path: Path) -> None:
    decode = DecodeConfig(max_new_tokens=5, num_beams=3, num_return_sequences=2)
    found = CTranslateEngine(str(gated), decode=decode, cache=tmp_path / "cache").predict(TEXTS, scores=True)
    assert all(len(one.texts) == 2 and one.text == one.texts[0] for one in found)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(gated), AutoTokenizer.from_pretrained(gated)
    for text, one in zip(TEXTS, found, strict=True):
        output = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=5, num_beams=3)
        assert one.text == tokenizer.decode(output[0], skip_special_tokens=True)
        labels = output[:, 1:]
        loss = model(**tokenizer(text, return_tensors="pt"), labels=labels).loss.item()
        assert one.score == pytest.approx(math.exp(-loss * labels.shape[1]), rel=1e-3)


def test_a_bundles_settings_are_in_force_and_inputs_cut_as_in_training(gated: Path, tmp_path: Path) -> None:
    task = TaskConfig(name="t", inputs="{text}", targets="{loud}", metrics=("exact_match",))
    card = BundleCard(task=task, decode=DecodeConfig(max_new_tokens=3), max_input_tokens=5)
    (gated / "t5ray.json").write_text(card.model_dump_json())
    engine = CTranslateEngine(str(gated), cache=tmp_path / "cache")
    long, short = engine.predict(["42 is the answer", "42 i"])
    assert long.text == short.text
    assert len(long.text) == 3
    assert (engine.num_tokens(["abc", "z"]), engine.max_input_tokens, engine.predict([])) == ([4, 2], 5, [])


def test_a_model_is_converted_once_per_weights_and_dtype(
    gated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, made = tmp_path / "cache", list[str]()
    convert = ctranslate._convert

    def counted(source: str, dtype: ctranslate.EngineDtype, target: str) -> None:
        made.append(dtype)
        convert(source, dtype, target)

    monkeypatch.setattr(ctranslate, "_convert", counted)
    first = converted(str(gated), "float32", cache)
    assert converted(str(gated), "float32", cache) == first
    small = converted(str(gated), "int8", cache)
    assert (small / "model.bin").stat().st_size < (first / "model.bin").stat().st_size
    other = make_tiny_t5(tmp_path / "other", gated=True, seed=1)
    assert converted(str(other), "float32", cache) != first
    assert made == ["float32", "int8", "float32"]
    assert len(list(cache.iterdir())) == 3


def test_what_was_converted_by_other_rules_is_converted_anew(
    gated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = converted(str(gated), "float32", cache)
    version = importlib.metadata.version("ctranslate2")
    assert first.name != f"{fingerprint(gated)[:16]}-float32-{version}"  # as it was before rules were counted
    monkeypatch.setattr(ctranslate, "RULES", ctranslate.RULES + 1)
    assert converted(str(gated), "float32", cache) != first


def test_a_conversion_that_fails_leaves_nothing(gated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, dtype: str, target: str) -> None:
        Path(target).mkdir()
        raise OSError("No space left on device")

    monkeypatch.setattr(ctranslate, "_convert", full)
    with pytest.raises(ModelError, match="cache of converted models must be writable, but: No space left"):
        converted(str(gated), "float32", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_of_two_processes_that_convert_at_once_one_wins(
    gated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = converted(str(gated), "float32", tmp_path / "first")
    target, convert = tmp_path / "cache" / first.name, ctranslate._convert

    def beaten(source: str, dtype: ctranslate.EngineDtype, folder: str) -> None:
        convert(source, dtype, folder)
        shutil.copytree(first, target)

    monkeypatch.setattr(ctranslate, "_convert", beaten)
    assert converted(str(gated), "float32", tmp_path / "cache") == target
    assert [path.name for path in target.parent.iterdir()] == [first.name]
    assert json.loads((target / "config.json").read_text())


@pytest.mark.parametrize(
    ("decode", "labels", "message"),
    [
        (DECODE, ("up", "down"), "the answers are a closed set, which the engine torch scores. Use --engine torch"),
        (DecodeConfig(answers=("a",)), (), "the answers are a closed set"),
        (DecodeConfig(do_sample=True), (), "needs decode.do_sample false, but it is true"),
        (DecodeConfig(num_beams=2, early_stopping="never"), (), "needs decode.early_stopping false, but it is never"),
    ],
)
def test_what_it_cannot_do_is_refused(
    gated: Path, tmp_path: Path, decode: DecodeConfig, labels: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        CTranslateEngine(str(gated), decode=decode, labels=labels, cache=tmp_path)
    assert list(tmp_path.iterdir()) == [gated]


def test_scores_of_all_labels_are_refused(gated: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="for a task with closed labels only"):
        CTranslateEngine(str(gated), decode=DECODE, cache=tmp_path / "cache").predict(["a"], all_scores=True)
