"""What Tune's callbacks get: trials and their results."""

from types import SimpleNamespace
from typing import Any


def tune_trial(number: int, seed: int | None = None, params: dict[str, Any] | None = None) -> Any:
    """A stand-in for Tune's trial."""
    config = {"trial": number, "params": params or {}, **({} if seed is None else {"seed": seed})}
    died = SimpleNamespace(num_failures=0)
    return SimpleNamespace(config=config, last_result={}, pickled_error_file=None, run_metadata=died)


def epoch(number: int, value: float, *, final: bool = False, **times: float) -> dict[str, Any]:
    """A report whose epoch is the best so far."""
    numbers = dict.fromkeys(
        (
            "train_loss",
            "validation_loss",
            "hit_cap",
            "tokens_per_s",
            "padding_share",
            "train_s",
            "validate_s",
            "save_s",
        ),
        0.0,
    )
    return {
        **numbers,
        "epoch": number,
        "step": number,
        "value": value,
        "metrics": {"accuracy": value},
        "best_epoch": number,
        "best_value": value,
        "best_step": number,
        "final": final,
        "early_stopped": False,
        "evaluations": [],
        "history": [],
        **times,
    }
