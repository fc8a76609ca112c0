"""A sampled stream's true rate and phase, from the stamps of its chunks.

A chunk's stamp jitters; the number of samples before it does not. A line through both says when each sample
was really captured. What comes over a bus or a network is stamped late at times, but never early.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from edge_mer.clock import NS_PER_S
from edge_mer.sync.recursive_line import RecursiveLine
from edge_mer.types.signals import TimeBasis

HALF_LIFE_NS = 60 * NS_PER_S
"""A stamp that is so old counts half."""

LIKELY_DEVIATION = 1e-4
"""Before anything else is known, a device's rate is off by about so much."""

MAX_DEVIATION = 1e-3
"""A device whose rate is off by a larger share is not followed further."""

TOLERANCE_NS: dict[TimeBasis, int] = {"driver": 20_000_000, "remote": 40_000_000, "arrival": 250_000_000}
"""A stamp that is later than this is no jitter: samples are missing before it."""

EARLY_NS = 20_000_000
"""A stamp that is earlier than this was not expected too late: all before were."""

LOST_NS = 20_000_000
"""All stamps of a while are later than this, and than they usually differ: then samples are missing."""

PERSISTING_NS = 2 * NS_PER_S
N_PERSISTING = 8
"""A while: so long, and so many stamps, since a few may be late by chance."""

_BEST_STAMP_NS = 500_000
_KNOWN_AFTER_GAP = 2e-5


class RateTracker:
    """Follows a stream's rate and phase.

    Args:
        rate_hz: Nominal samples per second.
        basis: Who stamps the chunks, which says how their stamps jitter.
        tolerance_ns: Later stamps than this are gaps; None: as `TOLERANCE_NS` has it.

    Attributes:
        n_samples: Samples so far; never wraps.
        n_gaps: Breaks in which samples were lost.
        n_early: Times at which everything before turned out to have been stamped late.
    """

    def __init__(self, rate_hz: float, basis: TimeBasis, tolerance_ns: int | None = None) -> None:
        self._rate = Fraction(rate_hz)
        self._is_late_only = basis == "arrival"
        half_sample_ns = int(NS_PER_S / self._rate / 2)
        given_ns = TOLERANCE_NS[basis] if tolerance_ns is None else tolerance_ns
        # What is shorter than half a sample cannot be a lost one.
        self._tolerance_ns = max(given_ns, half_sample_ns)
        self._lost_ns = max(LOST_NS, half_sample_ns)
        self._line = RecursiveLine(HALF_LIFE_NS, LIKELY_DEVIATION)
        self._while = _While(0)
        self._spread_ns = 0
        self.n_samples = self.n_gaps = self.n_early = 0

    def push(self, t_ns: int, n_samples: int, n_lost: int | None = 0) -> tuple[int, bool]:
        """Take a chunk that was stamped `t_ns`.

        Args:
            t_ns: Its stamp.
            n_samples: Its samples.
            n_lost: So many samples are known to be lost before it; None: some are. Where its stamp says
                otherwise, the stamp counts.

        Returns:
            When its first sample was captured, and whether it continues the one before.
        """
        is_first = self.n_samples == 0
        n_skipped = 0 if is_first or n_lost == 0 else self._skipped(t_ns, n_lost)
        is_gap = n_skipped > 0
        self.n_samples += n_skipped
        self.n_gaps += int(is_gap)
        x_ns = self.nominal_ns(self.n_samples)
        late_ns = 0 if is_first else self._late_ns(t_ns, self.n_samples)
        if is_first or self._is_elsewhere(x_ns, late_ns, is_broken=n_lost != 0):
            self._line.restart(_KNOWN_AFTER_GAP)
            self._while, late_ns, is_gap = _While(x_ns), 0, True
        deviation_ns = max(_BEST_STAMP_NS, self.jitter_ns // 8)
        # One that came late says little of when its data were captured.
        deviation_ns += max(0, late_ns) if self._is_late_only else 0
        self._line.push(x_ns, t_ns - x_ns, deviation_ns)
        self.n_samples += n_samples
        return x_ns + self._line.at(x_ns), not is_gap

    def _late_ns(self, t_ns: int, n_before: int) -> int:
        x_ns = self.nominal_ns(n_before)
        return t_ns - x_ns - self._line.at(x_ns)

    def _skipped(self, t_ns: int, n_lost: int | None) -> int:
        """How many samples were lost, if the device went on at its pace meanwhile; 0: it did not."""
        none_ns = self._late_ns(t_ns, self.n_samples)
        n_lost = max(0, round(none_ns * self._rate / NS_PER_S)) if n_lost is None else n_lost
        late_ns = self._late_ns(t_ns, self.n_samples + n_lost)
        fits = -EARLY_NS <= late_ns <= self._lost_ns and abs(late_ns) < abs(none_ns)
        return n_lost if fits else 0

    def nominal_ns(self, n_samples: int) -> int:
        """How long so many samples take at the nominal rate."""
        return n_samples * NS_PER_S * self._rate.denominator // self._rate.numerator

    @property
    def deviation(self) -> float:
        """How much longer a sample takes than nominally: 1e-3 is a rate that is a thousandth too low."""
        return min(max(self._line.slope, -MAX_DEVIATION), MAX_DEVIATION)

    @property
    def jitter_ns(self) -> int:
        """How much later stamps are than the earliest of their while, on average."""
        return max(self._spread_ns, self._while.spread_ns)

    def _is_elsewhere(self, x_ns: int, late_ns: int, *, is_broken: bool) -> bool:
        if late_ns < -max(EARLY_NS, self.jitter_ns // 2):
            self.n_early += 1
            return True
        if late_ns > (self._lost_ns if is_broken else self._tolerance_ns) or self._persists(x_ns, late_ns):
            self.n_gaps += 1
            return True
        return False

    def _persists(self, x_ns: int, late_ns: int) -> bool:
        """Whether stamps are late for too long to be late by chance."""
        now = self._while = self._while.and_one(late_ns)
        if x_ns - now.since_ns < PERSISTING_NS or now.n < N_PERSISTING:
            return False
        usual_ns = max(self._spread_ns, now.spread_ns)
        self._while, self._spread_ns = _While(x_ns), now.spread_ns
        return now.least_ns > max(self._lost_ns, 2 * usual_ns)


@dataclass(frozen=True)
class _While:
    """How late the stamps of a while were."""

    since_ns: int
    n: int = 0
    sum_ns: int = 0
    least_ns: int = 0

    def and_one(self, late_ns: int) -> _While:
        least_ns = min(late_ns, self.least_ns) if self.n else late_ns
        return _While(self.since_ns, self.n + 1, self.sum_ns + late_ns, least_ns)

    @property
    def spread_ns(self) -> int:
        return self.sum_ns // self.n - self.least_ns if self.n else 0
