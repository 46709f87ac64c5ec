"""Training settings: presets, and what contradicts itself."""

import pytest
from pydantic import ValidationError

from t5ray.config import RunConfig, TrainingConfig
from t5ray.config.training import PRESETS


def test_t5_adafactor_is_the_paper_s() -> None:
    """Raffel et al. 2020, 3.1.2: "a constant learning rate of 0.001 when fine-tuning", no decay mentioned."""
    config = TrainingConfig(preset="t5-adafactor")
    assert (config.optimizer, config.learning_rate, config.schedule) == ("adafactor", 1e-3, "constant")
    assert (config.warmup_share, config.weight_decay, config.adafactor_relative_step) == (0.0, 0.0, False)
    assert config.max_grad_norm is None  # the rule clips its own updates


def test_t5_adamw_is_what_transformers_advises() -> None:
    """Its T5 page: "Typically, 1e-4 and 3e-4 work well for most problems"; AdamW and linear decay are its defaults."""
    config = TrainingConfig(preset="t5-adamw")
    assert (config.optimizer, config.learning_rate, config.schedule) == ("adamw", 3e-4, "linear")
    assert (config.warmup_share, config.weight_decay, config.max_grad_norm) == (0.05, 0.01, 1.0)


def test_what_is_given_wins_over_the_preset() -> None:
    config = TrainingConfig(preset="t5-adafactor", learning_rate=5e-4)
    assert (config.optimizer, config.learning_rate) == ("adafactor", 5e-4)


def test_a_searched_preset_takes_the_place_of_the_one_before() -> None:
    config = TrainingConfig(preset="t5-adamw", max_epochs=7).with_params({"preset": "t5-adafactor"})
    assert (config.optimizer, config.learning_rate, config.max_epochs) == ("adafactor", 1e-3, 7)
    assert config.with_params({"learning_rate": 2e-3}).learning_rate == 2e-3


def test_written_down_a_preset_s_settings_are_read_back_the_same() -> None:
    config = TrainingConfig(preset="t5-adafactor", seed=3)
    assert TrainingConfig.model_validate(config.model_dump()) == config


def test_presets_name_settings() -> None:
    assert {name for preset in PRESETS.values() for name in preset} <= set(TrainingConfig.model_fields)


RELATIVE = {"optimizer": "adafactor", "adafactor_relative_step": True, "schedule": "constant", "warmup_share": 0.0}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"optimizer": "adafactor", "adafactor_warmup_init": True}, "adafactor_warmup_init needs adafactor_relative_"),
        ({**RELATIVE, "learning_rate": 1e-3}, "chooses the learning rate itself, so learning_rate=0.001 cannot hold"),
        ({**RELATIVE, "schedule": "linear"}, "so schedule=linear cannot hold"),
        ({**RELATIVE, "warmup_steps": 10}, "so a warm-up cannot hold"),
        ({"preset": "t5-adafactor", "adafactor_relative_step": True}, "so learning_rate=0.001 cannot hold"),
    ],
)
def test_adafactor_flags_that_conflict_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        TrainingConfig.model_validate(settings)


def test_adafactor_flags_that_agree_are_taken() -> None:
    assert TrainingConfig.model_validate({**RELATIVE, "adafactor_warmup_init": True}).adafactor_relative_step


@pytest.mark.parametrize("section", ["training", "search"])
@pytest.mark.parametrize("seed", [-1, 2**32 - 1])
def test_a_seed_that_generators_refuse_once_numbers_of_trials_are_added_is_refused_at_once(
    section: str, seed: int
) -> None:
    with pytest.raises(ValidationError, match="seed"):
        RunConfig.model_validate({section: {"seed": seed}})
