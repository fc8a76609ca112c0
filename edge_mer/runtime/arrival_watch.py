"""What a live source must do to count as well: pure with respect to time."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import Literal

from edge_mer.clock import NS_PER_S
from edge_mer.types.signals import Chunk, StreamSpec

StreamState = Literal["ok", "starting", "stalled", "wrong_rate", "restarting"]
"""`starting`: nothing came yet. `stalled`: nothing came for a hop. `wrong_rate`: more or less than its source
said. `restarting`: its source is being opened again, or was, and nothing came since."""

STALL_LEAST_NS = NS_PER_S // 2
"""Devices deliver in bursts; a shorter silence is none."""

START_LEAST_NS = 2 * NS_PER_S
"""A device that was just started may take so long until something comes."""

RATE_TOLERANCE = 0.2
"""Share by which a stream's rate may differ from what its source said."""

_RATE_OVER_NS = 2 * NS_PER_S
_FIRST_DELAY_NS = NS_PER_S // 4
_LONGEST_DELAY_NS = 30 * NS_PER_S
_WELL_AFTER_NS = 10 * NS_PER_S


@dataclass
class ArrivalWatch:
    """One stream: whether it comes, and at the rate that its source says.

    Args:
        spec: What the source says.
        stall_ns: A longer silence is a stall, unless chunks are half as long or more.
    """

    spec: StreamSpec
    stall_ns: int

    def __post_init__(self) -> None:
        self._since_ns, self._is_again = 0, False
        self._arrivals: deque[tuple[int, int, int]] = deque()  # when, how many samples, the chunk's number
        self._seqs: set[int] = set()
        self._n_samples = 0  # of them all
        self._last_ns: int | None = None
        self._chunk_ns = 0  # how long the last one was

    def start(self, now_ns: int, *, again: bool = False) -> None:
        """The source was started, or started again."""
        self._since_ns, self._last_ns, self._is_again = now_ns, None, again
        self._arrivals.clear()
        self._seqs.clear()
        self._n_samples = 0

    def arrived(self, chunk: Chunk, arrived_ns: int) -> None:
        """Take a chunk into account; one that comes again shows that the stream is alive, and no more."""
        self._last_ns = arrived_ns
        self._chunk_ns = (
            0 if self.spec.rate_hz is None else int(chunk.n_samples * NS_PER_S / self.spec.rate_hz)
        )
        if chunk.seq not in self._seqs:
            self._arrivals.append((arrived_ns, chunk.n_samples, chunk.seq))
            self._seqs.add(chunk.seq)
            self._n_samples += chunk.n_samples
        while self._arrivals and self._arrivals[0][0] < arrived_ns - _RATE_OVER_NS:
            _, n_samples, seq = self._arrivals.popleft()
            self._seqs.remove(seq)
            self._n_samples -= n_samples

    def state(self, emptied_ns: int) -> StreamState:
        """How it is; an irregular stream is always well once its source started.

        Args:
            emptied_ns: When all that had come by then was known: what waits unread is not missing.
        """
        if self.spec.rate_hz is None:
            return "ok"
        if self._last_ns is None:
            is_late = emptied_ns - self._since_ns > max(self.stall_ns, START_LEAST_NS)
            return "stalled" if is_late else "restarting" if self._is_again else "starting"
        if emptied_ns - self._last_ns > max(self.stall_ns, 2 * self._chunk_ns):
            return "stalled"
        measured_hz = self.measured_hz()
        is_off = measured_hz is not None and abs(measured_hz / self.spec.rate_hz - 1) > RATE_TOLERANCE
        return "wrong_rate" if is_off else "ok"

    def measured_hz(self) -> float | None:
        """Samples or frames per second of late; None before that can be said."""
        if len(self._arrivals) < 3:
            return None
        # The first chunk only marks where the counting starts.
        span_ns = self._arrivals[-1][0] - self._arrivals[0][0]
        n_samples = self._n_samples - self._arrivals[0][1]
        return n_samples * NS_PER_S / span_ns if span_ns >= _RATE_OVER_NS // 2 else None


class BackOff:
    """How long to wait before a broken source is opened again: longer each time, never quite as long.

    Args:
        seed: Of the jitter, so that several sensors of one hub do not all come back at one time.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._n = 0

    def next_ns(self) -> int:
        """The next delay."""
        longest_ns = min(_LONGEST_DELAY_NS, _FIRST_DELAY_NS << min(self._n, 16))
        self._n += 1
        return round(longest_ns * self._random.uniform(0.5, 1.0))

    def was_well(self, for_ns: int) -> None:
        """It worked for so long since it was opened: after a while the next trouble is a new one."""
        if for_ns >= _WELL_AFTER_NS:
            self._n = 0
