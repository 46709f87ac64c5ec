"""Who makes how many copies, and which numbers of copies are refused."""

import pytest
from pydantic import ValidationError

from t5ray.config import AugmentationConfig, SearchSpace


def settings(**values: float | None) -> AugmentationConfig:
    return AugmentationConfig.model_validate({f"augment_{name}": value for name, value in values.items()})


@pytest.mark.parametrize(
    ("given", "turns", "copies"),
    [
        ({}, [], 0),
        ({"copies": 4}, [], 0),
        ({"swap_rate": 0.1}, [(("swap",), 1, True)], 1),
        ({"swap_rate": 0.1, "copies": 0}, [], 0),
        ({"swap_rate": 0.1, "synonym_rate": 0.1, "copies": 4}, [(("synonym", "swap"), 4, True)], 4),
        ({"swap_rate": 0.1, "swap_copies": 3, "copies": 4}, [(("swap",), 3, False)], 3),
        ({"swap_rate": 0.1, "swap_copies": 0, "copies": 4}, [], 0),
        ({"swap_rate": 0.1, "swap_copies": 3, "copies": 0}, [(("swap",), 3, False)], 3),
        ({"swap_copies": 3, "deletion_rate": 0.1}, [(("deletion",), 1, True)], 1),
        (
            {"swap_rate": 0.1, "synonym_rate": 0.1, "deletion_rate": 0.1, "synonym_copies": 3, "copies": 4},
            [(("deletion", "swap"), 4, True), (("synonym",), 3, False)],
            7,
        ),
        ({"swap_rate": 0.1, "swap_copies": 3, "back_translation_rate": 0.5}, [(("swap",), 3, False)], 3.5),
    ],
)
def test_a_number_of_its_own_takes_a_technique_out_of_the_turns(
    given: dict[str, float], turns: list[tuple[tuple[str, ...], int, bool]], copies: float
) -> None:
    config = settings(**given)
    assert config.turns == turns
    assert config.copies_per_row == copies
    assert config.augments == (copies > 0)


@pytest.mark.parametrize("technique", ["synonym", "insertion", "deletion", "swap"])
@pytest.mark.parametrize(("number", "reason"), [(-1, "greater than or equal to 0"), (65, "less than or equal to 64")])
def test_a_number_of_copies_is_within_bounds(technique: str, number: int, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        settings(**{f"{technique}_copies": number})


@pytest.mark.parametrize("technique", ["synonym", "insertion", "deletion", "swap"])
def test_copies_without_a_rate_are_idle(technique: str) -> None:
    (said,) = settings(**{f"{technique}_copies": 2}).idle_copies()
    assert said == (
        f"training.augment_{technique}_copies: needs a rate above 0, but training.augment_{technique}_rate is 0, so "
        f"none of its copies would be made. Give the rate, such as --set training.augment_{technique}_rate=0.1, or "
        "leave the copies out."
    )
    assert settings(**{f"{technique}_copies": 2, f"{technique}_rate": 0.1}).idle_copies() == []
    assert settings(**{f"{technique}_copies": 0}).idle_copies() == []
    assert settings(**{f"{technique}_copies": 2}).idle_copies(varied=[f"augment_{technique}_rate"]) == []
    assert len(settings(**{f"{technique}_copies": 2}).idle_copies(varied=[f"augment_{technique}_copies"])) == 1


def test_old_settings_have_nothing_idle() -> None:
    assert settings(copies=4).idle_copies() == []


def test_a_space_may_vary_copies_of_one_technique() -> None:
    space = SearchSpace.model_validate({"parameters": {"augment_synonym_copies": {"int": [0, 4]}}})
    assert space.parameters["augment_synonym_copies"][0].bounds == (0, 4)
    with pytest.raises(ValidationError, match=r"augment_synonym_copies: training does not allow 65"):
        SearchSpace.model_validate({"parameters": {"augment_synonym_copies": {"int": [0, 65]}}})
