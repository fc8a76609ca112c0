"""How far a corpus is, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_mer.clock import NS_PER_S, Clock, MonotonicClock

Say = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and of how much."""

SAY_EVERY_S = 2.0
_LEAST_SHARE = 0.02


class Progress:
    """Tells of jobs as they end; the time that is left goes by how much of their data is done.

    Args:
        say: Told.
        what: Is being done, e.g. "playing".
        weights: How much each job is, in any unit.
        clock: Where the time comes from.
        every_s: No more often; the last one is always told.
    """

    def __init__(
        self,
        say: Say,
        what: str,
        weights: Sequence[float],
        clock: Clock | None = None,
        every_s: float = SAY_EVERY_S,
    ) -> None:
        self._say, self._what, self._weights = say, what, [max(one, 1e-3) for one in weights]
        self._clock = clock or MonotonicClock()
        self._began_ns = self._said_ns = self._clock.now_ns()
        self._every_ns = round(every_s * NS_PER_S)
        self._n = self._n_failed = 0
        self._done = 0.0

    def ended(self, number: int, *, is_good: bool) -> None:
        """A job ended."""
        self._n += 1
        self._n_failed += not is_good
        self._done += self._weights[number]
        now_ns = self._clock.now_ns()
        if now_ns - self._said_ns >= self._every_ns or self._n == len(self._weights):
            self._said_ns = now_ns
            self._say(self.text(now_ns), self._n, len(self._weights))

    def text(self, now_ns: int) -> str:
        """E.g. "playing, 12 of 40, 1 failed, 3 min left"."""
        parts = [f"{self._what}, {self._n} of {len(self._weights)}"]
        if self._n_failed:
            parts.append(f"{self._n_failed} failed")
        share = self._done / sum(self._weights)
        if share >= _LEAST_SHARE and self._n < len(self._weights):
            spent_s = (now_ns - self._began_ns) / NS_PER_S
            parts.append(f"{duration(spent_s * (1 - share) / share)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """In words, e.g. "40 s", "3 min" or "2 h 5 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
