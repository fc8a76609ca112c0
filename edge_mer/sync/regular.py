"""From the chunks of a sampled stream to runs of samples on the grid of its nominal rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.sync.nominal_rate import RateTracker
from edge_mer.sync.resampler import GridResampler
from edge_mer.sync.samples import Continuity
from edge_mer.types.signals import Chunk

MAX_STRAY_NS = 50_000_000
"""Where resampling falls back by this, a device is too far off its rate: a gap or an overlap mends it."""

MAX_MISSING = 1024
"""So many chunks that were jumped over are waited for."""

Place = Literal["next", "broken", "earlier", "again"]
"""Of a chunk: broken: it is the next one, but some before it are missing; earlier: one of those; again: it
came before."""


@dataclass(frozen=True)
class Run:
    """Samples in a row.

    Attributes:
        t_ns: When the first one was captured; None: they continue those before.
        samples: (n, channels) float32.
    """

    t_ns: int | None
    samples: NDArray[np.float32]


class ChunkOrder:
    """Notices by its number whether a chunk came twice, or after a later one.

    Attributes:
        n_duplicate: Samples that came again.
        n_reordered: Chunks that came after later ones.
        n_skipped: Chunks that were missing before the last one that was "next" or "broken".
    """

    def __init__(self) -> None:
        self._next: int | None = None
        self._newest_ns = 0
        self._missing: dict[int, None] = {}  # in the order of their numbers
        self.n_duplicate = self.n_reordered = self.n_skipped = 0

    def place(self, chunk: Chunk) -> Place:
        """Where it belongs."""
        expected = chunk.seq if self._next is None else self._next
        if chunk.seq == expected:
            self._next, self._newest_ns, self.n_skipped = chunk.seq + 1, chunk.t_ns, 0
            return "next"
        if chunk.seq < expected and chunk.t_ns <= self._newest_ns:
            if chunk.seq in self._missing:
                del self._missing[chunk.seq]
                self.n_reordered += 1
                return "earlier"
            self.n_duplicate += chunk.n_samples
            return "again"
        self.n_skipped = max(0, chunk.seq - expected)
        if chunk.seq < expected:
            self._missing.clear()  # the source was started anew, and counts from 0 again
        for seq in range(max(expected, chunk.seq - MAX_MISSING), chunk.seq):
            self._missing[seq] = None
        while len(self._missing) > MAX_MISSING:
            del self._missing[next(iter(self._missing))]
        self._next, self._newest_ns = chunk.seq + 1, chunk.t_ns
        return "broken"


class RegularStream:
    """Samples at exactly the nominal rate, whatever the device's own clock makes of it.

    The stamps of recordings and simulations are exact: their samples pass through untouched. Those of
    devices jitter and drift: their samples are put onto the grid of the host's time. Gaps stay gaps.

    Args:
        rate_hz: Nominal samples per second.
        tolerance_ns: Later stamps than this are gaps; None: by who made them.

    Attributes:
        order: What came twice or out of order.
    """

    def __init__(self, rate_hz: float, tolerance_ns: int | None = None) -> None:
        self._rate_hz = rate_hz
        self._tolerance_ns = tolerance_ns
        self._continuity = Continuity(rate_hz)
        self._tracker: RateTracker | None = None
        self._resampler = GridResampler(rate_hz)
        self._is_apart = False  # what was given out last was of another time
        self._chunk_sizes: set[int] = set()  # up to two of them
        self._holes: dict[int, int] = {}  # number of a missing chunk -> when it was captured
        self._n_gaps = 0
        self.order = ChunkOrder()

    def push(self, chunk: Chunk) -> list[Run]:
        """The samples on the grid that a chunk completes."""
        place = self.order.place(chunk)
        if place == "again":
            return []
        if place == "earlier":
            self._is_apart = True
            t_ns = self._holes.pop(chunk.seq, chunk.t_ns)
            return [Run(t_ns, np.asarray(chunk.data, np.float32))]
        if self._tracker is None and is_exact(chunk):
            return [self._passed_on(chunk)]
        return list(self._steered(chunk))

    def finish(self) -> list[Run]:
        """What is still held, once nothing more comes."""
        if self._tracker is None:
            return []
        return list(self._run(self._resampler.next_ns, self._resampler.finish()))

    @property
    def n_gaps(self) -> int:
        """Breaks."""
        return self._n_gaps + (0 if self._tracker is None else self._tracker.n_gaps)

    @property
    def n_corrections(self) -> int:
        """Samples that were added or left out because of drift, and times at which all lay too late."""
        n_early = 0 if self._tracker is None else self._tracker.n_early
        return int(self._resampler.slipped) + n_early

    @property
    def drift_ppm(self) -> float | None:
        """How much faster the device is than nominal, in millionths; None where stamps are exact."""
        return None if self._tracker is None else -1e6 * self._tracker.deviation

    @property
    def uncertainty_ns(self) -> int:
        """How far stamps lie from the times found, on average; 0 where they are exact."""
        return 0 if self._tracker is None else self._tracker.jitter_ns

    def _passed_on(self, chunk: Chunk) -> Run:
        is_gap = self._continuity.is_gap(chunk.t_ns, chunk.n_samples)
        self._n_gaps += int(is_gap and chunk.seq > 0)
        is_apart, self._is_apart = self._is_apart, False
        return Run(chunk.t_ns if is_gap or is_apart else None, np.asarray(chunk.data, np.float32))

    def _steered(self, chunk: Chunk) -> Iterator[Run]:
        if chunk.n_samples == 0:
            return
        if self._tracker is None:
            self._tracker = RateTracker(self._rate_hz, chunk.time_basis, self._tolerance_ns)
        n_before, n_lost = self._tracker.n_samples, self._lost()
        first_ns, continues = self._tracker.push(chunk.t_ns, chunk.n_samples, n_lost)
        if len(self._chunk_sizes) < 2:
            self._chunk_sizes.add(chunk.n_samples)
        if continues and abs(self._resampler.stray_ns(first_ns)) > MAX_STRAY_NS:
            continues = False
            self._n_gaps += 1
        if not continues:
            yield from self.finish()
            self._note_holes(chunk, self._tracker.n_samples - chunk.n_samples - n_before)
            self._resampler.start(first_ns)
            self._is_apart = True
        starts_ns, data = self._resampler.next_ns, np.asarray(chunk.data, np.float32)
        yield from self._run(starts_ns, self._resampler.push(data, first_ns, self._tracker.deviation))

    def _lost(self) -> int | None:
        """Samples of the chunks that are missing; None where chunks are of different sizes."""
        if self.order.n_skipped == 0:
            return 0
        return self.order.n_skipped * next(iter(self._chunk_sizes)) if len(self._chunk_sizes) == 1 else None

    def _note_holes(self, chunk: Chunk, n_lost: int) -> None:
        """Where chunks belong that may still come: right behind what came before them."""
        n_skipped = self.order.n_skipped if n_lost else 0
        for i in range(max(0, n_skipped - MAX_MISSING), n_skipped):
            after_ns = int(i * (n_lost // n_skipped) * NS_PER_S / Fraction(self._rate_hz))
            self._holes[chunk.seq - n_skipped + i] = self._resampler.next_ns + after_ns
        while len(self._holes) > MAX_MISSING:
            del self._holes[next(iter(self._holes))]

    def _run(self, starts_ns: int, samples: NDArray[np.float32]) -> Iterator[Run]:
        if len(samples):
            is_apart, self._is_apart = self._is_apart, False
            yield Run(starts_ns if is_apart else None, samples)


def is_exact(chunk: Chunk) -> bool:
    """Whether its stamp tells of every sample when it was captured: so those of files and simulations do."""
    return chunk.time_basis == "driver" and chunk.arrived_ns is None
