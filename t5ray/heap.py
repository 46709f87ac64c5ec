"""How processes that train take memory from the system: once; and those that score: in few heaps.

An optimizer step takes and frees gigabytes of tensors. glibc maps blocks of more than 32 MiB anew each time. What
threads beside the first take, and Ray's workers train in such threads, lies in heaps of at most 64 MiB, which go back
to the system when they are empty. Then the next step faults in every page again, tens of thousands of them. So what
trains keeps what it has freed until the end of the run, and all its threads share one heap. Without glibc nothing
changes; nor does it on a Ray that was joined, whose workers have the environment that it was started with.

A scorer reads and writes in threads beside the one that computes. glibc gives each thread a heap of its own, up to
eight a core, and each keeps a little of what was freed: over 500,000 rows a worker grew by 9 %, with two heaps by 3 %.

Source: mallopt(3), malloc_trim(3); the GNU C Library's manual, "Memory Allocation Tunables".
"""

import ctypes
import os
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
VARIABLE = "GLIBC_TUNABLES"
TUNABLES = {"arena_max": 1, "mmap_max": 0, "trim_threshold": 2**60}


def environment() -> dict[str, str]:
    """Return the variable that has a process keep what it frees, from its start."""
    return {VARIABLE: ":".join(f"glibc.malloc.{name}={value}" for name, value in TUNABLES.items())}


def sharing_environment() -> dict[str, str]:
    """Return the variable that has the threads of a process share two heaps, from its start."""
    return {"MALLOC_ARENA_MAX": "2"}


def keep_freed_memory() -> None:
    """Let this process do so, unless its user has tuned it; to be called before it has another thread."""
    if VARIABLE in os.environ:
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)):
            mallopt(parameter, value)


def give_back() -> None:
    """Give the system all free pages of this process, whatever it was told to keep."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
