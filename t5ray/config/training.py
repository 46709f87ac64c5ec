"""Settings of one fine-tuning run: what a search space may name."""

from typing import Literal

from pydantic import Field, field_validator

from t5ray.config.base import Settings
from t5ray.config.fields import Precision, refuse_fp16


class TrainingConfig(Settings):
    """One fine-tuning run. Every field but the ones in `NOT_SEARCHABLE` can be a parameter of a search space."""

    learning_rate: float = Field(default=3e-4, gt=0, le=1)
    """Peak learning rate."""
    batch_size: int = Field(default=32, ge=1)
    """Rows per optimizer step over all workers."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Rows a worker forwards at once. None: as many as `micro_batch_tokens` holds."""
    micro_batch_tokens: int = Field(default=16_384, ge=1)
    """Padded input and target tokens a worker forwards at once, at most."""
    max_epochs: int = Field(default=3, ge=1)
    """Passes over the training split."""
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """Update rule."""
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    """Decoupled weight decay per step, times the learning rate; not on norms."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's decay rate of the gradient mean."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """AdamW's decay rate of the squared gradient mean."""
    epsilon: float = Field(default=1e-8, gt=0)
    """AdamW's denominator floor."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Shape of the learning rate after warm-up; linear and cosine end at 0 after `max_epochs`."""
    warmup_share: float = Field(default=0.05, ge=0, le=1)
    """Share of all steps over which the learning rate rises from 0."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """T5's dropout rate, in every place where T5 has one."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target probability spread over the vocabulary."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global L2 norm."""
    precision: Precision = "auto"
    """bf16 runs matrix products in bfloat16 over fp32 weights; auto takes it where the hardware has it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    validation_rows: int = Field(default=1000, ge=1)
    """Validation rows that are generated after each epoch for the objective: a fixed sample."""
    seed: int = 0
    """Seeds data order and dropout."""

    _precision_is_safe = field_validator("precision", mode="before")(refuse_fp16)

    @classmethod
    def searchable(cls) -> set[str]:
        """Return the names that a search space may use."""
        return set(cls.model_fields) - NOT_SEARCHABLE


NOT_SEARCHABLE = {"max_epochs", "validation_rows", "seed", "micro_batch_tokens"}
