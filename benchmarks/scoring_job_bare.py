"""The engine alone in one process, for `benchmarks.scoring_job`: prints the seconds of scoring, start-up left out.

python -m benchmarks.scoring_job_bare MODEL TASK ROWS MAX_NEW_TOKENS
"""

import sys
import time
from pathlib import Path

from t5ray.config import DecodeConfig
from t5ray.data.formats import Row, read_source
from t5ray.data.sources import find_sources
from t5ray.model.engine import Engine
from t5ray.text.tasks import render_input, resolve_task


def main(model: str, task_name: str, rows: str, max_new_tokens: int) -> None:
    task = resolve_task(task_name)
    (source,), _ = find_sources(str(Path(rows)))
    texts = [render_input(task, row.values) for row in read_source(source) if isinstance(row, Row)]
    engine = Engine(model, decode=DecodeConfig(max_new_tokens=max_new_tokens), precision="fp32")
    engine.predict(texts[:8])  # the first call of anything is slow, and counts as start-up
    started = time.perf_counter()
    assert len(engine.predict(texts)) == len(texts)
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
