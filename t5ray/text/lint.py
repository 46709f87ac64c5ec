"""What training text gets wrong, found before training.

Comes in: a task, its rendered examples and the model's tokenizer. Goes out: findings, of which an error means that
training would go wrong for certain. Must not know models or files; a tokenizer is whatever has the three methods.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from t5ray.config import TaskConfig
from t5ray.text.tasks import has_doubled_prefix

SHOWN_PLACES = 3
SHOWN_CHARACTERS = 8
TOKENIZED_ROWS = 2000
"""Rows that go through the tokenizer, at most, spread evenly over all."""


class Text(Protocol):
    """What is used of an example."""

    @property
    def inputs(self) -> str:
        """Text for the encoder, prefix included."""

    @property
    def references(self) -> tuple[str, ...]:
        """Texts that count as right; the first is trained on."""

    @property
    def place(self) -> str:
        """Where the row stands: `topics.jsonl:17`."""


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    def __call__(self, text: list[str], **options: Any) -> Any:
        """Return an object whose `input_ids` hold one list of ids per text."""

    def batch_decode(self, sequences: Any, **options: Any) -> Any:
        """Return one text per list of ids."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the user should know before training."""

    severity: Literal["error", "warning"]
    """An error stops; a warning is shown."""
    message: str
    """What was found, how often, up to three places, and how to mend it."""


def lint_task(task: TaskConfig, examples: Sequence[Text], tokenizer: Tokenizer) -> list[Finding]:
    """Look through training examples for what a model cannot learn or produce.

    Args:
        tokenizer: the model's; sees at most 2000 rows, spread evenly.
    Returns:
        Errors first.
    """
    if not examples:
        return []
    sample = examples[:: -(-len(examples) // TOKENIZED_ROWS)]
    findings = [
        _doubled_prefix(task, examples),
        _equal_labels(task, tokenizer),
        _conflicts(examples),
        _lossy_targets(sample, tokenizer),
        _unseen_inputs(sample, tokenizer),
        _rouge_is_blind(task, examples),
    ]
    return [finding for finding in findings if finding is not None]


def _doubled_prefix(task: TaskConfig, examples: Sequence[Text]) -> Finding | None:
    hits = [example for example in examples if has_doubled_prefix(task, example.inputs)]
    if not hits:
        return None
    return Finding(
        "error",
        f"task {task.name}: a row's text must not start with the task's prefix {task.prefix!r}, which is put before "
        f"it, but in {_share(hits, examples)} it does. Take the prefix out of the data, or out of the task's `inputs`.",
    )


def _equal_labels(task: TaskConfig, tokenizer: Tokenizer) -> Finding | None:
    """Find closed labels that are the same tokens, of which one could never be predicted."""
    by_tokens: dict[tuple[int, ...], list[str]] = {}
    labels = list(task.labels)
    for label, tokens in zip(labels, _encode(tokenizer, labels) if labels else [], strict=True):
        by_tokens.setdefault(tuple(tokens), []).append(label)
    equal = [group for group in by_tokens.values() if len(group) > 1]
    if not equal:
        return None
    named = "; ".join(" and ".join(_short(label) for label in group[:SHOWN_PLACES]) for group in equal[:SHOWN_PLACES])
    return Finding(
        "error",
        f"task {task.name}: labels must be different tokens to the model, but of {len(task.labels)} labels "
        f"{sum(map(len, equal))} are not: {named} are the same. Write labels alike that mean the same, others in "
        "words that the model's vocabulary has; or add tokens to the tokenizer.",
    )


def _conflicts(examples: Sequence[Text]) -> Finding | None:
    """Find inputs that are trained on with several targets."""
    by_input: dict[str, list[Text]] = {}
    for example in examples:
        by_input.setdefault(example.inputs, []).append(example)
    groups = [g for g in by_input.values() if len({example.references[0] for example in g}) > 1]
    if not groups:
        return None
    first = groups[0]
    targets = dict.fromkeys(_short(example.references[0]) for example in first)
    return Finding(
        "warning",
        f"equal inputs should have equal targets, but in {_share([e for g in groups for e in g], examples)} they "
        f"have not, for {len(groups)} different inputs such as {_short(first[0].inputs)} -> "
        f"{' and '.join(list(targets)[:2])}. No model can get all of them right: mend or merge these rows.",
    )


def _lossy_targets(sample: Sequence[Text], tokenizer: Tokenizer) -> Finding | None:
    """Find targets that the model cannot produce."""
    backs = _decode(tokenizer, _encode(tokenizer, [example.references[0] for example in sample]))
    hits = [pair for pair in zip(sample, backs, strict=True) if pair[0].references[0].strip() != pair[1].strip()]
    return _losses(
        sample,
        [example for example, _ in hits],
        sum((_lost(example.references[0], back) for example, back in hits), Counter[str]()),
        "a target must come back unchanged from the tokenizer to be produced",
        "Such targets can never be matched exactly: add tokens to the tokenizer, or write the targets without.",
    )


def _unseen_inputs(sample: Sequence[Text], tokenizer: Tokenizer) -> Finding | None:
    """Find inputs of which the model does not see everything; spaces and Unicode variants do not matter there."""
    texts = [unicodedata.normalize("NFKC", example.inputs) for example in sample]
    backs = _decode(tokenizer, _encode(tokenizer, texts))
    lost = [_lost(text, back) - Counter({" ": len(text)}) for text, back in zip(texts, backs, strict=True)]
    return _losses(
        sample,
        [example for example, characters in zip(sample, lost, strict=True) if characters],
        sum(lost, Counter[str]()),
        "an input should come back whole from the tokenizer to be seen whole",
        "If they matter to the task, add tokens to the tokenizer, or spell them out.",
    )


def _losses(sample: Sequence[Text], hits: Sequence[Text], lost: Counter[str], rule: str, mend: str) -> Finding | None:
    if not hits:
        return None
    named = ", ".join(repr(character) for character, _ in lost.most_common(SHOWN_CHARACTERS))
    more = f" and {len(lost) - SHOWN_CHARACTERS} more" if len(lost) > SHOWN_CHARACTERS else ""
    what = f"loses characters: {named}{more}" if lost else "changes"
    return Finding("warning", f"{rule}, but in {_share(hits, sample)} it {what}. {mend}")


def _rouge_is_blind(task: TaskConfig, examples: Sequence[Text]) -> Finding | None:
    """Find targets that ROUGE, whose tokens are runs of a-z and 0-9, scores 0 whatever is predicted."""
    hits = [e for e in examples if not any(c.isascii() and c.isalnum() for c in e.references[0])]
    if not hits or not any(metric.startswith("rouge") for metric in task.metrics):
        return None
    return Finding(
        "warning",
        f"ROUGE sees only the letters a-z and digits, but in {_share(hits, examples)} the target has none and always "
        "scores 0. Judge such text by chrf: give the task other `metrics`.",
    )


def _encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return list(tokenizer(texts, verbose=False).input_ids)


def _decode(tokenizer: Tokenizer, ids: list[list[int]]) -> list[str]:
    """Decode as predictions are decoded."""
    return list(tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _lost(text: str, back: str) -> Counter[str]:
    """Return the characters that a round trip through the tokenizer lost, white space at the ends aside."""
    return Counter(text.strip()) - Counter(back.strip())


def _share(hits: Sequence[Text], rows: Sequence[Text]) -> str:
    """Return how many rows, and where the first ones stand: `4 of 200 rows (2.0%: a.csv:2, a.csv:9, a.csv:12, …)`."""
    places = ", ".join(example.place for example in hits[:SHOWN_PLACES])
    more = ", …" if len(hits) > SHOWN_PLACES else ""
    return f"{len(hits)} of {len(rows)} rows ({len(hits) / len(rows):.1%}: {places}{more})"


def _short(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
