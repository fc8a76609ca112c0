"""From the time of another machine's clock to the host's, and how far off that may be.

Two things are kept apart. The line that converts is fitted by recursive least squares. How far off it may be
is not fitted but bounded: each look at the remote clock says for certain between which two values its offset
lay then, and a clock's rate is within limits, so all looks together leave only so much room.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.sync.recursive_line import RecursiveLine
from edge_mer.types.signals import ClockOffset

HALF_LIFE_NS = 60 * NS_PER_S
"""A look at a remote clock that is so old counts half."""

MAX_DRIFT = 1e-3
"""No clock is faster or slower than its nominal rate by a larger share."""

LIKELY_DRIFT = 1e-4
"""Before anything else is known, a clock's drift is about so much."""

WANDER_PER_S = 2e-8
"""So much a clock's rate may change within a second, as it warms up: a little over 1 ppm a minute."""

WARM_NS = 5_000_000
"""Known better than this, a clock is known well enough."""

WARM_AHEAD_NS = 5 * NS_PER_S
"""So far past the newest look it must be known so well."""

N_WARM = 4
"""Looks without which nothing is known well enough, whatever they say of themselves."""

N_JUMP = 3
"""So many looks in a row that agree with each other, and with nothing before, are a clock that was set."""

RESOLUTION_NS = 20_000
"""No look is better than this."""

_N_BUCKETS = 36
_BUCKETS_PER_HALF_LIFE = 12
_SLOW_FACTOR = 1.5
_MAX_PIECES = 64


@dataclass(frozen=True)
class _Look:
    """The offset, host's time less remote time, lay within `offset_ns` +- `within_ns` at `remote_ns`."""

    remote_ns: int
    offset_ns: int
    within_ns: int


@dataclass(frozen=True)
class _Piece:
    """The conversion of times after `since`, a remote and a host time, until the next piece begins."""

    since: tuple[int, int] | None
    remote_ns: int
    host_ns: int
    slope: float

    def is_for(self, remote_ns: int) -> bool:
        return self.since is None or remote_ns > self.since[0]

    def host_at(self, remote_ns: int) -> int:
        elapsed_ns = remote_ns - self.remote_ns
        host_ns = self.host_ns + elapsed_ns + round(self.slope * elapsed_ns)
        if self.since is None:
            return host_ns
        return max(host_ns, self.since[1]) if self.is_for(remote_ns) else min(host_ns, self.since[1])


class RemoteClock:
    """Converts the times of a remote clock, whose offset and drift it learns from looks at it.

    Within an epoch a later remote time never becomes an earlier one of the host, and a time that was
    converted is converted to the same again, as long as the last `_MAX_PIECES` corrections reach back to it.

    Args:
        half_life_ns: A look that is so old counts half.

    Attributes:
        epoch: Counts the times at which the clock was found to be set.
        n_looks: Looks taken.
        n_refused: Looks that were not used: alone in contradicting the others, or older than one before.
        n_impossible: Times that were not converted, because data would have come before it was captured.
    """

    def __init__(self, half_life_ns: int = HALF_LIFE_NS) -> None:
        self._half_life_ns = half_life_ns
        self.epoch = self.n_looks = self.n_refused = self.n_impossible = 0
        self._newest_asked_ns: int | None = None
        self._forget()

    def push(self, look: ClockOffset) -> None:
        """Take a look; looks come in the order in which they were taken."""
        self.n_looks += 1
        within_ns = max(look.uncertainty_ns, RESOLUTION_NS)
        taken = _Look(look.remote_ns, look.host_ns - look.remote_ns, within_ns)
        if self._contradicts(taken):
            self._doubt(taken)
        else:
            self.n_refused += len(self._doubted)
            self._doubted.clear()
            self._learn(taken)

    def to_host_ns(self, remote_ns: int, arrived_ns: int | None = None) -> int | None:
        """The host's time at `remote_ns`; None until it is known.

        Args:
            remote_ns: What the remote clock showed.
            arrived_ns: When data that it stamped then came here. Where that is before the time found, the
                clock was set and nobody has looked at it since: then None, and it is counted.
        """
        if not self._pieces:
            return None
        host_ns = self._converted(remote_ns)
        if arrived_ns is not None and host_ns > arrived_ns + self._within_ns(remote_ns, host_ns):
            self.n_impossible += 1
            return None
        self._newest_asked_ns = max(remote_ns, self._newest_asked_ns or remote_ns)
        return host_ns

    def uncertainty_ns(self, remote_ns: int) -> int | None:
        """How far from the truth the host's time at `remote_ns` may be; None until anything is known."""
        return self._within_ns(remote_ns, self._converted(remote_ns)) if self._pieces else None

    @property
    def is_warm(self) -> bool:
        """Whether times are converted to within `WARM_NS`, and will be for the next few seconds."""
        if self._n_learnt < N_WARM:
            return False
        ahead_ns = self._looks[-1].remote_ns + WARM_AHEAD_NS
        within_ns = self.uncertainty_ns(max(ahead_ns, self._newest_asked_ns or ahead_ns))
        return within_ns is not None and within_ns <= WARM_NS

    @property
    def drift(self) -> float:
        """How much faster the host's clock is than the remote one; 1e-6 is one part in a million."""
        return self._pieces[-1].slope if self._pieces else 0.0

    # -- what is known -------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._line = RecursiveLine(self._half_life_ns, LIKELY_DRIFT)
        self._looks: deque[_Look] = deque(maxlen=_N_BUCKETS)
        self._pieces: deque[_Piece] = deque(maxlen=_MAX_PIECES)
        self._doubted: list[_Look] = []
        self._drifts = (-MAX_DRIFT, MAX_DRIFT)
        self._newest_asked_ns = None
        self._n_learnt = 0

    def _contradicts(self, look: _Look) -> bool:
        if not self._looks:
            return False
        low_ns, high_ns = self._offset_bounds(look.remote_ns)
        return look.offset_ns + look.within_ns < low_ns or look.offset_ns - look.within_ns > high_ns

    def _doubt(self, look: _Look) -> None:
        """One look may be a freak; several that agree are a clock that was set."""
        while self._doubted and not all(_agree(look, other) for other in self._doubted):
            self._doubted.pop(0)
            self.n_refused += 1
        self._doubted.append(look)
        if len(self._doubted) < N_JUMP:
            return
        agreeing = self._doubted
        self._forget()
        self.epoch += 1
        for one in agreeing:
            self._learn(one)

    def _learn(self, look: _Look) -> None:
        if self._looks and look.remote_ns <= self._looks[-1].remote_ns:
            self.n_refused += 1
            return
        self._n_learnt += 1
        self._remember(look)
        self._drifts = self._drift_bounds()
        fastest_ns = min(one.within_ns for one in self._looks)
        if look.within_ns <= _SLOW_FACTOR * fastest_ns or not self._pieces:
            self._line.push(look.remote_ns, look.offset_ns, look.within_ns)
            self._turn(look.remote_ns)

    def _remember(self, look: _Look) -> None:
        """Of each stretch of time the look with the shortest way there and back is kept."""
        bucket_ns = self._half_life_ns // _BUCKETS_PER_HALF_LIFE
        if self._looks and self._looks[-1].remote_ns // bucket_ns == look.remote_ns // bucket_ns:
            if look.within_ns <= self._looks[-1].within_ns:
                self._looks[-1] = look
        else:
            self._looks.append(look)

    def _turn(self, remote_ns: int) -> None:
        """From what was asked last on, convert by the line as it is now; no time is converted anew."""
        low_ns, high_ns = self._offset_bounds(remote_ns)
        offset_ns = min(max(self._line.at(remote_ns), low_ns), high_ns)
        slope = min(max(self._line.slope, self._drifts[0]), self._drifts[1])
        since, asked_ns = None, self._newest_asked_ns
        if asked_ns is None:
            self._pieces.clear()
        else:
            since = asked_ns, self._converted(asked_ns)
            if self._pieces[-1].since == since:
                self._pieces.pop()
        self._pieces.append(_Piece(since, remote_ns, remote_ns + offset_ns, slope))

    # -- what follows from it ------------------------------------------------------------------------

    def _converted(self, remote_ns: int) -> int:
        """By the piece that was the newest one when this time came up."""
        pieces = reversed(self._pieces)
        return next((one for one in pieces if one.is_for(remote_ns)), self._pieces[0]).host_at(remote_ns)

    def _within_ns(self, remote_ns: int, host_ns: int) -> int:
        low_ns, high_ns = self._offset_bounds(remote_ns)
        offset_ns = host_ns - remote_ns
        return max(offset_ns - low_ns, high_ns - offset_ns)

    def _offset_bounds(self, remote_ns: int) -> tuple[int, int]:
        """Between which values the offset lies at `remote_ns`, by every look that is kept."""
        oldest_ns = min(self._looks[0].remote_ns, remote_ns)
        wander = WANDER_PER_S * (max(self._looks[-1].remote_ns, remote_ns) - oldest_ns) / NS_PER_S
        slowest = max(self._drifts[0] - wander, -MAX_DRIFT)
        fastest = min(self._drifts[1] + wander, MAX_DRIFT)
        bounds = [_bounds(look, remote_ns - look.remote_ns, slowest, fastest) for look in self._looks]
        low_ns, high_ns = max(low for low, _ in bounds), min(high for _, high in bounds)
        return min(low_ns, high_ns), max(low_ns, high_ns)

    def _drift_bounds(self) -> tuple[float, float]:
        """Between which values the drift lies, by every two looks that are kept."""
        if len(self._looks) < 2:
            return -MAX_DRIFT, MAX_DRIFT
        last = self._looks[-1]
        x = _floats([look.remote_ns - last.remote_ns for look in self._looks])
        y = _floats([look.offset_ns - last.offset_ns for look in self._looks])
        within = _floats([look.within_ns for look in self._looks])
        first, second = np.triu_indices(len(x), 1)
        apart = np.maximum(x[second] - x[first], 1.0)
        slope, room = (y[second] - y[first]) / apart, (within[second] + within[first]) / apart
        low, high = float((slope - room).max()), float((slope + room).min())
        low, high = (max(-MAX_DRIFT, min(bound, MAX_DRIFT)) for bound in (min(low, high), max(low, high)))
        return low, high


def _floats(numbers: list[int]) -> NDArray[np.float64]:
    return np.array(numbers, np.float64)


def _bounds(look: _Look, since_ns: int, slowest: float, fastest: float) -> tuple[int, int]:
    """Between which values the offset lies so long after a look, or before it."""
    least, most = (slowest, fastest) if since_ns >= 0 else (fastest, slowest)
    low_ns = look.offset_ns - look.within_ns + round(least * since_ns)
    return low_ns, look.offset_ns + look.within_ns + round(most * since_ns)


def _agree(one: _Look, other: _Look) -> bool:
    """Whether one clock can have shown both."""
    drifted_ns = MAX_DRIFT * abs(one.remote_ns - other.remote_ns)
    return abs(one.offset_ns - other.offset_ns) <= one.within_ns + other.within_ns + drifted_ns
