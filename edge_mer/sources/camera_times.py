"""When frames were captured, told by when they came, and by the sender's own times where it gives any."""

from __future__ import annotations

from collections import deque
from statistics import median

from edge_mer.clock import NS_PER_S

MAX_LAG_NS = NS_PER_S // 2
"""Frames that come so much later than usual have waited somewhere, and are not delivered as new."""

WINDOW_NS = 5 * NS_PER_S
"""Of this time the frame that was on its way for the shortest is what others are held against."""

MAX_SETTLING_NS = 10 * NS_PER_S
"""After so long, frames at whatever pace are the stream's new normal."""

_N_STEPS = 16
_MAX_ARRIVALS = 4096
_BUCKET_NS = NS_PER_S // 4


class FrameTimes:
    """Places the frames of one stream on the host's clock, and finds those that are old.

    A network delays some frames more than others, never less than not at all. So where the sender stamps
    frames, they are placed apart by its stamps, and as late as the quickest of the last `WINDOW_NS`
    allows: never later than they came. Where it does not, a frame is placed when it came.

    After a hiccup of sender, network or host, frames that waited come faster than they were captured.
    These are old, and so is the first one, of which nobody can tell; they are refused and counted until
    frames come at their own pace again. If by then the sender's stamps have jumped, they are held against
    what comes from now on.

    Attributes:
        n_stale: Frames refused as old.
    """

    def __init__(self) -> None:
        self.n_stale = 0
        self._arrived_ns: int | None = None
        self._stamp_ns: int | None = None
        self._placed_ns: int | None = None
        self._steps_ns: deque[int] = deque(maxlen=_N_STEPS)
        self._offsets: deque[tuple[int, int]] = deque()  # (bucket of time, least offset in it)
        self._settling_since_ns: int | None = None

    def place(self, arrived_ns: int, stamp_ns: int | None = None) -> int | None:
        """Capture time of the next frame, at most `arrived_ns`; None for one that is old.

        Args:
            arrived_ns: When it came, by the host's clock.
            stamp_ns: When it was captured by the sender's clock, whose zero and rate may be others.
        """
        gap_ns = None
        if self._arrived_ns is not None:
            arrived_ns = max(arrived_ns, self._arrived_ns)  # frames that a decoder put in another order
            gap_ns = arrived_ns - self._arrived_ns
        step_ns = self._step_ns(stamp_ns)
        self._arrived_ns, self._stamp_ns = arrived_ns, stamp_ns
        if self._is_old(arrived_ns, stamp_ns, gap_ns, step_ns):
            self.n_stale += 1
            return None
        was_settling = self._settling_since_ns is not None
        if was_settling:
            self._settle(arrived_ns, stamp_ns)
        if gap_ns is not None and not (was_settling and self._steps_ns):
            self._steps_ns.append(gap_ns)
        t_ns = self._on_host_clock(arrived_ns, stamp_ns)
        if self._placed_ns is not None and t_ns <= self._placed_ns:
            t_ns = self._placed_ns + 1
        if t_ns > arrived_ns:  # it came together with the one before
            self.n_stale += 1
            return None
        self._placed_ns = t_ns
        return t_ns

    def _step_ns(self, stamp_ns: int | None) -> int | None:
        """How far apart this frame and the one before were captured, as far as one can tell."""
        if stamp_ns is not None and self._stamp_ns is not None and stamp_ns > self._stamp_ns:
            return stamp_ns - self._stamp_ns
        return round(median(self._steps_ns)) if self._steps_ns else None

    def _is_old(self, arrived_ns: int, stamp_ns: int | None, gap_ns: int | None, step_ns: int | None) -> bool:
        longest_ns = max(MAX_LAG_NS, 3 * (step_ns or 0))
        if gap_ns is None:
            is_late = True
        elif stamp_ns is None:
            is_late = gap_ns > longest_ns
        else:
            is_late = self._lag_ns(arrived_ns, stamp_ns) > MAX_LAG_NS
        if self._settling_since_ns is None:
            if is_late:
                self._settling_since_ns = arrived_ns
            return is_late
        if arrived_ns - self._settling_since_ns > MAX_SETTLING_NS:
            return False
        if stamp_ns is not None and not is_late and self._offsets:
            return False  # caught up
        is_own_pace = step_ns is None or gap_ns is None or step_ns / 2 <= gap_ns <= longest_ns
        return not is_own_pace

    def _settle(self, arrived_ns: int, stamp_ns: int | None) -> None:
        """Frames are new again: either what they are held against still holds, or they begin anew."""
        kept = self._lag_ns(arrived_ns, stamp_ns) <= MAX_LAG_NS and bool(self._offsets)
        least = [(arrived_ns // _BUCKET_NS, min(offset for _, offset in self._offsets))] if kept else []
        self._offsets = deque(least)
        self._settling_since_ns = None

    def _lag_ns(self, arrived_ns: int, stamp_ns: int | None) -> int:
        """How much longer than the quickest one this frame was on its way."""
        if stamp_ns is None or not self._offsets:
            return 0
        return arrived_ns - stamp_ns - min(offset for _, offset in self._offsets)

    def _on_host_clock(self, arrived_ns: int, stamp_ns: int | None) -> int:
        if stamp_ns is None:
            return arrived_ns
        self._remember(arrived_ns, arrived_ns - stamp_ns)
        return stamp_ns + min(offset for _, offset in self._offsets)

    def _remember(self, arrived_ns: int, offset_ns: int) -> None:
        bucket = arrived_ns // _BUCKET_NS
        while self._offsets and self._offsets[0][0] <= bucket - WINDOW_NS // _BUCKET_NS:
            self._offsets.popleft()
        if self._offsets and self._offsets[-1][0] == bucket:
            offset_ns = min(offset_ns, self._offsets.pop()[1])
        self._offsets.append((bucket, offset_ns))


class Arrivals:
    """Which byte of a stream came when; only the latest are remembered."""

    def __init__(self) -> None:
        self._n_bytes = 0
        self._last_ns = 0
        self._ends: deque[tuple[int, int]] = deque(maxlen=_MAX_ARRIVALS)  # (bytes by then, time)

    def took(self, n_bytes: int, now_ns: int) -> None:
        """Remember that so many more bytes came now."""
        self._n_bytes += n_bytes
        self._last_ns = now_ns
        self._ends.append((self._n_bytes, now_ns))

    def of(self, position: int | None) -> int:
        """When the byte at a position came; that of the last one where there is no position.

        Positions are asked for in their order.
        """
        if position is None or position < 0:
            return self._last_ns
        while self._ends and self._ends[0][0] <= position:
            self._ends.popleft()
        return self._ends[0][1] if self._ends else self._last_ns
