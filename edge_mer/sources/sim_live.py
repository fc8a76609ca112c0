"""`sim-live:` is a simulated person who sits there for ever, at the clock's pace: a sensor without a sensor.

    sim-live:person=2&streams=visual+audio&fps=15

Keys are those of `sim:`. After `duration_s` another session of the same person follows, and so on.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from dataclasses import replace

from edge_mer.clock import NS_PER_S, Clock, MonotonicClock
from edge_mer.errors import UsageError
from edge_mer.sources.capture import Put
from edge_mer.sources.live import LiveSource
from edge_mer.sources.sim import SimSource
from edge_mer.sources.sim_settings import SimSettings
from edge_mer.types.signals import Chunk, StreamSpec


class LiveSimSource(LiveSource):
    """Simulated sessions one after the other, each chunk when its last sample would have been captured.

    Args:
        rest: The URI after `sim-live:`, keys of `SimSettings`.
        clock: Whose pace it keeps.

    Raises:
        UsageError: An unknown key, or a value that is not allowed.
    """

    def __init__(self, rest: str, clock: Clock | None = None) -> None:
        super().__init__(f"sim-live:{rest}", clock or MonotonicClock())
        self._settings = SimSettings.parse(rest)
        if self._settings.switch_s is not None:
            raise UsageError(f"{self._uri}: nobody takes the seat of somebody who sits there for ever")

    def _open(self) -> tuple[StreamSpec, ...]:
        return SimSource(self._rest(0)).specs

    def _close(self) -> None:
        """Nothing is held."""

    def _rest(self, number: int) -> str:
        settings = replace(self._settings, seed=self._settings.seed + number)
        return str(settings).removeprefix("sim:")

    def _capture(self, put: Put, should_stop: threading.Event) -> None:
        rates_hz = {spec.name: spec.rate_hz for spec in self.specs}
        seqs = Counter[str]()
        round_ns = round(self._settings.duration_s * NS_PER_S)
        start_ns = self._clock.now_ns()
        for number in itertools.count():
            played = SimSource(self._rest(number))
            played.start()
            while (chunk := played.read(0)) is not None:
                t_ns = start_ns + number * round_ns + chunk.t_ns
                self._sleep_until_ns(_end_ns(t_ns, chunk, rates_hz[chunk.stream]), should_stop)
                if should_stop.is_set():
                    return
                seq, seqs[chunk.stream] = seqs[chunk.stream], seqs[chunk.stream] + 1
                put(replace(chunk, t_ns=t_ns, seq=seq, arrived_ns=self._clock.now_ns()))

    def _sleep_until_ns(self, t_ns: int, should_stop: threading.Event) -> None:
        while (left_ns := t_ns - self._clock.now_ns()) > 0 and not should_stop.is_set():
            self._clock.sleep_until_ns(self._clock.now_ns() + min(left_ns, NS_PER_S // 10))


def _end_ns(t_ns: int, chunk: Chunk, rate_hz: float | None) -> int:
    """When the last of it was captured."""
    if chunk.modality == "visual" or rate_hz is None:
        return t_ns
    return t_ns + round(len(chunk.data) / rate_hz * NS_PER_S)
