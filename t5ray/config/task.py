"""What a task is: how a row becomes inputs and targets, how a prediction is read back, how it is judged."""

import string
from collections.abc import Mapping
from functools import cache, cached_property
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from t5ray.config.base import Settings
from t5ray.errors import did_you_mean

MetricName = Literal[
    "accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "weighted_precision",
    "weighted_recall",
    "weighted_f1",
    "rougeL",
    "rouge1",
    "rouge2",
    "rougeLsum",
    "token_f1",
    "exact_match",
    "chrf",
    "bleu",
]
"""Every metric that a task may name. All are better when higher; all lie in [0, 1] but chrf and bleu, in [0, 100].

`exact_match` is SQuAD's, which ignores case, punctuation and articles, in a task that also names `token_f1`; in any
other task it asks for equal text, white space at the ends aside.
"""


LANGUAGES = ("source_language", "target_language")
"""Template fields with a value of their own: columns may give them, but need not."""


@cache
def template_fields(template: str) -> tuple[str, ...]:
    """Return the column names that a template mentions, in order.

    Example:
        template_fields("answer: {context} question: {question}") -> ("context", "question")
    Raises:
        ValueError: the braces do not match, or a field is empty, positional, or more than a name.
    """
    names = []
    for _, name, form, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if not name.isidentifier() or form or conversion:
            found = f"{name}{f'!{conversion}' if conversion else ''}{f':{form}' if form else ''}"
            raise ValueError(f"a template field must be a column name such as {{text}}, but got {{{found}}}")
        names.append(name)
    return tuple(dict.fromkeys(names))


class TaskConfig(Settings):
    """One text-to-text task.

    `inputs` and `targets` are templates over the row's columns. Literal text before the first field of
    `inputs` is the T5 prefix; it lives here and in the bundle, never in a flag of predict.
    """

    name: str = Field(min_length=1)
    """Shown in results; the built-in tasks are classify, summarize, answer and translate."""
    inputs: str
    """Template of the encoder's text, for example `classify: {text}`."""
    targets: str
    """Template of the decoder's text, for example `{label}`. A single field may hold a list of references."""
    metrics: tuple[MetricName, ...] = Field(min_length=1)
    """How predictions are judged. The first is the default objective of a search. exact_match ignores case, punctuation
    and articles beside token_f1, as SQuAD does; alone it asks for equal text, white space at the ends aside."""
    closed_labels: bool = False
    """True where targets come from a closed set, found in the training data and kept in `labels`."""
    labels: tuple[str, ...] = ()
    """The closed set of targets, sorted; naming them sets `closed_labels`. Filled from the training split when empty
    and `closed_labels` is set."""
    source_language: str = "English"
    """Value of `{source_language}` in the templates, unless the row has a column of that name."""
    target_language: str = "German"
    """Value of `{target_language}` in the templates, unless the row has a column of that name."""
    augment: tuple[str, ...] | None = None
    """Input columns that augmentation may change in training rows. None: all that are no target columns as well."""

    @field_validator("inputs", "targets")
    @classmethod
    def _names_a_column(cls, template: str) -> str:
        if not set(template_fields(template)) - set(LANGUAGES):
            raise ValueError(f"must name at least one column, such as {{text}}, but got {template!r}")
        return template

    @model_validator(mode="before")
    @classmethod
    def _labels_are_closed(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not values.get("labels"):
            return values
        if not values.get("closed_labels", True):
            raise ValueError("`labels` names a closed set, but `closed_labels` is false. Leave one of the two out.")
        return {**values, "closed_labels": True}

    @model_validator(mode="after")
    def _augments_its_own_inputs(self) -> "TaskConfig":
        for name in self.augment or ():
            if name not in self.input_columns:
                hint = did_you_mean(name, self.input_columns)
                raise ValueError(f"`augment` must name columns of `inputs`, but got {name!r}. {hint}")
        return self

    @property
    def prefix(self) -> str:
        """Literal text before the first column of `inputs`, languages filled in: `classify: `."""
        parts = []
        for literal, name, _, _ in string.Formatter().parse(self.inputs):
            parts.append(literal)
            if name in LANGUAGES:
                parts.append(str(getattr(self, name)))
            elif name is not None:
                break
        return "".join(parts)

    @property
    def input_columns(self) -> tuple[str, ...]:
        """Columns that `inputs` needs: all that predict needs."""
        return tuple(n for n in template_fields(self.inputs) if n not in LANGUAGES)

    @property
    def target_columns(self) -> tuple[str, ...]:
        """Columns that `targets` needs besides those: for training and evaluation only."""
        return tuple(n for n in template_fields(self.targets) if n not in LANGUAGES)

    @cached_property
    def augmentable_columns(self) -> tuple[str, ...]:
        """Input columns that augmentation may change."""
        return (
            tuple(n for n in self.input_columns if n not in self.target_columns)
            if self.augment is None
            else self.augment
        )
