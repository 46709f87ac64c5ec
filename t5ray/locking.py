"""One process at a time: advisory locks on files, which a killed process lets go of by itself."""

import errno
import fcntl
from typing import IO, Any

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
