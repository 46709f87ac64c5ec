"""What an engine says of a row, and counts while it does."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model said of one row."""

    text: str
    score: float | None
    """Probability of the whole text under the model, or of the label among the labels; None unless asked for."""
    hit_cap: bool
    """True where the output was cut at the token cap, before its end."""
    texts: tuple[str, ...] = ()
    """All texts where several are asked for: of beams the best first, of samples as drawn; empty otherwise."""
    label_scores: Mapping[str, float] | None = None
    """Label -> probability, in the order of the labels; None unless asked for."""
    input_cut: bool = False
    """True where the input was longer than the model takes, and was cut."""


@dataclass
class Tally:
    """What was forwarded so far."""

    padded_tokens: int = 0
    """Input positions forwarded, padding included."""
    real_tokens: int = 0
    """Input positions that held a token."""
