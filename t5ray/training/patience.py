"""A storage URI that is away for a moment: what a run needs of it is tried again before the run is cut off.

For what is done while a run trains. What the command itself does before and after is not: there its user can look.
"""

import errno
import logging
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import ParamSpec, TypeVar

from t5ray.counting import counted
from t5ray.disk import FULL
from t5ray.errors import ClusterError, StorageError

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Between one attempt and the next."""
LOOK_S = 0.2
"""How often a pause looks whether its process is about to end, which waits for its threads."""
LOCAL = (*FULL, errno.EROFS)
"""Causes that lie here, and that waiting does not mend."""
P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)


def patiently(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that needs the storage, again and again for about a minute.

    Raises:
        StorageError: it failed each time, or the process is about to end; or at once, where this machine's own disk
            refuses, which waiting does not mend.
        ClusterError: a file is not there.
    """
    pauses = iter(PAUSES_S)
    for attempt in count(1):
        try:
            return function(*args, **kwargs)
        except ClusterError as exc:
            code = exc.__cause__.errno if isinstance(exc.__cause__, OSError) else None
            if code == errno.ENOENT:
                raise
            pause = None if code in LOCAL else next(pauses, None)
            if pause is None or not _paused(pause, str(exc)):
                tried = f"It was tried {counted(attempt, 'time')}."
                kept = "What was saved is kept: mend the cause, then give the same command with --resume."
                raise StorageError(f"{exc} {tried} {kept}") from exc
    raise AssertionError  # `count` has no end


def _paused(pause_s: float, why: str) -> bool:
    """Wait, and say whether to try again: not when the process ends, which would wait for this thread."""
    log.warning("%s Trying again in %.0f s.", why, pause_s)
    until = time.monotonic() + pause_s
    while threading.main_thread().is_alive() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, LOOK_S))
    return threading.main_thread().is_alive()
