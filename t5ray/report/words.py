"""Numbers, settings and seconds as a reader wants them."""

import math

MISSING = "–"


def number(value: float | None) -> str:
    """Return a metric: four decimals below 10, two above.

    Example:
        number(0.85) -> "0.8500"; number(27.3112) -> "27.31"; number(None) -> "–"
    """
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def signed(value: float) -> str:
    """Return a difference with its sign: `+0.0300`, `−0.0300`."""
    return ("+" if value >= 0 else "−") + number(abs(value))


def judged(metric: str) -> str:
    """Return what trials are compared by: `validation accuracy`; the loss brings the word along."""
    return "validation loss" if metric == "validation_loss" else f"validation {metric}"


def few_seeds(count: int) -> str:
    """Return what so few seeds say of chance, as a sentence; nothing where they are three or more."""
    if count == 1:
        return "One seed says nothing of how much seeds differ: the intervals are of the rows alone."
    if count == 2:
        return "Two seeds say little of how much seeds differ: the intervals are widened for that, and rough still."
    return ""


def one_for_all(prediction: str, rows: str) -> str:
    """Return what a model is worth that tells nothing apart, as a sentence.

    Example:
        one_for_all("mail", "400 validation rows") -> "Every one of the 400 validation rows was given 'mail': …"
    """
    return f"Every one of the {rows} was given {prediction!r}: the metrics tell of that label's share alone."


def setting(value: object) -> str:
    """Return a parameter's value as YAML has it: `null`, `true`; floats with four significant digits."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def seconds(value: float | None) -> str:
    """Return a duration: `8.4 s`, `3 min 05 s`, `2 h 07 min`."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest_s = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def share(value: float) -> str:
    """Return a share as a percentage: `37 %`."""
    return f"{100 * value:.0f} %"
