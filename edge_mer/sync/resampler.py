"""Puts samples whose rate is nearly right onto the exact grid of the nominal rate.

As long as they lie on it already, they pass through untouched, bit by bit.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S

Samples = NDArray[np.float32]
Floats = NDArray[np.float64]

ENGAGE_NS = 1_000_000
"""Samples that lie nearer to the grid than this pass through untouched."""

MAX_CHANGE = 2e-3
"""The ratio of rates is never farther from 1: a thirtieth of a semitone."""

CATCH_UP_S = 2
"""A distance from the grid is made up for within about this time."""

FAST_HZ = 200
"""From this rate on, signals may reach up to half their rate, as sound and muscles do: a windowed sinc, which
waits for 16 samples. Below, a cubic, which waits for two."""

SLOW_HZ = 20
"""Below this rate even two samples are long to wait for: a straight line between neighbours."""

_HALF_TAPS = 16
_N_PHASES = 512
_KAISER_BETA = 9.0


class GridResampler:
    """Streams samples of a nearly nominal rate onto the multiples of one nominal period.

    A sample of the grid is NaN where one of its two neighbours in time is. Nothing is made up before the
    first sample or after the last one.

    Args:
        rate_hz: The nominal rate.

    Attributes:
        slipped: By how many samples the stream was stretched and shrunk, altogether.
    """

    def __init__(self, rate_hz: float) -> None:
        self._rate = Fraction(rate_hz)
        self._weights = _sinc if rate_hz >= FAST_HZ else _cubic if rate_hz >= SLOW_HZ else _linear
        self._half = self._weights(np.zeros(1)).shape[1] // 2
        self._held: Samples = np.zeros((0, 1), np.float32)
        self._at = 0.0  # where in what is held the next sample of the grid lies
        self._index = 0  # the number of that sample on the grid
        self._is_exact = True
        self.slipped = 0.0

    def start(self, t_ns: int) -> None:
        """What is pushed next was captured from `t_ns` on, and does not continue what came before."""
        self._held = np.zeros((0, 1), np.float32)
        exact = Fraction(t_ns) * self._rate / NS_PER_S
        self._index = round(exact)
        self._is_exact = abs(t_ns - self.next_ns) <= ENGAGE_NS
        if not self._is_exact:
            self._index = -(-exact.numerator // exact.denominator)
        self._at = 0.0 if self._is_exact else float(self._index - exact)

    @property
    def next_ns(self) -> int:
        """The time of the next sample on the grid."""
        return int(self._index * NS_PER_S / self._rate)

    def stray_ns(self, first_ns: int) -> int:
        """How far from the grid samples lie that begin at `first_ns` and continue those before."""
        return round(self._error(first_ns, len(self._held), 0.0) * NS_PER_S / float(self._rate))

    def push(self, data: Samples, first_ns: int, deviation: float) -> Samples:
        """The samples on the grid that `data` completes.

        Args:
            data: (n, channels) float32.
            first_ns: When the first of them was captured.
            deviation: How much longer than nominally one of them takes.
        """
        n_before = len(self._held)
        error = self._error(first_ns, n_before, deviation)
        self._held = np.concatenate([self._held, data]) if n_before else np.asarray(data, np.float32)
        if self._is_exact and abs(error) * NS_PER_S <= ENGAGE_NS * self._rate:
            self._at, self._index = float(len(self._held)), self._index + len(data)
            self._trim()
            return data
        self._is_exact = False
        n_ahead = max(CATCH_UP_S * float(self._rate), len(data))
        change = -deviation / (1 + deviation) - error / n_ahead
        step = 1 + min(max(change, -MAX_CHANGE), MAX_CHANGE)
        found = self._resampled(step, len(self._held) - 1 - self._half)
        self._trim()
        return found

    def finish(self) -> Samples:
        """The samples up to the last one pushed; a new `start` must follow."""
        found = self._resampled(1.0, len(self._held) - 1)
        self._held = self._held[:0]
        return found

    def _error(self, first_ns: int, n_before: int, deviation: float) -> float:
        """How many samples too late the next one would be taken."""
        late_ns = first_ns - self.next_ns
        return late_ns * float(self._rate) / NS_PER_S + (self._at - n_before) * (1 + deviation)

    def _resampled(self, step: float, last: int) -> Samples:
        """At every `step` from where we are, as far as `last`."""
        n = max(0, int((last - self._at) // step) + 1) if last >= self._at else 0
        at: Floats = self._at + step * np.arange(n, dtype=np.float64)
        self._at += step * n
        self._index += n
        self.slipped += abs(step - 1) * n
        return self._interpolated(at)

    def _interpolated(self, at: Floats) -> Samples:
        """(n,) places in what is held -> (n, channels)."""
        whole = np.floor(at).astype(np.int64)
        weights = self._weights(at - whole)
        taps = whole[:, np.newaxis] + np.arange(1 - self._half, self._half + 1)
        near = self._held[np.clip(taps, 0, max(0, len(self._held) - 1))]
        if np.isnan(near).any():
            near = _without_nan(near, near[:, self._half - 1 : self._half + 1])
        return np.asarray(np.einsum("nk,nkc->nc", weights, near), np.float32)

    def _trim(self) -> None:
        """Forget what no later sample needs."""
        n_done = min(len(self._held), max(0, int(self._at) - self._half))
        self._held = self._held[n_done:]
        self._at -= n_done


def _without_nan(near: Samples, beside: Samples) -> Samples:
    """NaN stays where one of the two samples `beside` a place is; farther away the nearer one stands in."""
    stand_in = np.where(np.isnan(beside[:, :1]), beside[:, 1:], beside[:, :1])
    mended = np.where(np.isnan(near), stand_in, near)
    return np.where(np.isnan(beside).any(axis=1, keepdims=True), np.float32(np.nan), mended)


def _linear(fraction: Floats) -> Floats:
    """Weights of the samples around (n,) places between two of them; (n, 2)."""
    return np.stack([1 - fraction, fraction], axis=1)


def _cubic(fraction: Floats) -> Floats:
    """Those of the cubic through four samples; (n, 4)."""
    f = fraction
    return np.stack(
        [
            -f * (f - 1) * (f - 2) / 6,
            (f + 1) * (f - 1) * (f - 2) / 2,
            -(f + 1) * f * (f - 2) / 2,
            (f + 1) * f * (f - 1) / 6,
        ],
        axis=1,
    )


def _sinc(fraction: Floats) -> Floats:
    """Those of a windowed sinc; (n, 32)."""
    place = fraction * _N_PHASES
    phase = np.minimum(place.astype(np.int64), _N_PHASES - 1)
    table, share = _sinc_table(), (place - phase)[:, np.newaxis]
    return np.asarray(table[phase] * (1 - share) + table[phase + 1] * share)


@lru_cache(maxsize=1)
def _sinc_table() -> Floats:
    """(phases + 1, 32): each row adds up to 1."""
    fraction = np.arange(_N_PHASES + 1)[:, np.newaxis] / _N_PHASES
    distance = np.arange(1 - _HALF_TAPS, _HALF_TAPS + 1) - fraction
    inside = np.clip(1 - (distance / _HALF_TAPS) ** 2, 0, None)
    rows = np.sinc(distance) * np.i0(_KAISER_BETA * np.sqrt(inside))
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))
