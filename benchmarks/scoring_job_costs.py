"""What one shard costs, stage by stage, and what the driver pays per shard, for `benchmarks.scoring_job costs`."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import psutil
import pyarrow as pa

from t5ray.config import DecodeConfig
from t5ray.scoring.inputs import Input, Shard, list_sources, recall, remembered
from t5ray.scoring.ledger import Entry, Ledger
from t5ray.scoring.predicting import render_row
from t5ray.scoring.reading import RangeReader, read_shard
from t5ray.scoring.scanning import scan
from t5ray.scoring.scorer import Outcome
from t5ray.scoring.writing import Results, encode
from t5ray.text.tasks import resolve_task

T = TypeVar("T")
NUM_ONE_BY_ONE = 1600
"""Shards that workers are handed one by one, to see what Ray Data adds to each."""
NUM_ENTRIES = 24_415
"""Shards of a job of 100,000,000 rows at 4,096 each."""


def print_costs(rows: Path, given: argparse.Namespace) -> None:
    """Print seconds per shard of each stage, then what grows with the number of shards."""
    found, scan_s = timed(lambda: scan(str(rows), given.shard_rows))
    per_shard = _stages(found, given)
    total = sum(per_shard.values())
    print(f"one shard of {given.shard_rows} rows, medians of {found.num_shards} shards:")
    for name, seconds in per_shard.items():
        print(f"  {name:<10}{seconds:>10.4f} s{seconds / total:>8.1%}")
    print(f"scan: {found.num_rows / scan_s:,.0f} rows/s, once a job")
    _print_ray()
    _driver_costs(found, given)


def timed(action: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    result = action()
    return result, time.perf_counter() - started


def _stages(found: Input, given: argparse.Namespace) -> dict[str, float]:
    from t5ray.model.engine import Engine

    engine = Engine(given.model, decode=DecodeConfig(max_new_tokens=given.max_new_tokens), precision=given.precision)
    task, ranges = resolve_task(given.task), RangeReader()
    ledger = Ledger(given.folder / "costs", given.format, found.num_shards)
    ledger.open()
    columns = ["text"] if given.format == "parquet" else None
    seconds: dict[str, list[float]] = {}
    for shard in found.shards:
        rows, read_s = timed(lambda s=shard: read_shard(found.files[s.file], s, columns, ranges))  # type: ignore[misc]
        texts = [render_row(task, {}, record) for record in rows.records]
        _, tokenise_s = timed(lambda t=texts: engine.tokenizer(t, verbose=False))  # type: ignore[misc]
        said, score_s = timed(lambda t=texts: engine.predict(t))  # type: ignore[misc]
        results = Results([one.text for one in said], None, [None] * len(texts))
        part, encode_s = timed(lambda r=rows, x=results: encode(given.format, r, x, found.schema))  # type: ignore[misc]
        _, commit_s = timed(lambda s=shard, p=part: ledger.commit(s.index, p, Entry(rows=s.num_rows)))  # type: ignore[misc]
        stages = {"read": read_s, "tokenise": tokenise_s, "score": score_s - tokenise_s, "encode": encode_s}
        for name, value in (stages | {"commit": commit_s}).items():
            seconds.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in seconds.items()}


class Nothing:
    """A scorer that does nothing."""

    def __call__(self, shards: pa.Table) -> Iterator[pa.Table]:
        """Yield what a scorer would."""
        for index in shards["index"].to_pylist():
            yield pa.Table.from_pylist([{**asdict(Outcome(index)), "at": time.time()}])


def _print_ray() -> None:
    """Print the mean time from a worker's one shard to its next, with nothing in between, and the driver's memory."""
    from t5ray.cluster import connect
    from t5ray.scoring.job import hand_out
    from t5ray.scoring.pool import Pool, blocks_of

    def measured(blocks: Iterable[Sequence[Shard]]) -> float:
        ends = sorted(row["at"] for row in hand_out(Nothing, (), blocks, Pool(2, 2, 1.0, 0.0)))
        return float(ends[-1] - ends[0]) / (len(ends) - 1) * 2

    with connect("local", num_cpus=2):
        one_by_one = measured([shard] for shard in _empty(NUM_ONE_BY_ONE))
        driver = psutil.Process()
        before = driver.memory_info().rss
        in_blocks = measured(blocks_of(_empty(NUM_ENTRIES), 2))
        grown_mb = (driver.memory_info().rss - before) / 1e6
    print(f"Ray Data, empty shards, 2 workers: {in_blocks:.4f} s per shard, one by one {one_by_one:.4f} s")
    counts = ", ".join(f"{sum(1 for _ in blocks_of(_empty(NUM_ENTRIES), n)):,} with {n:,}" for n in (1, 100, 1000))
    print(f"Ray Data, {NUM_ENTRIES:,} shards in blocks, by workers: {counts}")
    print(f"Ray Data, {NUM_ENTRIES:,} empty shards: the driver's memory grows by {grown_mb:.0f} MB")


def _empty(count: int) -> list[Shard]:
    return [Shard(number, 0, 0, 0, 0, 0) for number in range(count)]


def _driver_costs(found: Input, given: argparse.Namespace) -> None:
    """Print what starting and going on cost where there are as many shards as 100,000,000 rows make."""
    ledger = Ledger(given.folder / "many", given.format, NUM_ENTRIES)
    ledger.open()
    text = json.dumps(asdict(Entry(rows=4096)))
    for index in range(NUM_ENTRIES):
        ledger.part(index).touch()
        ledger.entry_file(index).write_text(text)
    entries, read_s = timed(ledger.finished)
    assert len(entries) == NUM_ENTRIES
    print(f"ledger: {NUM_ENTRIES:,} entries are read in {read_s:.2f} s, at each start and at the end")
    record = remembered(found)
    _, recall_s = timed(
        lambda: recall(record, list_sources(str(given.folder / f"rows-{given.rows}.{given.format}"))[0])
    )
    print(f"going on: the remembered scan of {found.num_shards} shards is back in {recall_s:.4f} s")
