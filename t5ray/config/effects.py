"""Which training settings act only beside others: what each needs, and whether it has it."""

from collections.abc import Callable
from dataclasses import dataclass

from t5ray.config.training import TrainingConfig


@dataclass(frozen=True)
class Need:
    """What must hold for a setting to change anything."""

    words: str
    holds: Callable[[TrainingConfig], bool]


def _is(setting: str, *values: str) -> Need:
    return Need(f"{setting}={' or '.join(values)}", lambda config: getattr(config, setting) in values)


def _rate_of(technique: str) -> Need:
    return Need(f"augment_{technique}_rate above 0", lambda config: config.word_rates[technique] > 0)


def _copies_of(technique: str) -> Need:
    def holds(config: TrainingConfig) -> bool:
        own = config.own_copies[technique]
        return (config.augment_copies if own is None else own) > 0

    return Need(f"augment_{technique}_copies above 0, or augment_copies where that is left out", holds)


_ADAM = _is("optimizer", "adamw", "adam")
_ADAFACTOR = _is("optimizer", "adafactor")
_LORA = Need("lora_rank above 0", lambda config: config.lora_rank > 0)
_PATIENCE = Need("early_stopping_patience", lambda config: config.early_stopping_patience is not None)

NEEDS = {
    "beta1": _ADAM,
    "beta2": _ADAM,
    "epsilon": _ADAM,
    "momentum": _is("optimizer", "sgd"),
    "adafactor_scale_parameter": _ADAFACTOR,
    "adafactor_relative_step": _ADAFACTOR,
    "adafactor_warmup_init": _ADAFACTOR,
    "warmup_share": Need("warmup_steps left out, which wins over it", lambda config: config.warmup_steps is None),
    "final_rate_share": _is("schedule", "linear", "cosine", "polynomial"),
    "decay_power": _is("schedule", "polynomial"),
    "decay_rate": _is("schedule", "step", "exponential"),
    "decay_epochs": _is("schedule", "step"),
    "lora_alpha": _LORA,
    "lora_dropout": _LORA,
    "lora_targets": _LORA,
    "early_stopping_metric": _PATIENCE,
    "early_stopping_min_gain": _PATIENCE,
    "augment_copies": Need(
        "a rate of augmentation on words above 0, of a technique without copies of its own",
        lambda config: bool(config.sharing),
    ),
    "augment_synonym_rate": _copies_of("synonym"),
    "augment_synonym_copies": _rate_of("synonym"),
    "augment_insertion_rate": _copies_of("insertion"),
    "augment_insertion_copies": _rate_of("insertion"),
    "augment_deletion_rate": _copies_of("deletion"),
    "augment_deletion_copies": _rate_of("deletion"),
    "augment_swap_rate": _copies_of("swap"),
    "augment_swap_copies": _rate_of("swap"),
}
"""Setting -> what it needs. A setting that is not here always acts."""
