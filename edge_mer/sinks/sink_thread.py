"""A sink behind a thread and a bounded queue, so that its slowness delays nobody."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from edge_mer.errors import EdgeMerError
from edge_mer.sinks.base import Remote, Sink
from edge_mer.types.predictions import Prediction

MAX_WAITING = 256
"""So many predictions wait for a slow sink; then the oldest go, and are counted."""

_CLOSE_S = 10.0


@dataclass(frozen=True)
class SinkHealth:
    """How one sink of a live session is.

    Attributes:
        target: The file that it writes, if it writes one.
        n_dropped: Predictions that it has not, and will not have.
        trouble: What ended its writing; "" if nothing did.
        name: What to call a sink that sends to another machine; "" of all others.
        away: Why that one cannot send just now; "" while it can.
    """

    target: Path | None
    n_dropped: int
    trouble: str
    name: str = ""
    away: str = ""


def sink_health(sink: Sink, n_dropped: int = 0, trouble: str = "") -> SinkHealth:
    """How a sink is.

    Args:
        sink: Any.
        n_dropped: Predictions that did not even come to it.
        trouble: What ended its writing.
    """
    if not isinstance(sink, Remote):
        return SinkHealth(sink.target, n_dropped, trouble)
    return SinkHealth(sink.target, n_dropped + sink.n_lost, trouble, sink.name, sink.away)


class SinkThread:
    """Writes to another sink in a thread of its own.

    What the sink says it cannot do any more, on a full disk, ends its writing and nothing else, and is told
    in `trouble`. Any other error of it is raised by the next `write`.

    Args:
        sink: Not yet open.

    Attributes:
        n_dropped: Predictions that the sink was too slow for, or that came after its trouble.
        trouble: What ended its writing; None: nothing did.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._waiting: deque[Prediction] = deque()
        self._changed = threading.Condition()
        self._is_ending = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="edge-mer sink", daemon=True)
        self.n_dropped = 0
        self.trouble: EdgeMerError | None = None

    @property
    def target(self) -> Path | None:
        """The sink's own."""
        return self._sink.target

    def health(self) -> SinkHealth:
        """How it is now; any thread may ask."""
        with self._changed:
            trouble = "" if self.trouble is None else str(self.trouble)
            n_dropped = self.n_dropped
        return sink_health(self._sink, n_dropped, trouble)

    def open(self) -> None:
        """Open the sink, and begin."""
        self._sink.open()
        self._thread.start()

    def write(self, prediction: Prediction) -> None:
        """Have it written; never waits."""
        with self._changed:
            if self._error is not None:
                raise self._error
            if len(self._waiting) == MAX_WAITING or self.trouble is not None:
                self.n_dropped += 1
            if self.trouble is not None:
                return
            if len(self._waiting) == MAX_WAITING:
                self._waiting.popleft()
            self._waiting.append(prediction)
            self._changed.notify()

    def close(self) -> None:
        """Have all that waits written, and close the sink; one that hangs is left behind."""
        if self._end():
            self._sink.close()
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """Write no more, and have the sink leave nothing half-written."""
        self._waiting.clear()
        if self._end():
            self._sink.abandon()

    def _end(self) -> bool:
        """True once nobody writes any more."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_S)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (prediction := self._next()) is not None:
            try:
                self._sink.write(prediction)
            except EdgeMerError as trouble:
                with self._changed:
                    self.trouble = trouble
                    self.n_dropped += 1 + len(self._waiting)
                    self._waiting.clear()
                return
            except BaseException as error:  # carried over to the thread that gives predictions
                self._error = error
                return

    def _next(self) -> Prediction | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_ending)
            return self._waiting.popleft() if self._waiting else None
