"""How many threads the processor's engines have in this process."""

from __future__ import annotations

import os

_limit: list[int] = []


def available_threads() -> int:
    """Processors that this process may use."""
    return limited(len(os.sched_getaffinity(0)))


def limit_threads(n: int) -> None:
    """From now on every engine has so many at most: one of several workers leaves the others theirs."""
    _limit[:] = [n]


def limited(threads: int) -> int:
    """So many threads, as far as this process may have them."""
    return min([threads, *_limit])
