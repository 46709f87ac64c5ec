"""What a user is told of augmentation: the plan in words, and rows before and after.

Comes in: settings, prepared rows. Goes out: lines of text. Must not know how copies are made or trained on.
"""

from collections import Counter
from collections.abc import Iterator

from t5ray.config import TrainingConfig
from t5ray.counting import counted
from t5ray.errors import ConfigError
from t5ray.text.augmentation import augmented
from t5ray.training.prepare import Prepared


def describe(config: TrainingConfig) -> list[str]:
    """Return one line on what is copied; none where nothing is."""
    if not config.augments:
        return []
    rates = config.word_rates
    parts = [
        f"{turns.copies} more by {' or '.join(f'{name} {rates[name]:g}' for name in turns.techniques)}"
        for turns in config.turns
    ]
    if config.augment_back_translation_rate:
        parts.append(f"one more by back translation for {config.augment_back_translation_rate:.0%} of rows")
    return [f"augmented    each training row at most {', '.join(parts)}: so many more steps an epoch"]


def show(prepared: Prepared, num_rows: int) -> Iterator[str]:
    """Yield the first training rows and their copies, and how many copies there are in all.

    Raises:
        ConfigError: the settings augment nothing.
    """
    config = prepared.config.training
    if not config.augments or prepared.texts is None:
        raise ConfigError(
            "--show-augmented: some training.augment_*_rate must be above 0, and its copies, too, but none is. "
            "Give one, such as --set training.augment_synonym_rate=0.1."
        )
    counts = Counter[str]()
    for number, (example, row) in enumerate(zip(prepared.splits.train, prepared.texts, strict=True)):
        copies = augmented(row, config, config.seed)
        counts.update(copy.technique for copy in copies)
        if number < num_rows:
            yield example.place
            yield f"  {'before':16}  {row.inputs}"
            yield from (f"  {copy.technique:16}  {copy.inputs}" for copy in copies)
            if not copies:
                yield "  no copy differs from the row"
    made = ", ".join(f"{number} by {technique}" for technique, number in sorted(counts.items()))
    get = "gets" if len(prepared.data.train) == 1 else "get"
    copied = f"{counted(len(prepared.data.train), 'training row')} {get} {counted(counts.total(), 'copy', 'copies')}"
    yield f"{copied}{f': {made}' if made else ''}."
