"""Settings of generation, stored in every bundle."""

from pydantic import Field

from t5ray.config.base import Settings


class DecodeConfig(Settings):
    """How predictions are generated. Stored in the bundle, so that scoring needs no flags."""

    num_beams: int = Field(default=1, ge=1)
    """Beam width; 1 is greedy."""
    length_penalty: float = 1.0
    """Exponent of the length in beam scores; above 0 favours long outputs."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Output cap in tokens. None: derived from the targets' 99th percentile with head room."""
