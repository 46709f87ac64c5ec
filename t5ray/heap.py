"""How processes that train take memory from the system: once.

An optimizer step takes and frees gigabytes of tensors. glibc hands what is larger than 32 MiB back to the system each
time, and so what lies in the heaps of a thread other than the first, where Ray's workers train; then the next step
faults in every page of it again, tens of thousands a step. So what trains keeps what it has freed, and all its threads
share one heap. Elsewhere than on Linux with glibc both functions do nothing.

Source: mallopt(3) and the GNU C Library's manual, 41.3 (memory allocation tunables).
"""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
TUNABLES = {"arena_max": 1, "mmap_max": 0, "trim_threshold": 2**60}


def keep_freed_memory() -> None:
    """Let this process keep what it frees. Only threads that begin later share the first one's heap."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)):
            mallopt(parameter, value)


def environment() -> dict[str, str]:
    """Return the environment variable by which a process does so from its start."""
    return {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in TUNABLES.items())}
