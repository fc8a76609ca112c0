"""Memory that the process keeps although nobody holds it."""

from __future__ import annotations

import ctypes


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
