"""One monotonic clock for the whole host, in integer nanoseconds.

Nothing in `edge_mer` asks the operating system for the time except through a `Clock`, so that
tests decide what time it is.
"""

from __future__ import annotations

import ctypes
import time
from datetime import datetime, timezone
from typing import Protocol

NS_PER_S = 1_000_000_000

_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


class Clock(Protocol):
    """Where the time comes from."""

    def now_ns(self) -> int:
        """Monotonic time in nanoseconds; its zero has no meaning."""
        ...

    def utc(self) -> datetime:
        """Wall time, timezone-aware UTC; only for labels in records."""
        ...

    def is_utc_synchronised(self) -> bool:
        """Whether the wall clock follows a reference."""
        ...

    def sleep_until_ns(self, t_ns: int) -> None:
        """Return when `now_ns()` has reached `t_ns`."""
        ...


class MonotonicClock:
    """The host's monotonic clock."""

    def now_ns(self) -> int:
        """Monotonic time in nanoseconds."""
        return time.monotonic_ns()

    def utc(self) -> datetime:
        """Wall time, timezone-aware UTC."""
        return datetime.now(timezone.utc)

    def is_utc_synchronised(self) -> bool:
        """What the kernel says of its wall clock; False where it cannot be asked."""
        try:
            adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
        except (OSError, AttributeError):
            return False
        # An all-zero `struct timex` only asks; it is smaller than this buffer on every Linux.
        state = int(adjtimex(ctypes.create_string_buffer(1024)))
        return 0 <= state < _TIME_ERROR

    def sleep_until_ns(self, t_ns: int) -> None:
        """Sleep until `t_ns`; returns at once when it has passed."""
        remaining_ns = t_ns - self.now_ns()
        if remaining_ns > 0:
            time.sleep(remaining_ns / NS_PER_S)


class ManualClock:
    """A clock that moves only when told to: for tests and for replays without waiting.

    Args:
        start_ns: The first value of `now_ns()`.
        utc: The wall time at `start_ns`.
    """

    def __init__(self, start_ns: int = 0, utc: datetime | None = None) -> None:
        self._now_ns = start_ns
        self._utc = utc or datetime(2026, 1, 1, tzinfo=timezone.utc)

    def now_ns(self) -> int:
        """The time last set, in nanoseconds."""
        return self._now_ns

    def utc(self) -> datetime:
        """The wall time given at the start; it does not move."""
        return self._utc

    def is_utc_synchronised(self) -> bool:
        """True: a test's time is right by definition."""
        return True

    def sleep_until_ns(self, t_ns: int) -> None:
        """Jump to `t_ns` at once; never backwards."""
        self._now_ns = max(self._now_ns, t_ns)

    def advance_ns(self, delta_ns: int) -> None:
        """Move forward by `delta_ns` >= 0."""
        if delta_ns < 0:
            raise ValueError(f"a monotonic clock cannot go back by {-delta_ns} ns")
        self._now_ns += delta_ns
