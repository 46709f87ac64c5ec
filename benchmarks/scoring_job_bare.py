"""The engine alone in one process, for `benchmarks.scoring_job overhead`: writes when it began and ended.

python -m benchmarks.scoring_job_bare MODEL TASK ROWS MAX_NEW_TOKENS NUM_WARM PRECISION SPAN

The first NUM_WARM rows warm up and are not timed. The others come in calls of 10,000, of which no two rows are equal:
the engine would score them once. The file SPAN appears when it is warm, with the time twice; at the end it holds both.
"""

import json
import sys
import time
from pathlib import Path

from t5ray.config import DecodeConfig
from t5ray.data.formats import Row, read_source
from t5ray.data.sources import find_sources
from t5ray.model.engine import Engine
from t5ray.text.tasks import render_input, resolve_task

CALL_ROWS = 10_000


def main(model: str, task_name: str, rows: str, max_new_tokens: int, num_warm: int, precision: str, span: Path) -> None:
    task = resolve_task(task_name)
    (source,), _, _ = find_sources(str(Path(rows)))
    texts = [render_input(task, row.values) for row in read_source(source) if isinstance(row, Row)]
    engine = Engine(model, decode=DecodeConfig(max_new_tokens=max_new_tokens), precision=precision)
    engine.predict(texts[:num_warm])
    begin = time.time()
    span.write_text(json.dumps([begin, begin]), encoding="utf-8")
    for start in range(num_warm, len(texts), CALL_ROWS):
        engine.predict(texts[start : start + CALL_ROWS])
    span.write_text(json.dumps([begin, time.time()]), encoding="utf-8")


if __name__ == "__main__":
    model, task, rows, max_new_tokens, num_warm, precision, span = sys.argv[1:]
    main(model, task, rows, int(max_new_tokens), int(num_warm), precision, Path(span))
