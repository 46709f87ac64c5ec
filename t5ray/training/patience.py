"""A storage URI that is away for a moment: what a run needs of it is tried again before the run is cut off."""

import logging
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from t5ray.errors import ClusterError, StorageError

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Between one attempt and the next."""
P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)


def patiently(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that needs the storage, again and again for about a minute.

    Raises:
        StorageError: it failed each time.
    """
    for pause in PAUSES_S:
        try:
            return function(*args, **kwargs)
        except ClusterError as exc:
            log.warning("%s Trying again in %.0f s.", exc, pause)
            time.sleep(pause)
    try:
        return function(*args, **kwargs)
    except ClusterError as exc:
        raise StorageError(
            f"{exc} It was tried {len(PAUSES_S) + 1} times. What was saved is kept: mend the cause, then give the same "
            "command with --resume."
        ) from exc
