"""A space some of whose combinations no run can have is refused, with the values that clash and no others."""

import json
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray

from t5ray.config import SearchSpace, TrainingConfig, load_space, shipped_spaces
from t5ray.errors import ConfigError
from t5ray.model.loading import load_model
from t5ray.model.optim import adapted, frozen
from t5ray.search.contradictions import MAX_CHECKED, idle_parameters, outside_points, require_consistent, require_fit
from t5ray.text.tasks import resolve_task
from t5ray.training.prepare import Prepared
from t5ray.tune import main
from tests.search.commands import arguments

RELATIVE = {"optimizer": {"fixed": "adafactor"}, "adafactor_relative_step": {"choice": [False, True]}}


def check(parameters: dict[str, Any], training: dict[str, Any] | None = None, **rest: Any) -> None:
    space = SearchSpace.model_validate({"parameters": parameters, **rest})
    require_consistent(space, TrainingConfig.model_validate(training or {}), "mine.yaml")


@pytest.mark.parametrize("name", shipped_spaces())
def test_shipped_spaces_agree_with_themselves(name: str) -> None:
    require_consistent(load_space(name), TrainingConfig(), name)


@pytest.mark.parametrize(
    ("parameters", "training", "message"),
    [
        (
            {"optimizer": {"choice": ["adamw", "adafactor"]}, "dropout": {"choice": [0.0, 0.1]}},
            {"parallel": "fsdp"},
            "mine.yaml: with optimizer=adafactor: parallel=fsdp cannot shard Adafactor's factored state",
        ),
        (
            {**RELATIVE, "learning_rate": {"loguniform": [1e-4, 1e-3]}},
            {"schedule": "constant", "warmup_share": 0.0},
            "mine.yaml: with optimizer=adafactor, adafactor_relative_step=True, learning_rate=0.00055: "
            "adafactor_relative_step chooses the learning rate itself, so learning_rate=0.00055 cannot hold",
        ),
        (
            {**RELATIVE, "warmup_steps": {"int": [0, 1]}},
            {"schedule": "constant", "warmup_share": 0.0},
            "with optimizer=adafactor, adafactor_relative_step=True, warmup_steps=1: adafactor_relative_step chooses",
        ),
        (
            {"preset": {"choice": ["t5-adamw", "t5-adafactor"]}, "adafactor_warmup_init": {"fixed": True}},
            {},
            "with preset=t5-adafactor, adafactor_warmup_init=True: adafactor_warmup_init needs adafactor_relative_step",
        ),
    ],
)
def test_a_contradiction_is_told_with_the_values_that_clash(
    parameters: dict[str, Any], training: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        check(parameters, training)
    assert "dropout" not in str(caught.value)
    assert len(caught.value.problems) == 1


def test_values_set_apart_by_a_condition_are_taken() -> None:
    apart = {"fixed": 0.0, "when": {"adafactor_relative_step": True}}
    check({**RELATIVE, "warmup_share": apart, "schedule": {"fixed": "constant"}})
    check({**RELATIVE, "warmup_share": [apart, {"uniform": [0, 0.1], "when": {"adafactor_relative_step": False}}]},
          {"schedule": "constant"})  # fmt: skip


def test_a_start_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="with optimizer=adafactor: parallel=fsdp cannot shard"):
        check(
            {"optimizer": {"choice": ["adamw", "sgd"]}}, {"parallel": "fsdp"}, start_from=[{"optimizer": "adafactor"}]
        )


@pytest.mark.parametrize("name", shipped_spaces())
def test_every_parameter_of_a_shipped_space_acts(name: str) -> None:
    assert idle_parameters(load_space(name), TrainingConfig()) == []


def idle(parameters: dict[str, Any], **training: Any) -> list[str]:
    return idle_parameters(SearchSpace.model_validate({"parameters": parameters}), TrainingConfig(**training))


@pytest.mark.parametrize(
    ("parameters", "needed"),
    [
        ({"momentum": {"uniform": [0.5, 0.9]}}, "optimizer=sgd"),
        ({"momentum": {"uniform": [0.5, 0.9]}, "optimizer": {"choice": ["adamw", "adam"]}}, "optimizer=sgd"),
        (
            {"warmup_share": {"uniform": [0.0, 0.1]}, "warmup_steps": {"int": [1, 9]}},
            "warmup_steps left out, which wins over it",
        ),
        ({"decay_rate": {"choice": [0.8, 0.9]}}, "schedule=step or exponential"),
        ({"lora_alpha": {"choice": [8.0, 16.0]}}, "lora_rank above 0"),
        ({"early_stopping_min_gain": {"choice": [0.0, 0.1]}}, "early_stopping_patience"),
        (
            {"augment_copies": {"int": [1, 4]}},
            "a rate of augmentation on words above 0, of a technique without copies of its own",
        ),
        ({"augment_swap_copies": {"int": [1, 4]}}, "augment_swap_rate above 0"),
        ({"augment_swap_copies": {"int": [1, 4]}, "augment_swap_rate": {"fixed": 0.0}}, "augment_swap_rate above 0"),
        (
            {"augment_swap_rate": {"uniform": [0.0, 0.2]}, "augment_swap_copies": {"fixed": 0}},
            "augment_swap_copies above 0, or augment_copies where that is left out",
        ),
        (
            {"optimizer": {"choice": ["sgd", "adam"]}, "beta1": {"fixed": 0.8, "when": {"optimizer": "sgd"}}},
            "optimizer=adamw or adam",
        ),
    ],
)
def test_a_parameter_that_never_acts_is_told_with_what_it_needs(parameters: dict[str, Any], needed: str) -> None:
    (note,) = idle(parameters)
    name = next(name for name in parameters if note.startswith(name))
    assert note == f"{name} changes nothing in any trial: it needs {needed}. See to that, or leave {name} out."


def test_a_parameter_that_acts_in_some_trials_is_not_told() -> None:
    momentum = {"momentum": {"uniform": [0.5, 0.9]}}
    assert idle(momentum, optimizer="sgd") == []
    assert idle({"optimizer": {"choice": ["adamw", "sgd"]}, **momentum}) == []
    assert idle({"warmup_share": {"uniform": [0.0, 0.1]}}) == []
    assert idle({"warmup_share": {"uniform": [0.0, 0.1]}}, warmup_steps=5) != []
    assert idle({"preset": {"choice": ["t5-adafactor"]}, "adafactor_scale_parameter": {"choice": [True, False]}}) == []
    assert idle({"lora_rank": {"int": [0, 8]}, "lora_alpha": {"choice": [8.0, 16.0]}}) == []
    alpha = {"uniform": [8.0, 16.0], "when": {"lora_rank": [7, 15]}}  # neither is in the middle
    assert idle({"lora_rank": {"int": [4, 16]}, "lora_alpha": alpha}) == []


@pytest.mark.parametrize("technique", ["synonym", "insertion", "deletion", "swap"])
def test_a_rate_and_copies_of_one_technique_act_together(technique: str) -> None:
    rate = {f"augment_{technique}_rate": {"choice": [0.0, 0.1]}}
    own = {f"augment_{technique}_copies": {"int": [1, 3]}}
    check({**rate, **own})  # a trial whose rate is 0 makes no copies, which is no contradiction
    assert idle({**rate, **own}) == []
    assert idle(rate) == []
    assert idle(own, **{f"augment_{technique}_rate": 0.1}) == []
    assert len(idle(rate, augment_copies=0)) == 1
    assert idle({**rate, "augment_copies": {"int": [1, 3]}}) == []
    (note,) = idle({**rate, **own, "augment_copies": {"int": [1, 3]}})
    assert note.startswith("augment_copies changes nothing in any trial")


def test_points_outside_the_space_are_told_with_what_lies_outside() -> None:
    ranges = {
        "optimizer": {"choice": ["adamw", "sgd"]},
        "learning_rate": [
            {"loguniform": [1e-4, 1e-2], "when": {"optimizer": "adamw"}},
            {"loguniform": [1e-2, 0.5], "when": {"optimizer": "sgd"}},
        ],
        "batch_size": {"int": [8, 64]},
    }
    inside = {"optimizer": "sgd", "learning_rate": 0.1}
    starts = [inside, {"batch_size": 128, "learning_rate": 0.1}, {"optimizer": "sgd"}]
    space = SearchSpace.model_validate({"parameters": ranges, "start_from": starts})
    end = "it is run, but the sampler learns nothing from it. Widen the ranges to let it learn."
    assert outside_points(space, TrainingConfig(learning_rate=1e-3)) == [
        f"point 2 of start_from lies outside the space with learning_rate=0.1, batch_size=128: {end}",
        f"point 3 of start_from lies outside the space with learning_rate=0.001: {end}",
    ]


@pytest.mark.parametrize("name", shipped_spaces())
def test_every_point_of_a_shipped_space_lies_in_it(name: str) -> None:
    assert outside_points(load_space(name), TrainingConfig(gradient_checkpointing=name == "t5_large")) == []


def test_many_contradictions_are_counted() -> None:
    schedules = ["linear", "cosine", "inverse_sqrt", "polynomial", "step", "exponential"]
    with pytest.raises(ConfigError, match=r"mine\.yaml: and 1 more") as caught:
        check({**RELATIVE, "schedule": {"choice": schedules}}, {"warmup_share": 0.0})
    assert len(caught.value.problems) == 6


def test_a_space_of_many_combinations_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []
    monkeypatch.setattr(TrainingConfig, "with_params", lambda self, params: tried.append(params))
    check({name: {"choice": [i / 10 for i in range(8)]} for name in ("dropout", "beta1", "beta2", "momentum")})
    assert len(tried) == MAX_CHECKED


def test_the_command_refuses_it_before_rows_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "clash.yaml"
    file.write_text("parameters: {optimizer: {choice: [adamw, adafactor]}}", encoding="utf-8")
    named = ["--data", str(tmp_path / "absent.csv"), "--task", "classify", "--model", str(tmp_path / "absent")]
    given = [
        *named,
        "--search-space",
        str(file),
        "--storage",
        str(tmp_path / "runs"),
        "--set",
        "training.parallel=fsdp",
    ]
    assert main(given) == 2
    assert f"{file}: with optimizer=adafactor: parallel=fsdp cannot shard" in " ".join(capsys.readouterr().err.split())


def refusal(space: dict[str, Any], words: Path, model: Path, folder: Path, capsys: Any, **flags: Any) -> str:
    """Return what the command says of a space that it refuses before it starts Ray."""
    file = folder / "mine.yaml"
    file.write_text(json.dumps(space), encoding="utf-8")
    given = arguments(words, model, **{"search-space": file, "storage": folder / "runs", **flags})
    assert main(given) == 2
    assert not ray.is_initialized()
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "space",
    [
        {"parameters": {"early_stopping_metric": {"choice": ["validation_loss", "acuracy"]}}},
        {"parameters": {"early_stopping_metric": {"fixed": "acuracy"}}},
        {
            "parameters": {"early_stopping_metric": {"choice": ["hit_cap", "accuracy"]}},
            "start_from": [{"early_stopping_metric": "acuracy"}],
        },
    ],
)
def test_the_command_refuses_a_stopping_metric_that_the_task_lacks(
    space: dict[str, Any], words: Path, tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refusal(space, words, tiny_t5, tmp_path, capsys, set="training.early_stopping_patience=1")
    assert (
        f"{tmp_path}/mine.yaml: training.early_stopping_metric: must be a loss, hit_cap or a metric of task classify, "
        "but got 'acuracy'. Did you mean `accuracy`?"
    ) in told


@pytest.mark.parametrize(
    ("space", "largest"),
    [
        ({"parameters": {"freeze_layers": {"int": [0, 100]}}}, 100),
        ({"parameters": {"freeze_layers": {"choice": [0, 3]}}}, 3),
        ({"parameters": {"freeze_layers": {"choice": [0, 2]}}, "start_from": [{"freeze_layers": 4}]}, 4),
    ],
)
def test_the_command_refuses_to_freeze_more_than_the_model_has(
    space: dict[str, Any],
    largest: int,
    words: Path,
    tiny_t5: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = refusal(space, words, tiny_t5, tmp_path, capsys)
    assert (
        f"{tmp_path}/mine.yaml: freeze_layers: `freeze_layers <= 2` must hold for this model, which has 2 blocks in "
        f"its encoder and 2 in its decoder, but got {largest}. Freeze fewer."
    ) in told


def fit(parameters: dict[str, Any], model: Path, **training: Any) -> None:
    config = SimpleNamespace(training=TrainingConfig(**training))
    prepared = cast(Prepared, SimpleNamespace(config=config, task=resolve_task("classify"), model=str(model)))
    require_fit(SearchSpace.model_validate({"parameters": parameters}), prepared, "mine.yaml")


def test_what_the_settings_themselves_freeze_is_counted_too(tiny_t5: Path) -> None:
    fit({"freeze_layers": {"int": [0, 2]}}, tiny_t5, freeze_layers=2)
    with pytest.raises(ConfigError, match=r"^training\.freeze_layers: `freeze_layers <= 2` must hold .* but got 3"):
        fit({"dropout": {"choice": [0.1]}}, tiny_t5, freeze_layers=3)


NOTHING = {"lora_rank": 2, "freeze_layers": 2}


@pytest.mark.parametrize(
    ("given", "learns"),
    [
        (NOTHING, False),
        ({"lora_rank": 0, "freeze_layers": 2, "freeze_encoder": True, "freeze_embeddings": True}, True),
        ({"lora_rank": 2, "freeze_layers": 1}, True),
        ({"lora_rank": 2, "freeze_layers": 1, "freeze_encoder": True}, True),
    ],
)
def test_a_space_that_leaves_nothing_to_train_is_refused_as_training_would(
    given: dict[str, Any], learns: bool, tiny_t5: Path
) -> None:
    ranges = {
        name: {"int": [0, value]} if value and value is not True else {"fixed": value} for name, value in given.items()
    }
    model, config = load_model(str(tiny_t5)).model, TrainingConfig(**given)
    said = "some parameter must be trained, but the freeze_ settings"
    refused = nullcontext() if learns else pytest.raises(ValueError, match=said)
    with refused, adapted(model, config), frozen(model, config):
        pass
    told = nullcontext() if learns else pytest.raises(ConfigError, match=f"mine.yaml: with .*: {said}")
    with told:
        fit(ranges, tiny_t5)
