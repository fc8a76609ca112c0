"""When the samples of a steady device were captured, told from when they came."""

from __future__ import annotations

from edge_mer.clock import NS_PER_S

MAX_DRIFT = 1e-3
"""A device's rate may be off by this share of it."""

LOST_NS = 50_000_000
"""Samples that stay later than this are not late: some before them are missing."""

JUDGED_NS = 250_000_000
"""So long they must stay so and not catch up, as samples do that only waited somewhere."""

_CATCHING_UP_NS = 5_000_000


class SampleClock:
    """Times of a device that delivers samples at a fixed rate, in pieces that come now sooner, now later.

    Nothing comes before it was captured, so the piece that came soonest says when the samples count from.
    That estimate yields, slowly, to a device that runs slower than its rate says. Where pieces stay late, so
    that samples must be missing, or the device says that they are, it begins anew.

    Args:
        rate_hz: Nominal samples per second.
    """

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._next_ns: float | None = None
        self._last_arrived_ns = 0
        self._late_since_ns: int | None = None
        self._least_late_ns = 0.0

    def stamp(self, n_samples: int, arrived_ns: int, *, is_after_loss: bool = False) -> int:
        """When the first sample of a piece was captured.

        Args:
            n_samples: In the piece.
            arrived_ns: When it came, whole.
            is_after_loss: Whether samples are missing before it.
        """
        duration_ns = n_samples * NS_PER_S / self._rate_hz
        first_ns = newest_ns = arrived_ns - duration_ns
        if self._next_ns is None or is_after_loss:
            self._late_since_ns = None
        else:
            late_ns = newest_ns - self._next_ns
            drift_ns = MAX_DRIFT * (arrived_ns - self._last_arrived_ns)
            first_ns = self._next_ns + (self._lost(late_ns, arrived_ns) or min(late_ns, drift_ns))
        self._last_arrived_ns = arrived_ns
        self._next_ns = first_ns + duration_ns
        return round(first_ns)

    def _lost(self, late_ns: float, arrived_ns: int) -> float:
        """How much time the missing samples took; 0 where none are missing, or that is not known yet."""
        if late_ns <= LOST_NS:
            self._late_since_ns = None
            return 0.0
        if self._late_since_ns is None or late_ns < self._least_late_ns - _CATCHING_UP_NS:
            self._late_since_ns, self._least_late_ns = arrived_ns, late_ns
        if arrived_ns - self._late_since_ns < JUDGED_NS:
            return 0.0
        self._late_since_ns = None
        return self._least_late_ns
