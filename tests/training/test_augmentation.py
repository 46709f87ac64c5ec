"""The plan in words, and the copies that are refused before anything is read."""

import re
from pathlib import Path

import pytest

from t5ray.config import RunConfig, TrainingConfig
from t5ray.errors import ConfigError
from t5ray.training.augmentation import describe
from t5ray.training.prepare import prepare


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"swap_rate": 0.2}, "1 more by swap 0.2"),
        ({"swap_rate": 0.2, "synonym_rate": 0.1, "copies": 4}, "4 more by synonym 0.1 or swap 0.2"),
        ({"swap_rate": 0.2, "swap_copies": 3, "copies": 4}, "3 more by swap 0.2"),
        (
            {"swap_rate": 0.2, "swap_copies": 3, "synonym_rate": 0.1, "deletion_rate": 0.3, "copies": 2},
            "2 more by synonym 0.1 or deletion 0.3, 3 more by swap 0.2",
        ),
        (
            {"swap_rate": 0.2, "swap_copies": 0, "back_translation_rate": 0.5},
            "one more by back translation for 50% of rows",
        ),
    ],
)
def test_the_plan_says_who_makes_how_many_copies(given: dict[str, float], said: str) -> None:
    config = TrainingConfig.model_validate({f"augment_{name}": value for name, value in given.items()})
    assert describe(config) == [f"augmented    each training row at most {said}: so many more steps an epoch"]


@pytest.mark.parametrize("given", [{}, {"augment_swap_rate": 0.2, "augment_swap_copies": 0}, {"augment_copies": 4}])
def test_nothing_is_said_where_nothing_is_copied(given: dict[str, float]) -> None:
    assert describe(TrainingConfig.model_validate(given)) == []


def test_copies_without_a_rate_are_told_with_what_is_missing(tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {"task": "classify", "training": {"augment_swap_copies": 2, "augment_synonym_copies": 1}}
    )
    with pytest.raises(ConfigError, match=re.escape("training.augment_swap_copies: needs a rate above 0")) as caught:
        prepare(config, tmp_path)
    found = [problem.split()[0] for problem in caught.value.problems]
    assert found == ["--data,", "training.augment_synonym_copies:", "training.augment_swap_copies:"]


def test_copies_wait_for_a_rate_that_the_search_space_varies(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"task": "classify", "training": {"augment_swap_copies": 2}})
    with pytest.raises(ConfigError, match="--data, --task and --model must be given together") as caught:
        prepare(config, tmp_path, varied=["augment_swap_rate"])
    assert len(caught.value.problems) == 1
