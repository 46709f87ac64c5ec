"""Settings of augmentation: what is done to copies of training rows, and the models behind back translation."""

from pydantic import Field

from t5ray.config.base import Settings
from t5ray.config.fields import Precision


class AugmentationConfig(Settings):
    """Copies of training rows with changed inputs. Every field may be a parameter of a search space.

    Rates are shares of the words of a text. Where all are 0, nothing is copied.
    """

    augment_copies: int = Field(default=1, ge=0, le=64)
    """Changed copies of each training row, for the four rates below: each copy is made by one of them."""
    augment_synonym_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of words that become a synonym; at least one word. English only."""
    augment_insertion_rate: float = Field(default=0.0, ge=0, le=1)
    """Synonyms of words of the text that are put in at random, as a share of its words; at least one. English only."""
    augment_deletion_rate: float = Field(default=0.0, ge=0, le=1)
    """Probability that a word is left out."""
    augment_swap_rate: float = Field(default=0.0, ge=0, le=1)
    """Exchanges of two words, as a share of the words; at least one."""
    augment_back_translation_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of training rows that get their back translation as one more copy. Needs `back_translation.forward`."""

    @property
    def augments(self) -> bool:
        """Say whether any row gets a copy."""
        return bool(self.augment_back_translation_rate or (self.augment_copies and any(self.word_rates.values())))

    @property
    def copies_per_row(self) -> float:
        """Return how many copies a training row gets on average, at most: copies that equal others are left out."""
        return (self.augment_copies if any(self.word_rates.values()) else 0) + self.augment_back_translation_rate

    @property
    def word_rates(self) -> dict[str, float]:
        """Technique on words -> its rate."""
        return {
            "synonym": self.augment_synonym_rate,
            "insertion": self.augment_insertion_rate,
            "deletion": self.augment_deletion_rate,
            "swap": self.augment_swap_rate,
        }


class BackTranslationConfig(Settings):
    """Two models that take text into another language and back. One model with two prefixes counts as two."""

    forward: str | None = None
    """Bundle, directory, URI or Hugging Face id of the model that translates training texts. None: there is none."""
    backward: str | None = None
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
