"""Remote clocks that drift, are looked at over jittery ways, and whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edge_mer.types.signals import ClockOffset

NS = 1_000_000_000
MS = 1_000_000


@dataclass
class SimulatedClock:
    """Shows the host's time, shifted and drifting; all in whole nanoseconds.

    Attributes:
        offset_ns: What it shows at the host's time 0.
        drift_ppb: How much faster it is than the host's, in parts per thousand million.
        set_by: (host time, by how much it was set then), in order.
    """

    offset_ns: int
    drift_ppb: int = 0
    set_by: list[tuple[int, int]] = field(default_factory=list)

    def at(self, host_ns: int) -> int:
        """What it shows at the host's time."""
        jumps_ns = sum(by_ns for when_ns, by_ns in self.set_by if when_ns <= host_ns)
        return host_ns + self.offset_ns + host_ns * self.drift_ppb // NS + jumps_ns

    def look(self, host_ns: int, forth_ns: int, back_ns: int) -> ClockOffset:
        """What a question that is sent at `host_ns` finds, with such delays of question and answer."""
        half_ns = (forth_ns + back_ns + 1) // 2
        return ClockOffset("remote", self.at(host_ns + forth_ns), host_ns + half_ns, half_ns + 1)


@dataclass(frozen=True)
class Way:
    """Delays of questions and answers, in nanoseconds: at least `least_ns` each, and some more at times.

    Attributes:
        least_ns: Of one way.
        most_extra_ns: Most that jitter adds to one way.
        answers_jitter: Whether answers are delayed as much as questions; if not, the way is asymmetric.
        heavy: Share of ways that jitter fully; the others hardly do.
    """

    least_ns: int = 200_000
    most_extra_ns: int = 20 * MS
    answers_jitter: bool = False
    heavy: float = 1.0

    def delays_ns(self, random: np.random.Generator) -> tuple[int, int]:
        """Of a question and its answer."""
        extra = [
            int(random.uniform(0, self.most_extra_ns)) if random.random() < self.heavy else 0
            for _ in range(2)
        ]
        return self.least_ns + extra[0], self.least_ns + (extra[1] if self.answers_jitter else 0)
