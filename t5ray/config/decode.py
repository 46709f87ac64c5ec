"""Settings of generation, stored in every bundle."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from t5ray.config.base import Settings

DEFAULT_NEW_TOKENS = 128
"""Output cap of a plain model that states none: transformers' default of 20 tokens cuts most answers."""
SAMPLING = ("temperature", "top_k", "top_p")
"""What only matters with `do_sample`."""


class AskedDecode(Settings):
    """Decode settings that a command asks for: right one by one. Whether they fit is known once the model's are."""

    num_beams: int = Field(default=1, ge=1)
    """Beam width; 1 is greedy."""
    length_penalty: float = 1.0
    """Exponent of the length in beam scores; above 0 favours long outputs."""
    early_stopping: bool | Literal["never"] = False
    """With beams: true stops at `num_beams` finished texts, `never` where none can improve, false by a heuristic."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Output cap in tokens. None: derived from the targets' 99th percentile with head room."""
    min_new_tokens: int = Field(default=0, ge=0)
    """No end of text before so many tokens."""
    repetition_penalty: float = Field(default=1.0, gt=0)
    """Divides the logits of tokens that came before; 1 changes nothing."""
    no_repeat_ngram_size: int = Field(default=0, ge=0)
    """No run of so many tokens comes twice; 0 allows any."""
    do_sample: bool = False
    """Sample tokens instead of taking the likeliest. A row's samples depend on its own input and the seed alone."""
    temperature: float = Field(default=1.0, gt=0)
    """With sampling: above 1 flattens the distribution, below 1 sharpens it."""
    top_k: int = Field(default=0, ge=0)
    """With sampling: only the likeliest so many tokens; 0 takes all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """With sampling: only the likeliest tokens that together have this probability."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seeds sampling."""
    num_return_sequences: int = Field(default=1, ge=1)
    """Texts per row: the best of a beam search, or so many samples. The first is the prediction."""
    answers: tuple[str, ...] = ()
    """Where given, the prediction is always one of these texts: they are scored like the labels of a closed task."""


class DecodeConfig(AskedDecode):
    """How predictions are generated. Stored in the bundle, so that scoring needs no flags.

    A task with closed labels does not generate: its labels are scored, and none of this but `answers` matters to it.
    """

    @model_validator(mode="after")
    def _fits_together(self) -> "DecodeConfig":
        if self.do_sample and self.num_beams > 1:
            raise ValueError(f"do_sample needs num_beams 1, but got {self.num_beams}; sampled beams are not offered")
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences must be at most num_beams without sampling, but got {self.num_return_sequences} "
                f"with num_beams {self.num_beams}"
            )
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens must be at most max_new_tokens {self.max_new_tokens}")
        for name in SAMPLING:
            if not self.do_sample and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} needs do_sample: true, but it is false")
        return self


def overridden(own: Mapping[str, Any], asked: AskedDecode | None) -> DecodeConfig:
    """Put the settings that are asked for upon a model's own, whose rules of sampling go where it does not sample.

    Raises:
        ValidationError: they do not go together.
    """
    given = asked.model_dump(exclude_unset=True, exclude_none=True) if asked else {}
    merged = {**own, **given}
    left_out = () if merged.get("do_sample") else set(SAMPLING) - given.keys()
    return DecodeConfig.model_validate({name: value for name, value in merged.items() if name not in left_out})
