"""Another sink, kept open for months: opened when it can be, and again while what it needs is missing."""

from __future__ import annotations

from pathlib import Path

from edge_mer.clock import NS_PER_S, Clock, MonotonicClock
from edge_mer.errors import MissingError
from edge_mer.sinks.base import Remote, Sink, introduce
from edge_mer.types.facts import ModelFacts
from edge_mer.types.predictions import Prediction

_MIN_RETRY_S, _MAX_RETRY_S = 1, 60


class LastingSink:
    """For a service that begins before its network does.

    The other sink is opened by the first `write` after a model was introduced. Where it says that something
    is missing, predictions are lost, and counted, and it is tried again after 1 s at first and 60 s at most.

    Args:
        sink: Not yet open.
        name: What to call it where it has no name of its own.
        clock: Says when to try again.
    """

    def __init__(self, sink: Sink, name: str, clock: Clock | None = None) -> None:
        self._sink = sink
        self._name = name
        self._clock = clock or MonotonicClock()
        self._model: ModelFacts | None = None
        self._introduced: ModelFacts | None = None
        self._is_open = False
        self._retry_s = _MIN_RETRY_S
        self._next_ns: int | None = None
        self._away = "no model is known yet"
        self._n_lost = 0

    @property
    def target(self) -> Path | None:
        """The other sink's."""
        return self._sink.target

    @property
    def name(self) -> str:
        """The other sink's, without anything secret."""
        return self._sink.name if isinstance(self._sink, Remote) else self._name

    @property
    def n_lost(self) -> int:
        """Predictions that came while it was not open, and those that the other sink lost."""
        return self._n_lost + (self._sink.n_lost if isinstance(self._sink, Remote) else 0)

    @property
    def away(self) -> str:
        """Why it cannot hand on anything just now; "" while it can."""
        if not self._is_open:
            return self._away
        return self._sink.away if isinstance(self._sink, Remote) else ""

    def introduce(self, model: ModelFacts) -> None:
        """The other sink learns of the model before the next prediction; any thread may call it."""
        self._model = model

    def open(self) -> None:
        """Nothing yet: there may be no network, and no model."""

    def write(self, prediction: Prediction) -> None:
        """Hand it on, if the other sink is open or can be opened.

        Raises:
            UsageError: It never can: a file of its settings, or a name or password, is wrong.
        """
        model = self._model
        if model is not None and model is not self._introduced:
            introduce(self._sink, model)
            self._introduced = model
        if self._is_open or (model is not None and self._opens()):
            self._sink.write(prediction)
        else:
            self._n_lost += 1

    def close(self) -> None:
        """Close the other one, if it was opened."""
        if self._is_open:
            self._is_open, self._away = False, "it is closed"
            self._sink.close()

    def abandon(self) -> None:
        """Abandon the other one, if it was opened."""
        if self._is_open:
            self._is_open, self._away = False, "it is closed"
            self._sink.abandon()

    def _opens(self) -> bool:
        now_ns = self._clock.now_ns()
        if self._next_ns is not None and now_ns < self._next_ns:
            return False
        try:
            self._sink.open()
        except MissingError as error:
            self._away = error.found or error.what
            self._next_ns = self._clock.now_ns() + self._retry_s * NS_PER_S
            self._retry_s = min(2 * self._retry_s, _MAX_RETRY_S)
            return False
        self._is_open, self._retry_s = True, _MIN_RETRY_S
        return True
