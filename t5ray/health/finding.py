"""What one check found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    passed: bool
    text: str
    mend: str = ""
    exit_code: int = 0
    """Of the command, where this is the first check that failed."""
