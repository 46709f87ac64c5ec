"""Augmented training splits: the shared rows first, then copies with the labels of their rows."""

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t5ray.config import DataConfig, TaskConfig, TrainingConfig
from t5ray.data import Example, Splits, TokenisedData, TokenisedSplit, tokenise
from t5ray.data.augmented import KEPT, Augmenter, TrainingTexts, augmented_split
from t5ray.text.augmentation import augmented
from tests.data.conftest import CLASSIFY, SUMMARIZE
from tests.tiny import character_tokenizer

PREFIX = "classify: "
TEXTS = {
    "build a large car": "yes",
    "the quick program": "no",
    "people in the library": "no",
    "one": "yes",
}
SWAP = TrainingConfig(augment_swap_rate=0.1, augment_copies=2)
OWN = TrainingConfig(augment_swap_rate=0.1, augment_swap_copies=2, augment_deletion_rate=0.5, augment_deletion_copies=1)


def example(text: str, *references: str) -> Example:
    return Example(PREFIX + text, references, "rows:1", ((len(PREFIX), len(PREFIX) + len(text)),))


TRAIN = tuple(example(text, label) for text, label in TEXTS.items())
HELD_OUT = (example("a car", "yes"), example("a program", "no"))


@pytest.fixture
def data(tmp_path: Path) -> TokenisedData:
    return tokenise(
        Splits(TRAIN, HELD_OUT[:1], HELD_OUT[1:], CLASSIFY, "print", (), True),
        character_tokenizer(),
        DataConfig(max_input_tokens=40),
        tokenizer_fingerprint="characters",
        model_max_tokens=None,
        cache=tmp_path,
    )


@pytest.fixture
def texts() -> TrainingTexts:
    return TrainingTexts.of(TRAIN, CLASSIFY)


def rows(split: TokenisedSplit) -> list[tuple[str, str]]:
    """Decode a split: characters, without EOS."""

    def decode(ids: Any, offsets: Any) -> list[str]:
        pieces = [ids[a:b] for a, b in itertools.pairwise(offsets)]
        assert all(piece[-1] == 1 for piece in pieces)
        return [character_tokenizer().decode(piece, skip_special_tokens=True) for piece in pieces]

    inputs, labels = decode(split.input_ids, split.input_offsets), decode(split.labels, split.label_offsets)
    return list(zip(inputs, labels, strict=True))


@pytest.mark.parametrize(("config", "most"), [(SWAP, 2), (OWN, 3)])
def test_copies_stand_behind_the_rows_with_their_labels(
    data: TokenisedData, texts: TrainingTexts, config: TrainingConfig, most: int
) -> None:
    split = augmented_split(data.train, texts, character_tokenizer(), config, seed=3, max_input_tokens=40)
    expected = [
        (copy.inputs, e.references[0])
        for e, row in zip(TRAIN, texts, strict=True)
        for copy in augmented(row, config, 3)
    ]
    assert rows(split)[: len(TRAIN)] == [(e.inputs, e.references[0]) for e in TRAIN]
    assert rows(split)[len(TRAIN) :] == expected
    assert 3 <= len(expected) <= most * 3  # a text of one word can be neither swapped nor shortened
    assert split.input_ids.dtype == np.int32
    assert split.input_offsets.dtype == split.label_offsets.dtype == np.int64


def test_copies_are_cut_as_rows_are(data: TokenisedData, texts: TrainingTexts) -> None:
    longer = TrainingConfig(augment_insertion_rate=1.0)
    split = augmented_split(data.train, texts, character_tokenizer(), longer, seed=0, max_input_tokens=40)
    assert max(split.input_lengths) == 40


def test_no_copies_leave_the_split_equal(data: TokenisedData, texts: TrainingTexts) -> None:
    split = augmented_split(data.train, texts, character_tokenizer(), TrainingConfig(), seed=0, max_input_tokens=40)
    assert rows(split) == rows(data.train)


def test_validation_and_test_are_never_touched(data: TokenisedData, texts: TrainingTexts) -> None:
    found = Augmenter(data, texts, character_tokenizer()).data_for(SWAP)
    assert len(found.train) > len(data.train)
    assert found.validation is data.validation
    assert found.test is data.test


def test_without_augmentation_the_shared_data_are_used_as_they_are(data: TokenisedData) -> None:
    assert Augmenter(data, None, character_tokenizer()).data_for(TrainingConfig(seed=5)) is data
    assert (
        Augmenter(data, None, character_tokenizer()).data_for(TrainingConfig(augment_copies=0, augment_swap_rate=1))
        is data
    )


def test_the_last_settings_are_kept_and_no_more(data: TokenisedData, texts: TrainingTexts) -> None:
    augmenter = Augmenter(data, texts, character_tokenizer())
    first = augmenter.data_for(SWAP)
    assert augmenter.data_for(SWAP.model_copy(update={"learning_rate": 0.5})) is first
    assert augmenter.data_for(SWAP.model_copy(update={"seed": 1})) is not first
    assert augmenter.data_for(SWAP) is first
    for seed in range(2, 2 + KEPT):
        augmenter.data_for(SWAP.model_copy(update={"seed": seed}))
    again = augmenter.data_for(SWAP)
    assert again is not first
    assert rows(again.train) == rows(first.train)


def test_other_numbers_of_copies_are_other_data(data: TokenisedData, texts: TrainingTexts) -> None:
    augmenter = Augmenter(data, texts, character_tokenizer())
    fewer = OWN.model_copy(update={"augment_swap_copies": 0})
    assert len(data.train) < len(augmenter.data_for(fewer).train) < len(augmenter.data_for(OWN).train)


def test_texts_travel_whole(texts: TrainingTexts) -> None:
    arrived: TrainingTexts = pickle.loads(pickle.dumps(texts))  # noqa: S301
    assert list(arrived) == list(texts)
    assert [row.inputs for row in arrived] == [e.inputs for e in TRAIN]
    assert [row.spans for row in arrived] == [e.spans for e in TRAIN]


def test_references_are_kept_in_the_text_unless_they_are_labels() -> None:
    rows = [example("Rome is in Italy", "Italy", "in Italy")]
    assert [row.keep for row in TrainingTexts.of(rows, SUMMARIZE)] == [("Italy", "in Italy")]
    assert [row.keep for row in TrainingTexts.of(rows, CLASSIFY)] == [()]


def test_back_translations_find_their_rows() -> None:
    task = TaskConfig(name="qa", inputs="{a} {b}", targets="{c}", metrics=("exact_match",))
    rows = [Example("one two", ("x",), "r:1", ((0, 3), (4, 7))), Example("two 3", ("x",), "r:2", ((0, 3),))]
    texts = TrainingTexts.of(rows, task)
    assert texts.parts() == ["one", "two"]
    assert [row.translations for row in texts] == [(), ()]
    assert [row.translations for row in texts.with_translations({"two": "zwei"})] == [(None, "zwei"), ("zwei",)]
