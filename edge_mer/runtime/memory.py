"""Memory that the process keeps although nobody holds it."""

from __future__ import annotations

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES, _POOLED_BYTES = 64 << 20, 32 << 20
_POOLS = 2


def give_back_memory() -> None:
    """Return what the C library keeps of freed memory to the system; nothing where it cannot.

    glibc gives threads pools of their own, and keeps what was freed in the middle of them. A device that was
    opened again is read by a new thread, mostly in another pool: in the end each keeps what a device needs.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # not glibc
        return
    trim(0)


def keep_few_pools() -> None:
    """Have the C library share two pools of memory among all threads from now on; nothing where it cannot.

    A process that lives for months makes many threads, one after the other. With a pool for each of up to
    eight per core, what it holds wanders by tens of megabytes before it settles.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _POOLS)


def keep_freed_memory() -> None:
    """Have the C library keep some of what is freed for what comes next; nothing where it cannot.

    Preprocessing makes arrays of some hundred kilobytes and frees them, dozens of times per step. Returned to
    the system each time, each comes back as pages that are to be filled with zeros first, which took two
    thirds of the time of a crop. The bounds are those to which glibc raises its own by and by, at most.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        for setting, n_bytes in ((_M_TRIM_THRESHOLD, _KEPT_BYTES), (_M_MMAP_THRESHOLD, _POOLED_BYTES)):
            ctypes.CDLL(None).mallopt(setting, n_bytes)
