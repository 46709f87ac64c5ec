"""Settings of one fine-tuning run: what a search space may name."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from t5ray.config.augmentation import AugmentationConfig
from t5ray.config.fields import Seconds, TrainingPrecision, refuse_fp16


class TrainingConfig(AugmentationConfig):
    """One fine-tuning run. Every field but the ones in `NOT_SEARCHABLE` can be a parameter of a search space."""

    learning_rate: float = Field(default=3e-4, gt=0, le=1)
    """Peak learning rate."""
    batch_size: int = Field(default=32, ge=1)
    """Rows per optimizer step over all workers."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Rows a worker forwards at once, at most. None: `micro_batch_tokens` alone limits them."""
    micro_batch_tokens: int | None = Field(default=None, ge=1)
    """Padded input and target tokens a worker forwards at once, at most. None: on GPUs as many rows as their memory
    holds, tried before the first step for each length; on CPUs 4,096 tokens, on GPUs that share a model 16,384."""
    max_epochs: int = Field(default=3, ge=1)
    """Passes over the training split."""
    preset: Literal["none", "t5-adamw", "t5-adafactor"] = "none"
    """A tried set of optimizer settings, which docs/settings.md lists; settings that are given win over it."""
    optimizer: Literal["adamw", "adam", "adafactor", "sgd"] = "adamw"
    """Update rule. adam differs from adamw in its weight decay, which is part of the gradient (L2)."""
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    """Shrinks matrices at each step, by this times the learning rate; not norms and biases."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay rate of the gradient mean of adamw and adam."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay rate of the squared gradient mean of adamw and adam."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Floor of the denominator of adamw and adam."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Share of the last update that sgd repeats."""
    adafactor_scale_parameter: bool = False
    """Multiply Adafactor's steps by the size (root mean square) of the matrix they change."""
    adafactor_relative_step: bool = False
    """Let Adafactor choose its learning rate, min(0.01, 1/sqrt(step)): no learning_rate, schedule or warm-up then."""
    adafactor_warmup_init: bool = False
    """Begin that learning rate at 1e-6 per step; needs adafactor_relative_step."""
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt", "polynomial", "step", "exponential"] = "linear"
    """Shape of the learning rate after warm-up; linear, cosine and polynomial end after `max_epochs`."""
    warmup_share: float = Field(default=0.05, ge=0, le=1)
    """Share of all steps over which the learning rate rises from 0."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """The same in optimizer steps. None: warmup_share counts."""
    final_rate_share: float = Field(default=0.0, ge=0, le=1)
    """Where linear, cosine and polynomial end, as a share of learning_rate."""
    decay_power: float = Field(default=1.0, gt=0)
    """Exponent of the polynomial schedule; 1 is linear."""
    decay_rate: float = Field(default=0.95, gt=0, le=1)
    """Factor of the exponential schedule in each epoch, the first included, and of the step schedule at each step."""
    decay_epochs: int = Field(default=1, ge=1)
    """Epochs between two falls of the step schedule."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """T5's dropout rate, in every place where T5 has one."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target probability spread over the vocabulary."""
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global L2 norm. None: they are not."""
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Judge and keep an exponential moving average of the weights with this decay per step. 0: the weights."""
    freeze_embeddings: bool = False
    """Keep the token embeddings as they are."""
    freeze_encoder: bool = False
    """Keep the encoder as it is, but for the embeddings, which it shares with the decoder."""
    freeze_layers: int = Field(default=0, ge=0)
    """Keep the first blocks of the encoder and of the decoder as they are: this many of each."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor of the learning rate from each block to the one below it, in both stacks; embeddings come last."""
    lora_rank: int = Field(default=0, ge=0)
    """Train adapters of this rank instead of the weights (LoRA); the bundle has them merged. 0: train the weights."""
    lora_alpha: float = Field(default=16.0, gt=0)
    """Adapters are multiplied by this over their rank."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapters."""
    lora_targets: Literal["qv", "attention", "feed_forward", "all"] = "attention"
    """Which matrices get adapters: queries and values, all of attention, feed-forward, or all of these."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Evaluations without gain after which a run ends. None: never."""
    early_stopping_metric: str | None = None
    """What must gain: a metric of the task, validation_loss, train_loss or hit_cap. None: the objective."""
    early_stopping_min_gain: float = Field(default=0.0, ge=0)
    """A gain must be larger than this."""
    evaluate_every_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between evaluations within an epoch; each epoch's end is always judged. None: only that."""
    checkpoint_every_s: Seconds | None = Field(default=None, gt=0)
    """Save the state to resume from this often within an epoch: seconds, or text such as 10m. None: after epochs."""
    log_every_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between two points of the curves of loss, rate, gradient, speed and memory. None: some 20 points
    an epoch."""
    precision: TrainingPrecision = "auto"
    """bf16 runs matrix products in bfloat16 over fp32 weights; auto takes it where the hardware has it. bf16_pure
    computes all in bfloat16, gradients included; updates are added to fp32 weights, which are judged and kept."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """Several workers hold copies of the model (ddp) or parts of it (fsdp). auto: fsdp where a copy does not fit."""
    validation_rows: int = Field(default=1000, ge=1)
    """Validation rows that are generated after each epoch for the objective: a fixed sample."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds data order, dropout and augmentation. Runs that confirm the best take the next seeds."""

    _precision_is_safe = field_validator("precision", mode="before")(refuse_fp16)

    @model_validator(mode="after")
    def _take_the_preset(self) -> Self:
        """Fill what was not given from the preset, which stays apart from what was given: see `with_params`."""
        for name, value in PRESETS[self.preset].items():
            if name not in self.model_fields_set:
                object.__setattr__(self, name, value)
        return self

    @model_validator(mode="after")
    def _adafactor_agrees_with_itself(self) -> Self:
        problems = adafactor_conflicts(self) if self.optimizer == "adafactor" else []
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def _shards_what_can_be_sharded(self) -> Self:
        if self.parallel == "fsdp" and self.optimizer == "adafactor":
            raise ValueError("parallel=fsdp cannot shard Adafactor's factored state. Use adamw, or parallel=ddp")
        if self.parallel == "fsdp" and self.precision == "bf16_pure":
            raise ValueError(
                "parallel=fsdp has no precision=bf16_pure: its weights are fp32 and are gathered in bf16. Use bf16"
            )
        return self

    def with_params(self, params: Mapping[str, object]) -> Self:
        """Return these settings with some replaced, as a search replaces them; a preset among them counts.

        Raises:
            ValidationError: they do not go together.
        """
        return type(self).model_validate({**self.model_dump(exclude_unset=True), **params})

    @property
    def left_to_presets(self) -> list[str]:
        """Settings that were not given, so that a preset may fill them: see `with_params`."""
        fillable = {name for values in PRESETS.values() for name in values}
        return sorted(fillable - self.model_fields_set)

    @classmethod
    def searchable(cls) -> set[str]:
        """Return the names that a search space may use."""
        return set(cls.model_fields) - NOT_SEARCHABLE


NOT_SEARCHABLE = {
    "max_epochs",
    "validation_rows",
    "seed",
    "micro_batch_tokens",
    "checkpoint_every_s",
    "log_every_steps",
    "parallel",
    "evaluate_every_steps",
}
PRESETS: dict[str, dict[str, object]] = {
    "none": {},
    # transformers' advice for T5: "typically, 1e-4 and 3e-4 work well for most problems"
    "t5-adamw": {
        "optimizer": "adamw",
        "learning_rate": 3e-4,
        "weight_decay": 0.01,
        "schedule": "linear",
        "warmup_share": 0.05,
        "max_grad_norm": 1.0,
    },
    # Raffel et al. 2020, section 3.1.2: Adafactor fine-tunes at a constant 1e-3; it clips its own updates
    "t5-adafactor": {
        "optimizer": "adafactor",
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup_share": 0.0,
        "max_grad_norm": None,
    },
}


def adafactor_conflicts(config: TrainingConfig) -> list[str]:
    """Say which settings contradict each other when Adafactor runs."""
    if not config.adafactor_relative_step:
        return ["adafactor_warmup_init needs adafactor_relative_step: set both or none"] * config.adafactor_warmup_init
    clashes = {
        f"learning_rate={config.learning_rate:g}": config.learning_rate != default_of("learning_rate"),
        f"schedule={config.schedule}": config.schedule != "constant",
        "a warm-up": bool(config.warmup_steps or (config.warmup_steps is None and config.warmup_share)),
    }
    return [
        f"adafactor_relative_step chooses the learning rate itself, so {name} cannot hold. "
        "Leave learning_rate out, and set schedule=constant, warmup_share=0; or drop adafactor_relative_step"
        for name, clash in clashes.items()
        if clash
    ]


def default_of(name: str) -> object:
    """Return the default of a training setting."""
    return TrainingConfig.model_fields[name].default
