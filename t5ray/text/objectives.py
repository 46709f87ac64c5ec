"""What a run is judged by, and whether the files and metrics that settings name are there and fit each other.

Comes in: settings, merged but not validated, so that their own problems and these can be shown at once.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from t5ray.config import SearchConfig, TaskConfig, load_space
from t5ray.errors import ConfigError, did_you_mean
from t5ray.text.tasks import resolve_task

T = TypeVar("T")
WATCHED = ("train_loss", "validation_loss", "hit_cap")
"""What early stopping may watch besides the metrics of the task; of these, less is better."""


def choose_objective(asked: str | None, task: TaskConfig) -> tuple[str, Literal["max", "min"]]:
    """Return the objective and whether larger is better.

    Raises:
        ConfigError: the task has no such metric.
    """
    if asked == "validation_loss":
        return asked, "min"
    if asked is not None and asked not in task.metrics:
        known = (*task.metrics, "validation_loss")
        raise ConfigError(
            f"search.metric: must be a metric of task {task.name}, but got {asked!r}. {did_you_mean(asked, known)}"
        )
    return asked or task.metrics[0], "max"


def check_stopping(metric: str | None, task: TaskConfig) -> None:
    """Check that early stopping watches something that is recorded.

    Raises:
        ConfigError: it does not.
    """
    known = (*WATCHED, *task.metrics)
    if metric is not None and metric not in known:
        raise ConfigError(
            f"training.early_stopping_metric: must be a loss, hit_cap or a metric of task {task.name}, but got "
            f"{metric!r}. {did_you_mean(metric, known)}"
        )


def source_problems(given: Mapping[str, Any]) -> list[str]:
    """Say which of data, task and model is not named."""
    data = given.get("data")
    path = data.get("path") if isinstance(data, Mapping) else data
    named = {"--data": path, "--task": given.get("task"), "--model": given.get("model")}
    missing = [flag for flag, value in named.items() if not value]
    if not missing:
        return []
    others = ", ".join(flag for flag in named if flag not in missing) or "none"
    lacking = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing beside {others}"
    return [
        f"--data, --task and --model must be given together, but {lacking}. Without any of the three, the embedded "
        "demo runs."
    ]


def task_problems(given: Mapping[str, Any]) -> list[str]:
    """Say what is wrong with the task that settings name, and with the metrics that they ask of it.

    Args:
        given: merged settings of any command; values of a wrong type are left to their validation.
    """
    problems: list[str] = []
    name = _text(given, "task")
    if name is None:
        return problems
    languages = {side: _text(given, side) for side in ("source_language", "target_language")}
    task = _noted(problems, lambda: resolve_task(name, **languages))
    if task is not None:
        _noted(problems, lambda: choose_objective(_text(given, "search", "metric"), task))
        _noted(problems, lambda: check_stopping(_text(given, "training", "early_stopping_metric"), task))
    return problems


def space_problems(given: Mapping[str, Any]) -> list[str]:
    """Say what is wrong with the search space that settings name."""
    problems: list[str] = []
    name = _text(given, "search", "space") or SearchConfig().space
    _noted(problems, lambda: load_space(name))
    return problems


def _noted(problems: list[str], look: Callable[[], T]) -> T | None:
    """Return what was looked up; None where it is wrong, with the reasons noted."""
    try:
        return look()
    except ConfigError as exc:
        problems += exc.problems
        return None


def _text(given: Mapping[str, Any], *path: str) -> str | None:
    """Return a text among nested settings; None where there is none."""
    found: Any = given
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else None
