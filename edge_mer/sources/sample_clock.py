"""When the samples of a steady device were captured, told from when they came."""

from __future__ import annotations

from collections import deque

from edge_mer.clock import NS_PER_S

MAX_DRIFT = 1e-3
"""A device's rate may be off by this share of it."""

LOST_NS = 50_000_000
"""Samples that all come later than this were not late: some before them are missing."""

_N_JUDGED = 10


class SampleClock:
    """Times of a device that delivers samples at a fixed rate, in pieces that come now sooner, now later.

    Nothing comes before it was captured, so the piece that came soonest says when the samples count from.
    That estimate yields, slowly, to a device that runs slower than its rate says. Where so many pieces in a
    row are late that samples must be missing, or the device says that they are, it begins anew.

    Args:
        rate_hz: Nominal samples per second.
    """

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._next_ns: float | None = None
        self._last_arrived_ns = 0
        self._late_ns: deque[float] = deque(maxlen=_N_JUDGED)

    def stamp(self, n_samples: int, arrived_ns: int, *, is_after_loss: bool = False) -> int:
        """When the first sample of a piece was captured.

        Args:
            n_samples: In the piece.
            arrived_ns: When it came, whole.
            is_after_loss: Whether samples are missing before it.
        """
        duration_ns = n_samples * NS_PER_S / self._rate_hz
        newest_ns = arrived_ns - duration_ns
        if self._next_ns is None or is_after_loss:
            self._begin(newest_ns)
        else:
            self._follow(newest_ns, arrived_ns - self._last_arrived_ns)
        self._last_arrived_ns = arrived_ns
        first_ns = newest_ns if self._next_ns is None else self._next_ns
        self._next_ns = first_ns + duration_ns
        return round(first_ns)

    def _begin(self, first_ns: float) -> None:
        self._next_ns = first_ns
        self._late_ns.clear()

    def _follow(self, newest_ns: float, since_last_ns: int) -> None:
        expected_ns = newest_ns if self._next_ns is None else self._next_ns
        late_ns = newest_ns - expected_ns
        self._late_ns.append(late_ns)
        if len(self._late_ns) == _N_JUDGED and min(self._late_ns) > LOST_NS:
            self._begin(newest_ns)
        else:
            self._next_ns = expected_ns + min(late_ns, MAX_DRIFT * since_last_ns)
