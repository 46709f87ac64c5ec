"""Settings of augmentation: what is done to copies of training rows, and the models behind back translation."""

from collections.abc import Collection
from typing import NamedTuple

from pydantic import Field

from t5ray.config.base import Settings
from t5ray.config.fields import Location, Precision


class Turns(NamedTuple):
    """Techniques on words that take turns at copies of a row."""

    techniques: tuple[str, ...]
    copies: int
    """Of each row; above 0."""
    is_shared: bool
    """False for one technique that has a number of copies of its own."""


class AugmentationConfig(Settings):
    """Copies of training rows with changed inputs. Every field may be a parameter of a search space.

    Rates are shares of the words of a text. Where all are 0, nothing is copied.
    """

    augment_copies: int = Field(default=1, ge=0, le=64)
    """Changed copies of each training row that the techniques below share, where they have a rate and no number of
    copies of their own: each copy is made by one of them, in turn."""
    augment_synonym_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of words that become a synonym; at least one word. English only."""
    augment_synonym_copies: int | None = Field(default=None, ge=0, le=64)
    """Copies of each training row by synonyms alone. None: a share of `augment_copies`."""
    augment_insertion_rate: float = Field(default=0.0, ge=0, le=1)
    """Synonyms of words of the text that are put in at random, as a share of its words; at least one. English only."""
    augment_insertion_copies: int | None = Field(default=None, ge=0, le=64)
    """Copies of each training row by insertion alone. None: a share of `augment_copies`."""
    augment_deletion_rate: float = Field(default=0.0, ge=0, le=1)
    """Probability that a word is left out."""
    augment_deletion_copies: int | None = Field(default=None, ge=0, le=64)
    """Copies of each training row by deletion alone. None: a share of `augment_copies`."""
    augment_swap_rate: float = Field(default=0.0, ge=0, le=1)
    """Exchanges of two words, as a share of the words; at least one."""
    augment_swap_copies: int | None = Field(default=None, ge=0, le=64)
    """Copies of each training row by swaps alone. None: a share of `augment_copies`."""
    augment_back_translation_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of training rows that get their back translation as one more copy. Needs `back_translation.forward`."""

    @property
    def augments(self) -> bool:
        """Say whether any row gets a copy."""
        return self.copies_per_row > 0

    @property
    def copies_per_row(self) -> float:
        """Return how many copies a training row gets on average, at most: copies that equal others are left out."""
        return sum(turns.copies for turns in self.turns) + self.augment_back_translation_rate

    @property
    def turns(self) -> list[Turns]:
        """Who makes how many copies of a row: those that share, then each that has a number of its own."""
        shared = Turns(self.sharing, self.augment_copies, is_shared=True)
        alone = [
            Turns((name,), copies, is_shared=False)
            for name, copies in self.own_copies.items()
            if copies is not None and self.word_rates[name]
        ]
        return [turns for turns in (shared, *alone) if turns.techniques and turns.copies]

    @property
    def sharing(self) -> tuple[str, ...]:
        """Techniques that have a rate and no number of copies of their own."""
        return tuple(name for name, rate in self.word_rates.items() if rate and self.own_copies[name] is None)

    @property
    def word_rates(self) -> dict[str, float]:
        """Technique on words -> its rate."""
        return {
            "synonym": self.augment_synonym_rate,
            "insertion": self.augment_insertion_rate,
            "deletion": self.augment_deletion_rate,
            "swap": self.augment_swap_rate,
        }

    @property
    def own_copies(self) -> dict[str, int | None]:
        """Technique on words -> the number of copies that it has of its own, whatever its rate."""
        return {
            "synonym": self.augment_synonym_copies,
            "insertion": self.augment_insertion_copies,
            "deletion": self.augment_deletion_copies,
            "swap": self.augment_swap_copies,
        }

    def idle_copies(self, varied: Collection[str] = ()) -> list[str]:
        """Say which techniques have a number of copies but no rate to make them at.

        Args:
            varied: settings that a search space varies: a trial whose rate is 0 makes none of those copies.
        """
        return [
            f"training.augment_{name}_copies: needs a rate above 0, but training.augment_{name}_rate is 0, so none of "
            f"its copies would be made. Give the rate, such as --set training.augment_{name}_rate=0.1, or leave the "
            "copies out."
            for name, copies in self.own_copies.items()
            if copies and not self.word_rates[name] and f"augment_{name}_rate" not in varied
        ]


class BackTranslationConfig(Settings):
    """Two models that take text into another language and back. One model with two prefixes counts as two."""

    forward: Location | None = None
    """Bundle, directory, URI or Hugging Face id of the model that translates training texts. None: there is none."""
    backward: Location | None = None
    """Likewise, of the model that translates them back. None: `forward` does it."""
    forward_prefix: str = "translate English to German: "
    """Put before each text."""
    backward_prefix: str = "translate German to English: "
    """Put before each translation."""
    num_beams: int = Field(default=1, ge=1)
    """Beam width of both; 1 is greedy."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Longest translation in tokens; what is longer is cut there."""
    precision: Precision = "auto"
    """bf16 where the hardware has it, unless fp32 is asked for."""
