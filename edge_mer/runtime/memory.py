"""Memory that the process keeps although nobody holds it."""

from __future__ import annotations

import contextlib
import ctypes

_M_ARENA_MAX = -8
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
