"""Every error a user can cause, as one tree.

    T5RayError
      ConfigError       a setting is wrong; holds every problem found      exit 2
      DataError         a row, column or file is unusable                  exit 3
      ModelError        model or bundle missing or incompatible            exit 4
      TrackingError     MLflow unreachable or refusing                     exit 5
      ClusterError      Ray or resources                                   exit 6
        StorageError    a storage URI stayed away, or refused              exit 6

A message is one paragraph: what must hold, what was found, where, and how to mend it. No message holds a password: most
name an address, and an address may hold one.
"""

import difflib
from collections.abc import Iterable, Sequence

from t5ray.redaction import hide_secrets


class T5RayError(Exception):
    """Base of all errors that end a command without a traceback."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(hide_secrets(message))


class ConfigError(T5RayError):
    """A setting is wrong. `problems` holds every one that was found, so that one run shows them all."""

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        found = [problems] if isinstance(problems, str) else problems
        self.problems = [hide_secrets(problem) for problem in found]
        super().__init__("\n".join(self.problems))


class DataError(T5RayError):
    """A row, column or file cannot be used."""

    exit_code = 3


class ModelError(T5RayError):
    """A model or bundle is missing, broken or of the wrong kind."""

    exit_code = 4


class TrackingError(T5RayError):
    """The MLflow server or store cannot be reached, or refuses."""

    exit_code = 5


class ClusterError(T5RayError):
    """Ray cannot be joined or started, or lacks the resources that were asked for."""

    exit_code = 6


class StorageError(ClusterError):
    """The storage stayed away, or refuses: no fault of the run, which can go on when it no longer does."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant; None where none is near."""
    return next(iter(difflib.get_close_matches(name, sorted(set(known)), n=1, cutoff=0.6)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the nearest known name, or lists all where none is near.

    Example:
        did_you_mean("learning_rat", ["learning_rate", "dropout"]) -> "Did you mean `learning_rate`?"
    """
    names = sorted(set(known))
    near = nearest(name, names)
    if near is not None:
        return f"Did you mean `{near}`?"
    return f"Known names: {', '.join(names)}." if names else ""


def one_line(exc: BaseException) -> str:
    """Return an exception's message on one line, or its kind where it has none."""
    return " ".join(str(exc).split()) or type(exc).__name__
