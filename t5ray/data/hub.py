"""Rows of a Hugging Face dataset. The only home of `datasets`.

Comes in: `hf:NAME[:CONFIG]`, where NAME is a hub id or a folder in the hub's layout. Goes out: rows, whose `split`
column is the dataset's own split, unless the rows have a column of that name. Labels of a ClassLabel column become
their names.
"""

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from t5ray.counting import counted
from t5ray.data.formats import BadRow, Row, RowStream
from t5ray.errors import DataError, one_line

if TYPE_CHECKING:
    import pyarrow as pa

PREFIX = "hf:"
TABLE_ROWS = 1000
"""Rows that are held in memory at a time."""


def open_hub(address: str, known_splits: Collection[str]) -> tuple[RowStream, list[str]]:
    """Load a dataset of the hub, or of a folder in its layout.

    Args:
        address: `hf:NAME[:CONFIG]`.
        known_splits: lower-case names of the splits to read; others are left out.
    Returns:
        The rows of the known splits, and one sentence for each split that was left out.
    Raises:
        DataError: there is no such dataset or configuration, it cannot be reached, or it has no known split.
    """
    splits = _load(address)
    known = {name: rows for name, rows in splits.items() if name.lower() in known_splits}
    if not known:
        raise DataError(f"{address}: the dataset must have a split named train, but has {', '.join(splits)}.")
    findings = [
        f"{address}: split `{name}` ({counted(len(rows), 'row')}) was left out, "
        "as it is none of train, validation and test."
        for name, rows in splits.items()
        if name not in known
    ]
    rows = itertools.chain.from_iterable(_rows(rows, name, f"{address} {name}") for name, rows in known.items())
    return rows, findings


@dataclass(frozen=True)
class HubSplit:
    """One split of a dataset, as tables."""

    name: str
    """As the dataset calls it."""
    fingerprint: str
    """Changes whenever the rows do."""
    rows: Any
    """The `datasets.Dataset`."""

    def tables(self) -> Iterator["pa.Table"]:
        """Yield the rows of the split in order: the columns as they are, but for labels, which become their names."""
        labels = _labels(self.rows)
        for table in self.rows.with_format("arrow").iter(batch_size=TABLE_ROWS):
            yield _with_split(table.replace_schema_metadata(None), self.name, labels)


def open_splits(address: str) -> list[HubSplit]:
    """Load a dataset of the hub, or of a folder in its layout, with all its splits.

    Raises:
        DataError: there is no such dataset or configuration, or it cannot be reached.
    """
    return [HubSplit(name, str(rows._fingerprint), rows) for name, rows in _load(address).items()]


def _with_split(table: "pa.Table", split: str, labels: dict[str, list[str]]) -> "pa.Table":
    import pyarrow as pa

    for column, names in labels.items():
        place = table.column_names.index(column)
        named = pa.array([_label_name(value, names) for value in table[column].to_pylist()], pa.string())
        table = table.set_column(place, column, named)
    if "split" in table.column_names:
        return table
    return table.add_column(0, "split", pa.array([split] * table.num_rows, pa.string()))


def _labels(rows: Any) -> dict[str, list[str]]:
    """Return the names behind the numbers of each ClassLabel column."""
    import datasets

    return {column: kind.names for column, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)}


def _load(address: str) -> dict[str, Any]:
    import datasets  # heavy, and only here

    name, _, config = address.removeprefix(PREFIX).partition(":")
    if not name:
        raise DataError(
            f"{address}: must name a dataset of the Hugging Face hub, or a folder in its layout, but names none. Write "
            "hf:NAME or hf:NAME:CONFIG."
        )
    try:
        return dict(datasets.load_dataset(name, config or None))
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as exc:
        reason = one_line(exc)[:400].rstrip(".")
        raise DataError(
            f"{address}: must be a dataset of the Hugging Face hub, or a folder in its layout, but could not be "
            f"loaded: {reason}. Check the spelling, the network, and HF_TOKEN for a private dataset."
        ) from exc


def _rows(rows: Any, split: str, name: str) -> RowStream:
    from t5ray.data.cells import values_of

    labels = _labels(rows)
    number = 0
    for table in rows.with_format("arrow").iter(batch_size=TABLE_ROWS):  # arrow: images and audio stay undecoded
        found, wrong = values_of(table)
        for offset, values in enumerate(found):
            number += 1
            place = f"{name} row {number}"
            if offset in wrong:
                yield BadRow(place, wrong[offset])
                continue
            named = {column: _label_name(values[column], names) for column, names in labels.items()}
            yield Row(place, {"split": split, **values, **named})


def _label_name(value: int | None, names: list[str]) -> str | None:
    """Return the name of a label; the hub marks rows without one by -1."""
    return None if value is None or value < 0 else names[value]
