"""The embedded demo: data, tasks and a tiny model without weights, all made by scripts/ and shipped in the package.

    dates.jsonl     10,000 written dates and their ISO 8601 form     scripts/make_demo_dates.py
    dates.yaml      the task over them
    examples.jsonl  a dozen other dates, to score with the winner; none of them is in the training split
    model/          T5 configuration and character tokenizer         scripts/make_demo_model.py
    wordnet.jsonl   8,000 WordNet glosses and their category         scripts/make_wordnet_categories.py

It is an offline demonstration that hyperparameters decide everything; real work starts from pretrained weights. This
module gives paths and settings, and imports nothing that is heavy.
"""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent


def dates_data() -> Path:
    """Return the dates: rows of text, iso and split."""
    return _FOLDER / "dates.jsonl"


def dates_task() -> Path:
    """Return the task file over the dates."""
    return _FOLDER / "dates.yaml"


def examples_data() -> Path:
    """Return dates to score: rows of text alone."""
    return _FOLDER / "examples.jsonl"


def model_files() -> Path:
    """Return the directory with the demo model's config and tokenizer; it holds no weights."""
    return _FOLDER / "model"


def wordnet_data() -> Path:
    """Return the WordNet glosses: rows of text, label and split, for the classify task."""
    return _FOLDER / "wordnet.jsonl"


def settings() -> dict[str, str | int | float]:
    """Return what the demo sets in place of the defaults: dotted setting -> value.

    Learning rate, batch size, dropout and weight decay keep their defaults, which suit a pretrained T5: that is what
    the first trial runs and what the search has to beat.
    """
    return {
        "data.path": str(dates_data()),
        "task": str(dates_task()),
        "model": str(model_files()),
        "data.max_input_tokens": 48,  # the longest date has 40; a cut would take the year off
        "training.max_epochs": 5,
        "training.validation_rows": 500,
        "training.precision": "fp32",  # at this width casts cost more than bf16 saves: an epoch takes twice as long
        "search.space": "demo",
        "search.num_trials": 6,
        "search.confirm_seeds": 0,  # a demonstration; it has three minutes in all
    }
