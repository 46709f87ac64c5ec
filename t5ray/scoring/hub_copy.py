"""A dataset of the Hugging Face hub -> Parquet files beside the output, which every worker can read.

Comes in: `hf:NAME[:CONFIG]` and the output folder. Goes out: one file per split in `OUTPUT/_input/DIGEST/`, in the
dataset's order of splits; it is removed when the job is done. Workers so need neither network nor hub token, and the
job is cut, hashed and resumed like any other. Must not know tasks or models.
"""

import hashlib
import json
import shutil
import uuid
from pathlib import Path

import pyarrow.parquet as pq

from t5ray.data.hub import PREFIX, HubSplit, open_splits
from t5ray.disk import publish_dir
from t5ray.scoring.ledger import writing

FOLDER = "_input"


def is_hub(path: str) -> bool:
    """Say whether an input is a dataset of the hub."""
    return path.startswith(PREFIX)


def copied(address: str, output: Path) -> Path:
    """Return the folder of a dataset's copy, which is made unless the very same is there.

    Raises:
        DataError: the dataset cannot be loaded, or the output not written.
    """
    splits = [split for split in open_splits(address) if len(split.rows)]
    digest = hashlib.sha256(json.dumps([[split.name, split.fingerprint] for split in splits]).encode()).hexdigest()
    target = output / FOLDER / digest[:12]
    if not target.is_dir():
        arriving = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        with writing(output):
            arriving.mkdir(parents=True)
            for place, split in enumerate(splits):
                _write(split, arriving / f"{place:05d}-{split.name}.parquet")
            publish_dir(arriving, target)
    return target


def _write(split: HubSplit, path: Path) -> None:
    writer = None
    with path.open("wb") as file:
        for table in split.tables():
            writer = writer or pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()


def drop_copy(output: Path) -> None:
    """Remove the copy of a job that is done."""
    shutil.rmtree(output / FOLDER, ignore_errors=True)
