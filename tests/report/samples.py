"""A search and an evaluation as their JSON files hold them."""

from typing import Any


def trial(
    number: int, state: str, values: list[float], params: dict[str, Any], reason: str | None = None
) -> dict[str, Any]:
    best = max(range(len(values)), key=values.__getitem__) if values else None
    return {
        "trial": number,
        "state": state,
        "reason": reason,
        "params": params,
        "values": values,
        "best_epoch": None if best is None else best + 1,
        "best_value": None if best is None else values[best],
        "train_s": 12.4 * len(values),
        "overhead_s": 0.8 + 0.1 * number,
        "mlflow_run_id": f"{number:032x}",
    }


def params(learning_rate: float, batch_size: int, dropout: float, optimizer: str) -> dict[str, Any]:
    return {"learning_rate": learning_rate, "batch_size": batch_size, "dropout": dropout, "optimizer": optimizer}


def stopped(epoch: int) -> str:
    return f"stopped after epoch {epoch} of 6: below the others' best"


def search() -> dict[str, Any]:
    """Ten trials: four complete, four stopped, two failed; trial 7 wins."""
    return {
        "name": "topics",
        "task": "classify",
        "model": "google/flan-t5-small",
        "data": "debian_topics.jsonl",
        "metric": "accuracy",
        "mode": "max",
        "seed": 0,
        "max_epochs": 6,
        "wall_s": 431.7,
        "overhead_s": 12.5,
        "best": {"trial": 7, "value": 0.9131, "epoch": 5},
        "default": {"value": 0.8412},
        "test": {"accuracy": 0.9067, "macro_f1": 0.8934, "weighted_f1": 0.9052},
        "trials": [
            trial(0, "COMPLETE", [0.6127, 0.7514, 0.8023, 0.8311, 0.8412, 0.8405], params(3e-4, 32, 0.1, "adamw")),
            trial(1, "PRUNED", [0.2214], params(1.2e-5, 64, 0.21, "adamw"), stopped(1)),
            trial(2, "COMPLETE", [0.7021, 0.8244, 0.8611, 0.8731, 0.8846, 0.8853], params(9.1e-4, 16, 0.07, "adamw")),
            trial(3, "FAIL", [0.6512], params(2.9e-2, 8, 0.02, "adamw"), "the loss became nan in step 61 of epoch 2"),
            trial(4, "PRUNED", [0.4713, 0.5522], params(5.3e-5, 16, 0.18, "adafactor"), stopped(2)),
            trial(
                5, "COMPLETE", [0.6688, 0.8031, 0.8577, 0.8792, 0.8901, 0.8935], params(1.4e-3, 32, 0.12, "adafactor")
            ),
            trial(6, "PRUNED", [0.5377, 0.6419, 0.7104], params(1.1e-4, 32, 0.29, "adamw"), stopped(3)),
            trial(
                7, "COMPLETE", [0.7311, 0.8572, 0.8903, 0.9047, 0.9131, 0.9119], params(2.2e-3, 16, 0.05, "adafactor")
            ),
            trial(8, "FAIL", [], params(6.2e-4, 128, 0.1, "adamw"), "out of memory: 1 row of 512 tokens does not fit"),
            trial(9, "PRUNED", [0.5903, 0.7011], params(4.6e-3, 64, 0.25, "adafactor"), stopped(2)),
        ],
    }


def confirm() -> dict[str, Any]:
    """The best three and the default on three fresh seeds; trial 5 ties with the winner, trial 7."""
    found = [(7, [0.898, 0.91, 0.91], 0.906, [0.89, 0.921]), (5, [0.891, 0.903, 0.903], 0.899, [0.883, 0.914])]
    found += [(2, [0.87, 0.88, 0.884], 0.878, [0.861, 0.894]), (0, [0.83, 0.84, 0.85], 0.84, [0.82, 0.86])]
    return {
        "seeds": [101, 102, 103],
        "rows": 400,
        "candidates": [{"trial": t, "values": v, "mean": m, "interval": i} for t, v, m, i in found],
        "winner": 7,
        "tie_with": [5],
    }


def evaluation() -> dict[str, Any]:
    """The worked example of the design: 41 + 9 and 6 + 44 rows."""
    return {
        "rows": 100,
        "metrics": {"accuracy": 0.85, "macro_f1": 0.8499, "chrf": 71.25},
        "intervals": {"accuracy": [0.78, 0.92], "macro_f1": [0.7765, 0.9189]},
        "per_class": {
            "mail": {"precision": 0.8723, "recall": 0.82, "f1": 0.8454, "support": 50},
            "games": {"precision": 0.8302, "recall": 0.88, "f1": 0.8544, "support": 50},
        },
    }


def confusion() -> dict[str, dict[str, int]]:
    return {"mail": {"mail": 41, "games": 9}, "games": {"mail": 6, "games": 44}}


def examples() -> list[dict[str, Any]]:
    right: list[dict[str, Any]] = [
        {
            "inputs": f"classify: a mail server, number {i}",
            "references": ["mail"],
            "prediction": "mail",
            "correct": True,
        }
        for i in range(5)
    ]
    wrong: list[dict[str, Any]] = [
        {
            "inputs": "classify: sends chess moves by mail",
            "references": ["games"],
            "prediction": "mail",
            "correct": False,
        },
        {"inputs": "classify: ", "references": ["games", "toys"], "prediction": None, "correct": False},
    ]
    return right + wrong
