"""The remote clocks behind a session's streams."""

from __future__ import annotations

from dataclasses import replace

from edge_mer.runtime.arrivals import MAX_STRAY_NS
from edge_mer.sync.remote_clock import RemoteClock
from edge_mer.types.signals import Chunk, ClockOffset


class RemoteClocks:
    """Puts chunks that a remote clock stamped on the host's time.

    Attributes:
        n_unplaced: Chunks that came before anything was known of their clock, or cannot be true.
    """

    def __init__(self) -> None:
        self._clocks: dict[str, RemoteClock] = {}
        self._newest_ns: dict[str, int] = {}
        self.n_unplaced = 0

    def look(self, offset: ClockOffset) -> None:
        """Take a look at a remote clock; they come in the order in which they were taken."""
        self._clocks.setdefault(offset.stream, RemoteClock()).push(offset)

    def placed(self, chunk: Chunk) -> Chunk | None:
        """The same chunk with the host's time of its capture; None: that is not known."""
        if chunk.time_basis != "remote":
            return chunk
        clock = self._clocks.setdefault(chunk.stream, RemoteClock())
        t_ns = clock.to_host_ns(chunk.t_ns, chunk.arrived_ns)
        is_stray = t_ns is not None and abs((chunk.arrived_ns or t_ns) - t_ns) > MAX_STRAY_NS
        if t_ns is None or is_stray:
            self.n_unplaced += 1
            return None
        self._newest_ns[chunk.stream] = chunk.t_ns
        return replace(chunk, t_ns=t_ns)

    def uncertainty_ns(self, stream: str) -> int | None:
        """How far off the host's time of a stream's newest chunk may be; None while nothing is known.

        0 of a stream that no remote clock stamps.
        """
        if stream not in self._clocks:
            return 0
        newest_ns = self._newest_ns.get(stream)
        return None if newest_ns is None else self._clocks[stream].uncertainty_ns(newest_ns)

    def is_warm(self, stream: str) -> bool:
        """Whether a stream's clock is known well enough."""
        return stream not in self._clocks or self._clocks[stream].is_warm
