"""Each technique does what the paper says and no more; prefixes, required texts and everything unasked stay."""

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5ray.config import AugmentationConfig
from t5ray.text.augmentation import (
    TECHNIQUES,
    Augmentable,
    augmented,
    delete_words,
    insert_synonyms,
    join_words,
    replace_synonyms,
    split_words,
    swap_words,
)
from t5ray.text.synonyms import synonyms_of

# The table has synonyms for some of them.
KNOWN = ["car", "Large,", "(build)", "CAR", "program", "quick.", ":INFINITY", "“error”"]
WORD = st.one_of(st.sampled_from(KNOWN), st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
TEXTS = st.lists(WORD, min_size=1, max_size=12).map(" ".join).map(str.strip).filter(bool)
RATES = st.floats(0, 1)
SEEDS = st.integers(0, 2**32)
PREFIX = "classify: "


def row(text: str, **more: Any) -> Augmentable:
    return Augmentable(PREFIX + text, ((len(PREFIX), len(PREFIX) + len(text)),), **more)


def settings(**rates: float) -> AugmentationConfig:
    return AugmentationConfig.model_validate({f"augment_{name}": value for name, value in rates.items()})


@given(TEXTS)
def test_splitting_and_joining_change_nothing(text: str) -> None:
    assert join_words(split_words(text)) == text


@pytest.mark.parametrize("technique", TECHNIQUES)
@given(text=TEXTS, seed=SEEDS)
def test_rate_0_is_identity(technique: str, text: str, seed: int) -> None:
    words = split_words(text)
    assert TECHNIQUES[technique](words, 0.0, Random(seed)) == words


@given(TEXTS, RATES, SEEDS)
def test_swapping_keeps_the_words_and_the_gaps(text: str, rate: float, seed: int) -> None:
    words = split_words(text)
    swapped = swap_words(words, rate, Random(seed))
    assert Counter(word.text for word in swapped) == Counter(word.text for word in words)
    assert [word.gap for word in swapped] == [word.gap for word in words]


@given(TEXTS, RATES, SEEDS)
def test_deleting_leaves_a_subsequence_and_never_nothing(text: str, rate: float, seed: int) -> None:
    words = split_words(text)
    left = delete_words(words, rate, Random(seed))
    assert left
    rest = iter(words)
    assert all(word in rest for word in left)


def test_deleting_at_rate_1_leaves_one_word() -> None:
    assert len(delete_words(split_words("one two three four"), 1.0, Random(0))) == 1


@given(TEXTS, RATES, SEEDS)
def test_replacing_changes_at_most_n_words_each_to_a_synonym(text: str, rate: float, seed: int) -> None:
    words = split_words(text)
    pairs = list(zip(words, replace_synonyms(words, rate, Random(seed)), strict=True))
    changed = [(old.text, new.text) for old, new in pairs if old != new]
    assert len(changed) <= max(1, int(rate * len(words)))
    assert all(_plain(new) in synonyms_of(_plain(old)) for old, new in changed)
    assert all(old.gap == new.gap for old, new in pairs)


@given(TEXTS, RATES, SEEDS)
def test_inserting_keeps_all_words_in_order_and_adds_n_synonyms(text: str, rate: float, seed: int) -> None:
    words = split_words(text)
    longer = insert_synonyms(words, rate, Random(seed))
    rest = iter(longer)
    assert all(word in rest for word in words)
    known = {synonym for word in words for synonym in synonyms_of(_plain(word.text))}
    added = Counter(word.text for word in longer) - Counter(word.text for word in words)
    assert set(added) <= known
    assert added.total() == (max(1, int(rate * len(words))) if rate and known else 0)


def _plain(text: str) -> str:
    """Return a word in lower case, without what stands before its first and after its last letter or digit."""
    inside = [place for place, sign in enumerate(text) if sign.isalnum() or sign == "_"]
    return text[inside[0] : inside[-1] + 1].lower() if inside else ""


@pytest.mark.parametrize(
    ("word", "allowed"),
    [
        ("car,", {"auto,", "automobile,", "motorcar,"}),
        ("Car", {"Auto", "Automobile", "Motorcar"}),
        ("(CAR)", {"(AUTO)", "(AUTOMOBILE)", "(MOTORCAR)"}),
    ],
)
def test_a_synonym_is_written_as_its_word(word: str, allowed: set[str]) -> None:
    found = {join_words(replace_synonyms(split_words(word), 0.1, Random(seed))) for seed in range(30)}
    assert found == allowed


@pytest.mark.parametrize(("rate", "changed"), [(0.1, 1), (0.25, 2), (0.5, 4), (0.99, 7)])
def test_n_is_the_paper_s(rate: float, changed: int) -> None:
    words = split_words("car build large car build large car build")  # eight words that have synonyms
    assert sum(a != b for a, b in zip(words, replace_synonyms(words, rate, Random(0)), strict=True)) == changed
    assert len(insert_synonyms(words, rate, Random(0))) == 8 + changed


@given(text=TEXTS, copies=st.integers(0, 5), rates=st.tuples(RATES, RATES, RATES, RATES), seed=SEEDS)
def test_copies_follow_from_text_settings_and_seed(
    text: str, copies: int, rates: tuple[float, float, float, float], seed: int
) -> None:
    config = settings(copies=copies, **{f"{name}_rate": rate for name, rate in zip(TECHNIQUES, rates, strict=True)})
    found = augmented(row(text), config, seed)
    assert found == augmented(row(text), config, seed)
    assert len(found) <= copies
    inputs = [copy.inputs for copy in found]
    assert len({*inputs, PREFIX + text}) == len(inputs) + 1
    assert all(text.startswith(PREFIX) for text in inputs)
    assert all(rates[list(TECHNIQUES).index(copy.technique)] > 0 for copy in found)
    more = config.model_copy(update={"augment_copies": copies + 1})
    assert augmented(row(text), more, seed)[: len(found)] == found


def test_another_seed_gives_other_copies() -> None:
    text = "this quick program can build a large car"
    found = {augmented(row(text), settings(swap_rate=0.1), seed)[0].inputs for seed in range(20)}
    assert len(found) > 10


def test_techniques_take_turns() -> None:
    config = settings(copies=8, synonym_rate=0.1, insertion_rate=0.1, deletion_rate=0.2, swap_rate=0.3)
    text = "people build a large car and a quick program for the big library of the old university"
    counts = Counter(copy.technique for copy in augmented(row(text), config, 0))
    assert counts == dict.fromkeys(TECHNIQUES, 2)


@given(before=TEXTS, answer=TEXTS, after=TEXTS, technique=st.sampled_from(list(TECHNIQUES)), rate=RATES, seed=SEEDS)
def test_a_text_to_keep_survives(before: str, answer: str, after: str, technique: str, rate: float, seed: int) -> None:
    context = f"{before} {answer} {after}"
    found = augmented(row(context, keep=(answer,)), settings(copies=3, **{f"{technique}_rate": rate}), seed)
    assert all(answer in copy.inputs for copy in found)


@given(TEXTS, st.data())
def test_a_text_to_keep_survives_where_it_is_part_of_a_word(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    answer = text[start : data.draw(st.integers(start + 1, len(text)))].strip() or text
    config = settings(copies=4, synonym_rate=1.0, insertion_rate=1.0, deletion_rate=1.0, swap_rate=1.0)
    assert all(answer in copy.inputs for copy in augmented(row(text, keep=(answer,)), config, 0))


def test_only_the_spans_change() -> None:
    inputs = "answer: the large car question: build a car"
    spans = (inputs.index("build"), len(inputs))
    config = settings(copies=6, synonym_rate=1.0, insertion_rate=1.0, deletion_rate=0.5, swap_rate=1.0)
    copies = augmented(Augmentable(inputs, (spans,)), config, 0)
    assert copies
    assert all(copy.inputs.startswith("answer: the large car question: ") for copy in copies)


def test_a_row_without_text_has_no_copies() -> None:
    assert augmented(Augmentable("classify: 42", ()), settings(copies=5, deletion_rate=1.0), 0) == []


def test_a_back_translation_is_a_copy_of_its_own() -> None:
    text = "Slide and add puzzle game"
    found = augmented(row(text, translations=("Push and add game",)), settings(back_translation_rate=1.0), 0)
    assert found == [("classify: Push and add game", "back_translation")]


@pytest.mark.parametrize(
    ("translations", "expected"),
    [
        (("Rome lies in Italy", "Where?"), "Rome lies in Italy | Where?"),
        (("Rome lies in the south", "Where?"), "Rome is in Italy | Where?"),  # without the answer it is of no use
        ((None, "Where?"), "Rome is in Italy | Where?"),
        (("Rome lies in Italy", ""), "Rome lies in Italy | Where is it?"),
    ],
)
def test_unusable_parts_of_a_back_translation_stay_as_they_were(
    translations: tuple[str | None, ...], expected: str
) -> None:
    whole = "Rome is in Italy | Where is it?"
    given_row = Augmentable(whole, ((0, 16), (19, len(whole))), keep=("Italy",), translations=translations)
    assert [copy.inputs for copy in augmented(given_row, settings(back_translation_rate=1.0), 0)] == [expected]


def test_the_rate_of_back_translation_is_a_share_of_rows() -> None:
    rows = [row(f"word number {i}", translations=(f"number of word {i}",)) for i in range(400)]
    few, many = ([bool(augmented(r, settings(back_translation_rate=rate), 0)) for r in rows] for rate in (0.25, 0.75))
    assert 70 <= sum(few) <= 130
    assert 270 <= sum(many) <= 330
    assert all(later for earlier, later in zip(few, many, strict=True) if earlier)
