"""Search spaces as Optuna sees them."""

import optuna
import pytest

from t5ray.config import Range, SearchSpace, TrainingConfig
from t5ray.search.space import completed, default_settings, grid, point, suggest

CONDITIONAL = SearchSpace.model_validate(
    {
        "parameters": {
            "optimizer": {"choice": ["adamw", "adafactor"]},
            "learning_rate": [
                {"loguniform": [1e-5, 1e-3], "when": {"optimizer": "adamw"}},
                {"loguniform": [1e-3, 1e-1], "when": {"optimizer": "adafactor"}},
            ],
            "batch_size": {"int": [4, 64]},
            "weight_decay": {"uniform": [0.0, 0.1], "when": {"optimizer": "adamw"}},
            "label_smoothing": {"fixed": 0.1},
        }
    }
)


def test_drawn_values_keep_to_their_ranges_and_conditions() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(60):
        params = suggest(study.ask(), CONDITIONAL)
        low, high = (1e-5, 1e-3) if params["optimizer"] == "adamw" else (1e-3, 1e-1)
        assert low <= params["learning_rate"] <= high
        assert 4 <= params["batch_size"] <= 64
        assert ("weight_decay" in params) == (params["optimizer"] == "adamw")
        assert params["label_smoothing"] == 0.1
        TrainingConfig.model_validate(params)


def test_ranges_under_different_conditions_are_different_optuna_parameters() -> None:
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask({})
    params = suggest(trial, CONDITIONAL)
    suffix = 0 if params["optimizer"] == "adamw" else 1
    assert f"learning_rate:{suffix}" in trial.params


def test_the_default_point_is_placed() -> None:
    space = SearchSpace.model_validate(
        {"parameters": {"learning_rate": {"loguniform": [1e-5, 1e-2]}, "batch_size": {"choice": [16, 32]}}}
    )
    defaults = default_settings(space, TrainingConfig(learning_rate=2e-4, batch_size=16))
    assert defaults == {"learning_rate": 2e-4, "batch_size": 16}
    assert point(space, defaults) == (defaults, defaults)


def test_a_point_outside_the_space_is_told_apart() -> None:
    space = SearchSpace.model_validate({"parameters": {"batch_size": {"choice": [64, 128]}}})
    assert point(space, {"batch_size": 32}) is None


@pytest.mark.parametrize(
    ("given", "momentum", "dropout"),
    [
        ({}, 0.9, 0.1),  # adamw, the default: nothing holds
        ({"optimizer": "sgd"}, 0.8, 0.3),
        ({"optimizer": "adam"}, 0.9, 0.1),  # dropout's range has two values
        ({"optimizer": "sgd", "momentum": 0.7}, 0.7, 0.1),  # for which dropout has no range
    ],
)
def test_a_point_is_completed_by_the_ranges_that_hold(
    given: dict[str, object], momentum: float, dropout: float
) -> None:
    ranges = {
        "optimizer": {"choice": ["adamw", "sgd", "adam"]},
        "momentum": {"fixed": 0.8, "when": {"optimizer": "sgd"}},
        "dropout": [
            {"fixed": 0.3, "when": {"momentum": 0.8}},
            {"choice": [0.0, 0.2], "when": {"optimizer": "adam"}},
        ],
    }
    space = SearchSpace.model_validate({"parameters": ranges})
    found = completed(space, given, TrainingConfig())
    assert found == {"optimizer": given.get("optimizer", "adamw"), "momentum": momentum, "dropout": dropout}


@pytest.mark.parametrize("kind", ["int", "logint"])
def test_a_fraction_lies_outside_a_range_of_whole_numbers(kind: str) -> None:
    """Optuna would cut it off, and trial 0 would not run the default settings."""
    space = SearchSpace.model_validate({"parameters": {"lora_alpha": {kind: [8, 32]}}})
    assert point(space, {"lora_alpha": 12.5}) is None
    assert point(space, {"lora_alpha": 12.0}) == ({"lora_alpha": 12.0}, {"lora_alpha": 12.0})


@pytest.mark.parametrize(
    ("when", "params", "expected"),
    [
        ({}, {}, True),
        ({"optimizer": "adamw"}, {"optimizer": "adamw"}, True),
        ({"optimizer": ("adamw", "sgd")}, {"optimizer": "sgd"}, True),
        ({"optimizer": "adamw"}, {"optimizer": "adafactor"}, False),
        ({"optimizer": "adamw"}, {}, False),
    ],
)
def test_holds(when: dict[str, object], params: dict[str, object], expected: bool) -> None:
    assert Range.model_validate({"fixed": 1, "when": when}).holds(params) == expected


def test_null_is_drawn_placed_and_listed_like_any_value() -> None:
    ranges = {"max_grad_norm": {"choice": [None, 1.0]}, "early_stopping_patience": {"fixed": None}}
    space = SearchSpace.model_validate({"parameters": ranges})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    assert {suggest(study.ask(), space)["max_grad_norm"] for _ in range(20)} == {None, 1.0}
    nothing = {"max_grad_norm": None, "early_stopping_patience": None}
    assert point(space, nothing) == (nothing, {"max_grad_norm": None})
    listed = sorted(grid(space, seed=0), key=str)
    assert listed == [{**nothing, "max_grad_norm": 1.0}, nothing]
