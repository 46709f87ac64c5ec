"""search.json and report.html."""

from pathlib import Path
from typing import Any

from t5ray.config import load_space
from t5ray.model.card import write_json
from t5ray.report import render_search
from t5ray.search.importance import importances
from t5ray.search.ledger import Ledger
from t5ray.search.scheduler import rung_epochs
from t5ray.training.outcome import public, versions
from t5ray.training.prepare import Prepared


def summary(prepared: Prepared, ledger: Ledger, test: dict[str, float] | None) -> dict[str, Any]:
    """Return the content of search.json."""
    config, best, default = prepared.config, ledger.best, ledger.trials.get(0)
    space = load_space(config.search.space)
    return {
        "name": config.name,
        "task": prepared.task.name,
        "model": config.model,
        "data": config.data.path,
        "metric": prepared.objective,
        "mode": prepared.mode,
        "seed": config.search.seed,
        "max_epochs": config.training.max_epochs,
        "wall_s": round(ledger.wall_s, 3),
        "overhead_s": round(sum(record.overhead_s for record in ledger.ended), 3),
        "best": {"trial": best.trial, "value": best.best_value, "epoch": best.best_epoch} if best else None,
        "default": {"value": default.best_value if default else None},
        "confirm": ledger.confirm,
        "test": test,
        "rungs": rung_epochs(space.scheduler, config.training.max_epochs),
        "importances": importances(space, ledger),
        "runs_url": ledger.runs_url,
        "trials": [ledger.trials[number].public() for number in sorted(ledger.trials)],
        "config": public(config).model_dump(mode="json"),
        "versions": versions(),
    }


def write_summary(folder: Path, content: dict[str, Any]) -> None:
    """Write search.json and report.html."""
    write_json(folder / "search.json", content)
    (folder / "report.html").write_text(render_search(content), encoding="utf-8")
