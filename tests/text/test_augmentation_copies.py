"""How many copies each technique makes: its own number, or its turns at the shared one, which stay what they were."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5ray.config import AugmentationConfig
from t5ray.text.augmentation import TECHNIQUES, Augmentable, Copy, augmented

PREFIX = "classify: "
TEXT = "The Large library lends a quick program, and people build (cars) there."
WORD = st.sampled_from(["car", "Large,", "(build)", "program", "quick.", "of", "42", "“error”", "é"])
LONG = f"{TEXT} The old university of the town pays for a large car and for many bridges over the river"
"""Long enough that no two copies of a few are equal by chance."""
TEXTS = st.lists(WORD, min_size=1, max_size=12).map(" ".join)
RATES = st.sampled_from([0.0, 0.1, 0.5, 1.0])
OWN = st.none() | st.integers(0, 4)
EACH = {name: st.tuples(RATES, OWN) for name in TECHNIQUES}


def row(text: str, **more: Any) -> Augmentable:
    return Augmentable(PREFIX + text, ((len(PREFIX), len(PREFIX) + len(text)),), **more)


def settings(**values: float | None) -> AugmentationConfig:
    return AugmentationConfig.model_validate({f"augment_{name}": value for name, value in values.items()})


def config_of(each: dict[str, tuple[float, int | None]], shared: int) -> AugmentationConfig:
    rates = {f"{name}_rate": rate for name, (rate, _) in each.items()}
    return settings(copies=shared, **rates, **{f"{name}_copies": own for name, (_, own) in each.items()})


def made(copies: list[Copy]) -> list[tuple[str, str]]:
    return [(copy.technique, copy.inputs.removeprefix(PREFIX)) for copy in copies]


@pytest.mark.parametrize(
    ("given_settings", "expected"),
    [
        (
            {"synonym_rate": 0.2},
            [("synonym", "The Big library lends a quick program, and people construct (cars) there.")],
        ),
        (
            {"insertion_rate": 0.2, "copies": 2},
            [
                ("insertion", "big The Large library lends a quick program, and people build (cars) there. plan"),
                ("insertion", "The big Large library lends a quick program, and people build plan (cars) there."),
            ],
        ),
        (
            {"deletion_rate": 0.3, "copies": 2},
            [
                ("deletion", "Large library lends quick and build there."),
                ("deletion", "Large library lends a quick program, and people build (cars) there."),
            ],
        ),
        (
            {"swap_rate": 0.1, "copies": 2},
            [
                ("swap", "The there. library lends a quick program, and people build (cars) Large"),
                ("swap", "The Large library lends a quick and program, people build (cars) there."),
            ],
        ),
        (
            {"synonym_rate": 0.1, "insertion_rate": 0.1, "deletion_rate": 0.2, "swap_rate": 0.1, "copies": 5},
            [
                ("swap", "The Large library lends a program, quick and people build (cars) there."),
                ("synonym", "The Big library lends a quick program, and people build (cars) there."),
                ("deletion", "The library a program, people build (cars) there."),
                ("insertion", "The Large library lends a quick program, and plan people build (cars) there."),
                ("swap", "The Large library lends a quick program, and build people (cars) there."),
            ],
        ),
        (
            {"swap_rate": 0.1, "copies": 0},
            [],
        ),
    ],
)
def test_settings_without_numbers_of_their_own_give_the_copies_that_they_always_gave(
    given_settings: dict[str, float], expected: list[tuple[str, str]]
) -> None:
    """Written down from the version that knew `augment_copies` alone."""
    assert made(augmented(row(TEXT), settings(**given_settings), 7)) == expected


def test_kept_texts_and_back_translations_stay_what_they_were_too() -> None:
    config = settings(deletion_rate=0.5, swap_rate=0.5, copies=3, back_translation_rate=1.0)
    translated = "The library lends a quick program"
    assert made(augmented(row(TEXT, keep=("quick program",), translations=(translated,)), config, 7)) == [
        ("swap", "The and Large library a quick program, build people lends (cars) there."),
        ("deletion", "The library a quick program, build (cars)"),
        ("swap", "people Large lends a and quick program, build The (cars) library there."),
        ("back_translation", "The library lends a quick program"),
    ]


def test_each_technique_makes_its_own_number() -> None:
    numbers = {"synonym": 1, "insertion": 4, "deletion": 2, "swap": 3}
    own = {f"{name}_copies": number for name, number in numbers.items()}
    config = settings(copies=64, **own, **{f"{name}_rate": 0.3 for name in numbers})
    assert Counter(copy.technique for copy in augmented(row(LONG), config, 0)) == numbers


def test_the_others_share_by_turns() -> None:
    config = settings(copies=4, swap_rate=0.3, insertion_rate=0.3, deletion_rate=0.3, deletion_copies=3)
    copies = augmented(row(LONG), config, 0)
    assert Counter(copy.technique for copy in copies) == {"swap": 2, "insertion": 2, "deletion": 3}
    alone = augmented(row(LONG), settings(copies=4, swap_rate=0.3, insertion_rate=0.3), 0)
    assert copies[:4] == alone


def test_none_of_its_own_takes_a_technique_out() -> None:
    config = settings(copies=4, swap_rate=0.3, insertion_rate=0.3, insertion_copies=0)
    assert augmented(row(LONG), config, 0) == augmented(row(LONG), settings(copies=4, swap_rate=0.3), 0)


def test_its_own_copies_are_the_same_whatever_the_others_make() -> None:
    alone = augmented(row(LONG), settings(swap_rate=0.1, swap_copies=3), 0)
    others = {"deletion_rate": 0.3, "deletion_copies": 2, "synonym_rate": 0.3, "copies": 5}
    beside = augmented(row(LONG), settings(swap_rate=0.1, swap_copies=3, **others), 0)
    assert len(alone) == 3
    assert [copy for copy in beside if copy.technique == "swap"] == alone


@given(text=TEXTS, each=st.fixed_dictionaries(EACH), shared=st.integers(0, 5), seed=st.integers(0, 2**32))
def test_copies_are_never_more_than_asked(
    text: str, each: dict[str, tuple[float, int | None]], shared: int, seed: int
) -> None:
    config = config_of(each, shared)
    found = augmented(row(text), config, seed)
    assert found == augmented(row(text), config, seed)
    assert len(found) <= config.copies_per_row
    counts = Counter(copy.technique for copy in found)
    assert all(each[name][0] > 0 for name in counts)
    assert all(counts[name] <= own for name, (_, own) in each.items() if own is not None)
    assert sum(counts[name] for name, (_, own) in each.items() if own is None) <= shared
    assert len({PREFIX + text, *(copy.inputs for copy in found)}) == len(found) + 1


@given(
    text=TEXTS, each=st.fixed_dictionaries(EACH), technique=st.sampled_from(list(TECHNIQUES)), seed=st.integers(0, 99)
)
def test_one_more_of_its_own_holds_the_fewer(
    text: str, each: dict[str, tuple[float, int | None]], technique: str, seed: int
) -> None:
    rate, own = each[technique]
    fewer, more = ({**each, technique: (rate, (own or 0) + extra)} for extra in (0, 1))
    few, many = ({copy.inputs for copy in augmented(row(text), config_of(e, 2), seed)} for e in (fewer, more))
    assert few <= many
    assert len(many) <= len(few) + 1


@given(before=TEXTS, after=TEXTS, each=st.fixed_dictionaries(EACH), seed=st.integers(0, 99))
def test_prefix_and_required_text_survive_every_technique(
    before: str, after: str, each: dict[str, tuple[float, int | None]], seed: int
) -> None:
    kept = row(f"{before} the quick car, {after}", keep=("quick car",))
    for copy in augmented(kept, config_of(each, 3), seed):
        assert copy.inputs.startswith(PREFIX)
        assert "quick car" in copy.inputs
