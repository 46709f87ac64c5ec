"""How many of what, in words."""


def counted(number: float, one: str, many: str = "") -> str:
    """Return a number with what it counts.

    Args:
        many: the plural, where it is not `one` and an s.

    Example:
        counted(1, "epoch") -> "1 epoch"; counted(1200, "row") -> "1,200 rows"; counted(0.5, "GPU") -> "0.5 GPUs"
    """
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {one if number == 1 else many or f'{one}s'}"
