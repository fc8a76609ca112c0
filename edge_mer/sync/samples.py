"""Samples at a fixed rate on one absolute time grid, with honest gaps."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.types.model import Encoder, line_ns

Samples = NDArray[np.float32]

CONTINUITY_TOLERANCE_NS = 20_000_000
"""Timestamps that stray less than this from the sample count are jitter; more is a gap."""


@dataclass(frozen=True)
class Piece:
    """The samples of one step.

    Attributes:
        samples: (n,) float32, of a signal with courses (n, courses); zero where missing, or NaN where the
            piece is yet to be resampled.
        coverage: Share of those of the step's time that is present.
        newest_ns: When the last present one ended; None when there is none.
        is_settling: Some came, but the memory that they are compared with was not full yet.
        first: Where the piece begins, counted in samples from the first one here: what lies before is what
            its own first ones are made with.
    """

    samples: Samples
    coverage: float
    newest_ns: int | None
    is_settling: bool = False
    first: float = 0.0


@dataclass(frozen=True)
class _Span:
    """Samples by index: those of a step's time end before `stop`.

    `start` is the first one that is needed, `begin` the last one that is not after the begin of the step's
    time, which lies `first` samples after `start`.
    """

    start: int
    begin: int
    stop: int
    first: float


class Continuity:
    """Notices when a chunk does not continue the one before it.

    Args:
        rate_hz: Samples per second of the chunks.
    """

    def __init__(self, rate_hz: float) -> None:
        self._to_ns = line_ns(1 / Fraction(rate_hz), Fraction(0))
        self._anchor_ns: int | None = None
        self._n = 0

    def is_gap(self, t_ns: int, n_samples: int) -> bool:
        """Count a chunk; True when it starts elsewhere than the last one ended (or is the first)."""
        expected_ns = None if self._anchor_ns is None else self._anchor_ns + self._to_ns(self._n)
        gap = expected_ns is None or abs(t_ns - expected_ns) > CONTINUITY_TOLERANCE_NS
        if gap:
            self._anchor_ns, self._n = t_ns, 0
        self._n += n_samples
        return gap


class SampleRing:
    """Recent samples by absolute index: sample i was captured at i / rate seconds.

    Everything before `watermark_ns` that will come in order has come. `n_late` counts samples that came after
    a step had taken their time, `n_duplicate` those whose time was filled before.

    Args:
        encoder: Declares span and offset of a step's piece.
        rate_hz: Samples per second of a piece.
        grid: Pieces begin at multiples of so many samples, the nearest ones.
        n_courses: Numbers in a sample; None: a sample is one number.
        stream_hz: Samples per second of what is held, where pieces are yet to be resampled; None: `rate_hz`.
    """

    def __init__(
        self,
        encoder: Encoder,
        rate_hz: int,
        grid: int = 1,
        n_courses: int | None = None,
        stream_hz: float | None = None,
    ) -> None:
        self._encoder = encoder
        self._piece_hz = rate_hz
        self._rate_hz = Fraction(rate_hz if stream_hz is None else stream_hz)
        self._ratio = self._rate_hz / rate_hz
        self._to_ns = line_ns(1 / self._rate_hz, Fraction(0))
        self._missing = 0.0 if stream_hz is None else np.nan
        self._n_samples = int(encoder.span * rate_hz)
        # In samples of a piece: where the first one ends, and so much later each of the next ones.
        self._first_end, self._period = (encoder.period + encoder.offset) * rate_hz, encoder.period * rate_hz
        self._grid = grid
        self._sample_shape = () if n_courses is None else (n_courses,)
        self._segments: deque[tuple[int, Samples]] = deque()  # in the order of their time, none over another
        self._next = 0
        self._filled_to = 0
        self._needed_from = 0
        self._taken_to = 0
        self._spans: dict[int, _Span] = {}
        self.watermark_ns = 0
        self.n_late = 0
        self.n_duplicate = 0

    def anchor(self, t_ns: int) -> None:
        """What is appended next was captured at `t_ns`; it may fill a hole, but no time is filled twice."""
        self._next = self._index(t_ns)

    def append(self, samples: Samples) -> None:
        """Add (n,) or (n, courses) float32 samples behind the last ones; NaN = came, but says nothing yet."""
        n = len(samples)
        if n == 0:
            return
        start, self._next = self._next, self._next + n
        if self._next > self._filled_to:
            self._filled_to = self._next
            self.watermark_ns = self._to_ns(self._next)
        if start < self._taken_to or start < self._needed_from:
            self.n_late += min(n, max(0, self._taken_to - start))
            useful_from = min(self._next, max(self._taken_to, self._needed_from))
            start, samples = useful_from, samples[useful_from - start :]
        if len(samples):
            self._fill(start, samples)

    def _fill(self, start: int, samples: Samples) -> None:
        """Put samples where there are none yet."""
        last = self._segments[-1] if self._segments else None
        if last is None or start >= last[0] + len(last[1]):
            self._segments.append((start, samples))
            return
        fresh: list[tuple[int, Samples]] = []
        at, stop = start, start + len(samples)
        for first, held in (*self._segments, (stop, samples[:0])):
            if min(first, stop) > at:
                fresh.append((at, samples[at - start : min(first, stop) - start]))
            at = max(at, first + len(held))
        self.n_duplicate += len(samples) - sum(len(part) for _, part in fresh)
        self._segments = deque(sorted([*self._segments, *fresh], key=lambda segment: segment[0]))

    def _bounds(self, step: int) -> tuple[int, int]:
        """The samples of a step's piece."""
        end = self._first_end + self._period * (step // self._encoder.repeat)
        if self._grid == 1:
            stop = int(end)
            return stop - self._n_samples, stop
        start = round((end - self._encoder.span * self._piece_hz) / self._grid) * self._grid
        return start, start + self._n_samples

    def _span(self, step: int) -> _Span:
        """Those that are held of a step's time, and before it what its piece's first ones are made with."""
        if step not in self._spans:  # asked again and again, until the next one is
            self._spans = {one: self._spans.get(one) or self._worked_out(one) for one in (step, step + 1)}
        return self._spans[step]

    def _worked_out(self, step: int) -> _Span:
        start, stop = self._bounds(step)
        if self._ratio == 1:
            return _Span(start, start, stop, 0.0)
        at, reach = start * self._ratio, (max(Fraction(1), self._ratio) + 1) / 2
        needed_from = math.floor(at - reach) + 1
        return _Span(needed_from, math.floor(at), math.ceil(stop * self._ratio), float(at - needed_from))

    def is_complete(self, step: int, settled_ns: int | None = None) -> bool:
        """True once samples up to the end of the step's piece are there.

        Args:
            step: The step.
            settled_ns: Holes after this time may still be filled, and are waited for; None: none are.
        """
        span = self._span(step)
        if self._filled_to < span.stop:
            return False
        return settled_ns is None or not self._has_hole(max(span.start, self._index(settled_ns)), span.stop)

    def _has_hole(self, start: int, stop: int) -> bool:
        at = start
        for first, held in self._segments:
            if first > at or at >= stop:
                break
            at = max(at, first + len(held))
        return at < stop

    def _index(self, t_ns: int) -> int:
        return round(Fraction(t_ns * self._rate_hz, NS_PER_S))

    def take(self, step: int) -> Piece:
        """The samples of `step`; what only earlier steps needed is forgotten."""
        span = self._span(step)
        start, begin, stop = span.start, span.begin, span.stop
        samples, n_came = self._between(start, stop)
        finite: NDArray[np.bool_] = np.isfinite(samples)
        there = finite if finite.ndim == 1 else np.asarray(finite.all(axis=1))
        n_there = int(np.count_nonzero(there))
        if n_there < len(samples):
            samples[~there] = self._missing
        lead = begin - start
        n_present, newest = n_there - int(np.count_nonzero(there[:lead])), None
        if n_present:
            newest = stop - (int(there[::-1].argmax()) if n_there < len(samples) else 0)
        needed_from = self._span(step + 1).start
        self._forget_before(needed_from)
        self._taken_to = max(self._taken_to, min(stop, needed_from))
        newest_ns = None if newest is None else self._to_ns(newest)
        coverage = n_present / (stop - begin)
        return Piece(samples, coverage, newest_ns, n_came > n_there, first=span.first)

    def _between(self, start: int, stop: int) -> tuple[Samples, int]:
        """Those from `start` on, before `stop`, NaN where none came; and how many came."""
        samples = np.empty((stop - start, *self._sample_shape), np.float32)
        n_came, at = 0, start
        for first, held in self._segments:
            low, high = max(first, start), min(first + len(held), stop)
            if low < high:
                samples[at - start : low - start] = np.nan
                samples[low - start : high - start] = held[low - first : high - first]
                n_came, at = n_came + high - low, high
        samples[at - start :] = np.nan
        return samples, n_came

    def _forget_before(self, index: int) -> None:
        self._needed_from = max(self._needed_from, index)
        while self._segments and self._segments[0][0] + len(self._segments[0][1]) <= index:
            self._segments.popleft()
