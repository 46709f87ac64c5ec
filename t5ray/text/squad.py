"""SQuAD's measures of an extracted answer.

Source: Rajpurkar et al. 2016, evaluate-v2.0.py: lower case, without ASCII punctuation, without the articles a, an and
the, white space collapsed; the best of several references counts.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise_answer(text: str) -> str:
    """Return the text as SQuAD compares it.

    Example:
        normalise_answer("The  Eiffel-Tower!") -> "eiffeltower"
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def squad_exact_match(prediction: str, references: Sequence[str]) -> float:
    """Return 1 where the normalised prediction equals a normalised reference, else 0."""
    return float(normalise_answer(prediction) in {normalise_answer(reference) for reference in references})


def squad_f1(prediction: str, references: Sequence[str]) -> float:
    """Return the F1 of shared tokens with the reference that gives most, in [0, 1].

    Where nothing is left of either text, they match if nothing is left of both.
    """
    tokens = normalise_answer(prediction).split()
    return max(_f1(tokens, normalise_answer(reference).split()) for reference in references)


def _f1(prediction: list[str], reference: list[str]) -> float:
    if not prediction or not reference:
        return float(prediction == reference)
    shared = (Counter(prediction) & Counter(reference)).total()
    return 2 * shared / (len(prediction) + len(reference))
