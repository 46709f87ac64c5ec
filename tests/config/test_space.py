import json
from typing import Any

import pytest
from pydantic import ValidationError

from t5ray.config import SearchSpace, TrainingConfig, load_space, shipped_spaces
from t5ray.search.space import default_settings, point


def space(parameters: dict[str, Any], **rest: Any) -> SearchSpace:
    return SearchSpace.model_validate({"parameters": parameters, **rest})


ADAPTIVE = {
    "optimizer": {"choice": ["adamw", "adafactor"]},
    "learning_rate": [
        {"loguniform": [1e-5, 1e-3], "when": {"optimizer": "adamw"}},
        {"loguniform": [1e-4, 1e-2], "when": {"optimizer": ["adafactor"]}},
    ],
    "batch_size": {"choice": [16, 32]},
    "warmup_share": {"uniform": [0, 0.2]},
    "micro_batch_size": {"int": [1, 8]},
    "label_smoothing": {"fixed": 0.1},
}


def test_documented_space_is_read() -> None:
    found = space(ADAPTIVE, start_from=[{"optimizer": "adafactor", "learning_rate": 1e-3}])
    assert {name: [(r.kind, r.bounds) for r in ranges] for name, ranges in found.parameters.items()} == {
        "optimizer": [("choice", ("adamw", "adafactor"))],
        "learning_rate": [("loguniform", (1e-5, 1e-3)), ("loguniform", (1e-4, 1e-2))],
        "batch_size": [("choice", (16, 32))],
        "warmup_share": [("uniform", (0, 0.2))],
        "micro_batch_size": [("int", (1, 8))],
        "label_smoothing": [("fixed", (0.1,))],
    }
    assert (found.sampler.name, found.scheduler.name) == ("tpe", "asha")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dropot": {"choice": [0.1]}}, "dropot: a parameter must be a training setting. Did you mean `dropout`?"),
        ({"seed": {"choice": [1]}}, "seed: a parameter must be a training setting that trials may differ in, but this"),
        ({"max_epochs": {"int": [1, 9]}}, r"same for all of them. .* set it with --set training\.max_epochs=VALUE"),
        ({"learning_rate": {"loguniform": [1e-3, 1e-4]}}, "`low < high` must hold, but got low=0.001, high=0.0001"),
        ({"learning_rate": {"loguniform": [0, 1e-4]}}, "a logarithmic range must start above 0, but got low=0"),
        ({"learning_rate": {"loguniform": [1e-4, 2]}}, "learning_rate: training does not allow 2.0"),
        ({"dropout": {"uniform": [0, float("inf")]}}, "finite number"),
        ({"dropout": {"choice": [0.1, 1.0]}}, "dropout: training does not allow 1.0"),
        ({"optimizer": {"fixed": "lbfgs"}}, "optimizer: training does not allow 'lbfgs'"),
        ({"batch_size": {"uniform": [8, 32]}}, "batch_size: training does not allow 15.6.*valid integer"),
        ({"batch_size": {"loguniform": [8, 32]}}, "batch_size: training does not allow 15.6.*valid integer"),
        ({"dropout": {"uniform": [0, 0.1], "choice": [0.1]}}, r"exactly one of .* but got \['uniform', 'choice'\]"),
        ({"dropout": {}}, "exactly one of .* but got none"),
        ({"dropout": {"choice": []}}, "`choice` must list at least one value"),
        ({"dropout": [{"fixed": 0.1}, {"fixed": 0.2}]}, "dropout: each of several ranges needs a `when:`"),
        (
            {"dropout": {"fixed": 0.1, "when": {"optimizer": "adamw"}}, "optimizer": {"choice": ["adamw"]}},
            "dropout: `when` must name a parameter that stands above it, got optimizer",
        ),
        (
            {"optimizer": {"choice": ["adamw"]}, "dropout": {"fixed": 0.1, "when": {"optimizer": "adamm"}}},
            "dropout: `when` must name a value of optimizer, got 'adamm'. Did you mean `adamw`?",
        ),
        ({}, "at least 1 item"),
        (
            {"batch_size": {"choice": [32, 16, 32]}},
            "batch_size: `choice` must name each value once, but names 32 2 times",
        ),
        ({"batch_size": {"choice": [16, "16", 16.0]}}, "each value once, but names 16 3 times"),
        ({"max_grad_norm": {"choice": [None, 1.0, None]}}, "each value once, but names null 2 times"),
        (
            {"lora_rank": {"int": [4, 16]}, "dropout": {"uniform": [0, 0.3], "when": {"lora_rank": 0}}},
            "dropout: `when` must name a value of lora_rank, got 0. It takes 4 to 16.",
        ),
        (
            {
                "optimizer": {"choice": ["adamw", "sgd"]},
                "schedule": {"choice": ["linear", "constant"], "when": {"optimizer": "adamw"}},
                "final_rate_share": {"uniform": [0, 0.5], "when": {"optimizer": "sgd", "schedule": "linear"}},
            },
            "final_rate_share: `when` must hold in some trial, but none has optimizer=sgd and schedule=linear. Correct",
        ),
        (
            {
                "optimizer": {"choice": ["adamw", "sgd", "adam"]},
                "dropout": [
                    {"uniform": [0, 0.1], "when": {"optimizer": ["adamw", "sgd"]}},
                    {"uniform": [0.1, 0.2], "when": {"optimizer": "adamw"}},
                ],
            },
            "dropout: each range must have trials of its own, but where optimizer=adamw, a range above it is taken",
        ),
        ({"dropout": []}, "dropout: a parameter must have a range, but has none. Add one, or leave dropout out"),
    ],
)
def test_wrong_space_is_refused_before_anything_runs(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        space(parameters)


def test_conditions_that_can_hold_are_taken() -> None:
    found = space(
        {
            "lora_rank": {"int": [0, 16]},
            "lora_alpha": [
                {"fixed": 8.0, "when": {"lora_rank": [0, 4]}},
                {"uniform": [8, 32], "when": {"lora_rank": [4, 8]}},
            ],
            "warmup_steps": {"choice": [None, 10], "when": {"lora_rank": 8}},
            "warmup_share": {"uniform": [0, 0.2], "when": {"warmup_steps": None, "lora_alpha": [8.0, 16.0]}},
        }
    )
    assert len(found.parameters) == 4


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (
            {"learning_rat": 1e-3},
            "start_from: learning_rat must be one of the parameters. Did you mean `learning_rate`?",
        ),
        ({"learning_rate": 5.0}, "start_from: learning_rate: training does not allow 5.0"),
    ],
)
def test_wrong_start_is_refused(point: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        space({"learning_rate": {"loguniform": [1e-4, 1e-3]}}, start_from=[point])


def test_all_wrong_names_are_shown_together() -> None:
    with pytest.raises(ValidationError) as caught:
        space({"dropot": {"choice": [0.1]}, "bach_size": {"choice": [8]}}, start_from=[{"beta": 1}])
    for part in ("dropot", "bach_size", "start_from: beta"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["demo", "t5_small", "t5_base", "t5_large", "adafactor"])
def test_shipped_space_loads_by_name_and_opens_with_purpose_and_command(name: str) -> None:
    lines = shipped_spaces()[name].read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# yaml-language-server: $schema=schema/space.json"
    assert lines[1].startswith("# Purpose:")
    assert any(line.startswith("# python -m t5ray.tune") for line in lines)
    assert set(load_space(name).parameters) <= TrainingConfig.searchable()


@pytest.mark.parametrize("name", ["demo", "t5_small", "t5_base", "t5_large", "adafactor"])
def test_shipped_spaces_hold_the_default_settings(name: str) -> None:
    """So that trial 0 teaches the sampler. Only t5_large's own checkpointing is no default: it changes no result."""
    defaults = TrainingConfig(gradient_checkpointing=name == "t5_large")
    assert point(load_space(name), default_settings(load_space(name), defaults)) is not None


def test_every_shipped_space_is_tested() -> None:
    assert set(shipped_spaces()) == {"demo", "t5_small", "t5_base", "t5_large", "adafactor"}


GRID = {"sampler": {"name": "grid"}}


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (
            {"name": "grid", "startup_trials": 3},
            "`startup_trials` must be an option of grid, but is one of tpe, gp, cmaes",
        ),
        ({"name": "cmaes", "multivariate": False}, "`multivariate` must be an option of cmaes, but is one of tpe"),
        ({"name": "cmaes", "sigma": 0}, "greater than 0"),
        ({"name": "tpee"}, "'tpe', 'gp', 'cmaes', 'random' or 'grid'"),
    ],
)
def test_a_sampler_takes_its_own_options_only(sampler: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        space({"dropout": {"choice": [0.1]}}, sampler=sampler)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({"name": "median", "brackets": 2}, "`brackets` must be an option of median, but is one of asha. Leave it out"),
        ({"name": "none", "grace_epochs": 2}, "`grace_epochs` must be an option of none, but is one of asha, median"),
        ({"name": "asha", "min_trials": 2}, "`min_trials` must be an option of asha, but is one of median"),
    ],
)
def test_a_scheduler_takes_its_own_options_only(scheduler: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        space({"dropout": {"choice": [0.1]}}, scheduler=scheduler)


def test_a_grid_over_a_continuous_range_says_how_to_mend_it() -> None:
    with pytest.raises(ValidationError, match=r"learning_rate: a grid must know .* Add `points: 5` or use `choice`"):
        space({"learning_rate": {"loguniform": [1e-4, 1e-2]}}, **GRID)
    found = space({"learning_rate": {"loguniform": [1e-4, 1e-2], "points": 3}, "batch_size": {"int": [8, 10]}}, **GRID)
    assert [r.grid_size for ranges in found.parameters.values() for r in ranges] == [3, 3]


def test_a_grid_without_end_is_refused() -> None:
    with pytest.raises(ValidationError, match="at most 10000 combinations, but has 25000"):
        space({"batch_size": {"int": [1, 250]}, "dropout": {"uniform": [0, 0.1], "points": 100}}, **GRID)


def test_points_belong_to_numbers() -> None:
    with pytest.raises(ValidationError, match="`points` must belong to a numeric range, but stands beside `choice`"):
        space({"dropout": {"choice": [0.1], "points": 3}})


def test_values_are_of_their_settings_types() -> None:
    parameters = {
        "batch_size": {"choice": ["16", 32.0, 64]},
        "learning_rate": [
            {"fixed": "1e-5", "when": {"batch_size": "16"}},
            {"fixed": 1, "when": {"batch_size": ["32", 64.0]}},
        ],
        "adafactor_scale_parameter": {"choice": [0, "true"]},
        "schedule": {"choice": ["linear", "constant"]},
        "dropout": {"uniform": ["0.0", "1e-1"]},
    }
    found = space(parameters, start_from=[{"learning_rate": "0.01"}, {"batch_size": "32", "schedule": "constant"}])
    shown = {name: [[r.bounds, r.when] for r in ranges] for name, ranges in found.parameters.items()}
    assert repr(shown) == repr(  # which tells 1.0 from 1 and True
        {
            "batch_size": [[(16, 32, 64), {}]],
            "learning_rate": [[(1e-5,), {"batch_size": 16}], [(1.0,), {"batch_size": (32, 64)}]],
            "adafactor_scale_parameter": [[(False, True), {}]],
            "schedule": [[("linear", "constant"), {}]],
            "dropout": [[(0.0, 0.1), {}]],
        }
    )
    assert repr(found.start_from) == repr(({"learning_rate": 0.01}, {"batch_size": 32, "schedule": "constant"}))
    assert space(json.loads(found.model_dump_json(by_alias=True))["parameters"]).parameters == found.parameters


def test_a_setting_that_may_be_null_may_be_searched_so() -> None:
    parameters = {
        "max_grad_norm": {"choice": [None, "1.0"]},
        "early_stopping_patience": {"fixed": None},
        "dropout": {"fixed": 0.2, "when": {"max_grad_norm": None}},
    }
    found = space(parameters, start_from=[{"max_grad_norm": None}])
    assert [r.bounds for ranges in found.parameters.values() for r in ranges] == [(None, 1.0), (None,), (0.2,)]
    assert [r.grid_size for ranges in found.parameters.values() for r in ranges] == [2, 1, 1]
    assert found.start_from == ({"max_grad_norm": None},)
    dumped = json.loads(found.model_dump_json(by_alias=True))
    assert SearchSpace.model_validate(dumped) == found
    assert [r.kind for ranges in SearchSpace.model_validate(dumped).parameters.values() for r in ranges] == [
        "choice",
        "fixed",
        "fixed",
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"choice": [None, 0.1]}, "dropout: training does not allow null: Input should be a valid number"),
        ({"fixed": None}, "dropout: training does not allow null: Input should be a valid number"),
        ({"choice": [0.1, [1]]}, r"must be a finite number, a text, true, false or null, but got \[1\]"),
        ({"choice": [0.1, float("inf")]}, "must be a finite number, a text, true, false or null, but got inf"),
        ({"fixed": {"a": 1}}, "must be a finite number, a text, true, false or null, but got {'a': 1}"),
        ({"choice": None}, "exactly one of .* but got none"),
    ],
)
def test_a_value_that_cannot_be_is_told_once(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        space({"dropout": values})
    assert caught.value.error_count() == 1
