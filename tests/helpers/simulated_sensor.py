"""A sensor with a clock of its own, whose samples say when they were captured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from edge_mer.sync.regular import RegularStream
from edge_mer.types.signals import Chunk, TimeBasis

NS = 1_000_000_000
Late = Callable[[np.random.Generator], float]


def hardly(random: np.random.Generator) -> float:
    """Stamps of a driver: a millisecond to both sides."""
    return float(random.normal(0, 0.001))


def at_times(random: np.random.Generator) -> float:
    """Stamps on arrival: 5 ms late on average, sometimes much more."""
    return float(random.exponential(0.005)) + 0.08 * (random.random() < 0.01)


@dataclass(frozen=True)
class Sensor:
    """Its sample is the time in seconds at which it was captured, its chunks' stamps jitter.

    Attributes:
        rate_hz: Nominal rate.
        ppm: How much faster its clock is.
        n_per_chunk: Samples of a chunk.
        late: How late a chunk's stamp is, in seconds.
        basis: Who stamps.
        start_s: When its first sample is captured.
        pauses: Chunk -> seconds of samples lost before it, without a trace in the chunks' numbers.
        lost: Chunks that never come.
    """

    rate_hz: int = 250
    ppm: float = 0.0
    n_per_chunk: int = 25
    late: Late = hardly
    basis: TimeBasis = "driver"
    start_s: float = 0.0123
    pauses: tuple[tuple[int, float], ...] = ()
    lost: frozenset[int] = frozenset()

    def chunks(self, seconds: float, seed: int = 0) -> Iterator[Chunk]:
        """Those of so much time."""
        random, true_hz = np.random.default_rng(seed), self.rate_hz * (1 + self.ppm * 1e-6)
        seq, at_s, newest_s = 0, self.start_s, 0.0
        while at_s < self.start_s + seconds:
            at_s += dict(self.pauses).get(seq, 0.0)
            times_s = at_s + np.arange(self.n_per_chunk) / true_hz
            at_s += self.n_per_chunk / true_hz
            came_s = at_s + self.late(random)
            if self.basis == "arrival":
                came_s = newest_s = max(came_s, newest_s)
            if seq not in self.lost:
                stamp_ns = round((came_s - self.n_per_chunk / self.rate_hz) * NS)
                data = times_s.astype(np.float32)[:, np.newaxis]
                yield Chunk("sensor", "eda", seq, stamp_ns, data, self.basis, round(came_s * NS))
            seq += 1


@dataclass(frozen=True)
class Placed:
    """What a stream made of chunks: the samples that were captured when, by the grid and in truth."""

    stream: RegularStream
    index: NDArray[np.int64]
    grid_s: NDArray[np.float64]
    captured_s: NDArray[np.float64]

    def errors_ms(self, from_s: float = 0.0, to_s: float = 1e9) -> NDArray[np.float64]:
        """How far samples of a stretch of time lie from where they belong."""
        there = (self.grid_s >= from_s) & (self.grid_s < to_s)
        return np.abs(self.captured_s - self.grid_s)[there] * 1e3


def placed(chunks: Iterable[Chunk], rate_hz: int, stream: RegularStream | None = None) -> Placed:
    """Put the chunks of a sensor onto the grid."""
    stream, at = stream or RegularStream(rate_hz), 0
    index: list[NDArray[np.int64]] = []
    samples: list[NDArray[np.float32]] = []
    for run in (
        run for chunk in (*chunks, None) for run in (stream.push(chunk) if chunk else stream.finish())
    ):
        if run.t_ns is not None:
            at = round(Fraction(run.t_ns * rate_hz, NS))
        index.append(at + np.arange(len(run.samples)))
        samples.append(run.samples[:, 0])
        at += len(run.samples)
    indices = np.concatenate(index)
    return Placed(stream, indices, indices / rate_hz, np.concatenate(samples).astype(np.float64))
