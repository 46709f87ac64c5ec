"""Say what `make demo` found, and three commands to try next.

python scripts/demo_summary.py t5ray_runs/dates-20261123-204218
"""

import json
import sys
from pathlib import Path
from typing import Any


def read(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def main(run: Path) -> None:
    """Print the summary of one demo run."""
    search, evaluation, job = (
        read(run / part) for part in ("search.json", "evaluation/metrics.json", "predictions/_job.json")
    )
    best, states = search["best"], [trial["state"] for trial in search["trials"]]
    low, high = evaluation["intervals"]["exact_match"]
    examples = [
        json.loads(line) for line in sorted((run / "predictions").glob("part-*.jsonl"))[0].open(encoding="utf-8")
    ]
    print("\nWhat the demo found")
    print(
        f"  {len(states)} trials in {search['wall_s']:.0f} s: {states.count('COMPLETE')} ran to the end, "
        f"{states.count('PRUNED')} were stopped early, {states.count('FAIL')} failed"
    )
    print(f"  default settings  {search['default']['value']:.3f} exact match on validation")
    print(f"  best settings     {best['value']:.3f} (trial {best['trial']}, epoch {best['epoch']})")
    print(f"  on test           {evaluation['metrics']['exact_match']:.3f}, 95 % interval {low:.3f} to {high:.3f}")
    print(f"  {job['rows_out']} dates scored, for example:")
    for row in examples[:3]:
        print(f"    {row['text']}  ->  {row['prediction']}")
    print("\nTry next")
    print("  compare the trials   .venv/bin/mlflow ui --backend-store-uri sqlite:///mlflow.db")
    print(
        "  your own data        .venv/bin/python -m t5ray.tune --data ROWS.csv --task classify "
        "--model google/flan-t5-small"
    )
    print(
        f"  score any rows       .venv/bin/python -m t5ray.predict --model {run}/best --input ROWS.jsonl "
        "--output predictions"
    )
    print(f"\nThe report of the search is {run}/report.html")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
