"""Training rows with their changed copies, as each run's settings ask for.

Comes in: examples, tokenised data, training settings. Goes out: tokenised data whose training split has the copies
behind its own rows; validation and test are the same objects. Must not know models or Ray.

Tokenised data are shared by all trials, and the rates are each trial's own. So the texts of the training rows travel to
every worker once, as an Arrow table of which the object store holds a single copy, and each worker augments and
tokenises what its next run asks for. The copies follow from (text, settings, seed): all workers of a run get the same.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from t5ray.config import AugmentationConfig, TaskConfig, TrainingConfig
from t5ray.data.rows import Example
from t5ray.data.token_cache import TokenIds, TokenisedSplit
from t5ray.data.tokens import TokenisedData, Tokenizer, tokenise_texts
from t5ray.text.augmentation import Augmentable, augmented

BATCH_ROWS = 1024
"""Rows of the table that become Python objects at once."""
KEPT = 2
"""Augmented splits that a worker keeps: trials of one slot often repeat the settings of the one before."""
SCHEMA = pa.schema(
    {
        "inputs": pa.string(),
        "spans": pa.list_(pa.list_(pa.int64(), 2)),
        "keep": pa.list_(pa.string()),
        "translations": pa.list_(pa.string()),
    }
)


@dataclass(frozen=True)
class TrainingTexts:
    """The texts of the training rows, in their order: what augmentation reads."""

    table: Any
    """Arrow table of `SCHEMA`, whose columns are the fields of `Augmentable`."""

    @classmethod
    def of(cls, examples: Iterable[Example], task: TaskConfig) -> "TrainingTexts":
        """Take the texts of examples. References that stand in an input must stay there, unless they are labels."""
        rows = [
            {
                "inputs": e.inputs,
                "spans": e.spans,
                "keep": () if task.closed_labels else e.references,
                "translations": (),
            }
            for e in examples
        ]
        return cls(pa.Table.from_pylist(rows, SCHEMA))

    def __iter__(self) -> Iterator[Augmentable]:
        """Yield the rows."""
        for batch in self.table.to_batches(BATCH_ROWS):
            for row in batch.to_pylist():
                spans = tuple((start, end) for start, end in row["spans"])
                yield Augmentable(row["inputs"], spans, tuple(row["keep"]), tuple(row["translations"]))

    def parts(self) -> list[str]:
        """Return the different texts that may change, in order of their first appearance."""
        return list(dict.fromkeys(row.inputs[start:end] for row in self for start, end in row.spans))

    def with_translations(self, translations: Mapping[str, str]) -> "TrainingTexts":
        """Return the texts with the back translation of their parts, where there is one."""
        found = [[translations.get(row.inputs[start:end]) for start, end in row.spans] for row in self]
        index = SCHEMA.get_field_index("translations")
        return TrainingTexts(self.table.set_column(index, SCHEMA.field(index), pa.array(found, SCHEMA.types[index])))


def augmented_split(
    split: TokenisedSplit,
    texts: Iterable[Augmentable],
    tokenizer: Tokenizer,
    config: AugmentationConfig,
    *,
    seed: int,
    max_input_tokens: int,
) -> TokenisedSplit:
    """Return the split with copies of its rows behind them, each with the labels of its row.

    Args:
        texts: of the split's rows, in their order.
        max_input_tokens: longer copies are cut to it.
    """
    rows: list[int] = []

    def copies() -> Iterator[str]:
        """Yield the texts one by one, so that no more than a chunk of them is held, and note the row of each."""
        for number, row in enumerate(texts):
            for copy in augmented(row, config, seed):
                rows.append(number)
                yield copy.inputs

    chunks = [chunk.cut(max_input_tokens) for chunk in tokenise_texts(copies(), tokenizer)]
    labels = [split.labels[split.label_offsets[row] : split.label_offsets[row + 1]] for row in rows]
    return TokenisedSplit(
        input_ids=_joined(split.input_ids, (chunk.ids for chunk in chunks)),
        input_offsets=_extended(split.input_offsets, (length for chunk in chunks for length in chunk.lengths)),
        labels=_joined(split.labels, labels),
        label_offsets=_extended(split.label_offsets, map(len, labels)),
    )


def _joined(first: TokenIds, more: Iterable[TokenIds]) -> TokenIds:
    return np.concatenate([first, *more])


def _extended(offsets: Any, lengths: Iterable[int]) -> Any:
    return np.concatenate([offsets, offsets[-1] + np.cumsum(np.fromiter(lengths, np.int64))])


class Augmenter:
    """Gives each run of a worker the data that its settings ask for, and keeps the last few."""

    def __init__(self, data: TokenisedData, texts: TrainingTexts | None, tokenizer: Tokenizer) -> None:
        """Take what all runs share.

        Args:
            texts: of the training rows. None: no run augments.
        """
        self._data, self._texts, self._tokenizer = data, texts, tokenizer
        self._known: dict[tuple[object, ...], TokenisedData] = {}

    def data_for(self, config: TrainingConfig) -> TokenisedData:
        """Return the shared data, with augmented training rows where the settings ask for them."""
        if not config.augments:
            return self._data
        assert self._texts is not None, "the driver ships texts wherever a setting or a search space may augment"
        key = (config.seed, *(getattr(config, name) for name in AugmentationConfig.model_fields))
        found = self._known.pop(key, None)
        if found is None:
            train = augmented_split(
                self._data.train,
                self._texts,
                self._tokenizer,
                config,
                seed=config.seed,
                max_input_tokens=self._data.max_input_tokens,
            )
            found = replace(self._data, train=train)
        self._known = dict([*self._known.items(), (key, found)][-KEPT:])
        return found
