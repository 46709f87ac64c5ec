"""Ray Data's own way to score rows, for `benchmarks.scoring_job`: read -> map_batches over an actor pool -> write.

    python -m benchmarks.scoring_job_idiomatic MODEL TASK ROWS MAX_NEW_TOKENS OUTPUT WORKERS BATCH_ROWS PRECISION

With Ray's job checkpointing on the column `id`. Prints rows/s from the first batch to the end, and whether the files
hold the rows in input order.
"""

import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray
import ray.data
from ray.data.checkpoint import CheckpointConfig

from t5ray.config import DecodeConfig
from t5ray.text.tasks import render_input, resolve_task


class Predict:
    """Scores batches of rows."""

    def __init__(self, model: str, task_name: str, max_new_tokens: int, precision: str, started: str) -> None:
        from t5ray.model.engine import Engine

        self._task = resolve_task(task_name)
        self._engine = Engine(model, decode=DecodeConfig(max_new_tokens=max_new_tokens), precision=precision)
        self._started = Path(started)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add the predictions."""
        if not self._started.exists():
            self._started.write_text(str(time.time()))
        texts = [render_input(self._task, {"text": text}) for text in batch["text"]]
        return {**batch, "prediction": [found.text for found in self._engine.predict(texts)]}


def main(
    model: str, task: str, rows: str, max_new_tokens: int, output: str, workers: int, batch_rows: int, precision: str
) -> None:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.checkpoint_config = CheckpointConfig(id_column="id", checkpoint_path=f"{output}-checkpoint")
    num_rows = pq.read_metadata(rows).num_rows
    started = Path(output).with_suffix(".started")
    ray.data.read_parquet(rows, override_num_blocks=max(1, num_rows // batch_rows)).map_batches(
        Predict,
        batch_size=batch_rows,
        fn_constructor_args=(model, task, max_new_tokens, precision, str(started)),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=2 / workers / 2,  # the reads and the writes want their own
    ).write_parquet(output)
    took = time.time() - float(started.read_text())
    files = sorted(Path(output).rglob("*.parquet"))
    ids = [number for path in files for number in pq.read_table(path, columns=["id"])["id"].to_pylist()]
    print(
        f"{num_rows / took:8.1f} rows/s, {len(files)} files, {len(ids)} rows, in input order: {ids == sorted(ids)}",
    )


if __name__ == "__main__":
    MODEL, TASK, ROWS, NEW_TOKENS, OUTPUT, WORKERS, BATCH_ROWS, PRECISION = sys.argv[1:]
    main(MODEL, TASK, ROWS, int(NEW_TOKENS), OUTPUT, int(WORKERS), int(BATCH_ROWS), PRECISION)
