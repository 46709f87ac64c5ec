"""One process at a time: advisory locks on files, which a killed process lets go of by itself."""

import errno
import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

LONGEST_WAIT_S = 600.0
"""After which a turn is taken all the same: what it spares is not worth a standstill."""
POLL_S = 0.02
log = logging.getLogger(__name__)
HELD = (errno.EWOULDBLOCK, errno.EACCES)


def lock(file: IO[Any]) -> bool:
    """Lock an open file until it is closed; False where another process has it locked.

    On a file system that knows no locks everybody gets one: to refuse all work there would help nobody.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        return exc.errno not in HELD
    return True


def is_let_go(file: IO[Any]) -> bool:
    """Say whether it is certain that no process has a file locked, open for writing here; it is locked then."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Wait until no other process has a turn at this file, and have one."""
    with path.open("a") as file:
        until = time.monotonic() + LONGEST_WAIT_S
        while not lock(file):
            if time.monotonic() > until:
                log.warning("%s: a turn must come within %g s, but did not: going on without", path, LONGEST_WAIT_S)
                break
            time.sleep(POLL_S)
        yield
