"""Sinks on networks, each behind a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from edge_mer.sinks.lasting import LastingSink
from edge_mer.sinks.registry import open_sink
from edge_mer.sinks.sink_thread import SinkThread
from edge_mer.types.facts import ModelFacts
from edge_mer.types.predictions import Prediction

_CLOSE_S = 1.5

_log = logging.getLogger(__name__)


class Outlets:
    """Every sink of a configuration that is not the other process's.

    Args:
        uris: Of these sinks.

    Raises:
        UsageError: A sink that nobody knows, or that refuses its settings.
    """

    def __init__(self, uris: Iterable[str]) -> None:
        self._lasting = {uri: LastingSink(open_sink(uri), f"{_scheme(uri)}:") for uri in uris}
        self._sinks = {uri: SinkThread(sink) for uri, sink in self._lasting.items()}
        self._failed: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._model: ModelFacts | None = None

    def __enter__(self) -> Outlets:
        opened: list[SinkThread] = []
        try:
            for sink in self._sinks.values():
                sink.open()
                opened.append(sink)
        except BaseException:
            for sink in opened:
                sink.abandon()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        threads = [threading.Thread(target=_close, args=one, daemon=True) for one in self._sinks.items()]
        for thread in threads:
            thread.start()
        for thread in threads:  # one that hangs ends with the process
            thread.join(_CLOSE_S / len(threads))

    def introduce(self, hello: dict[str, Any]) -> None:
        """Tell all of them of the model; never waits."""
        model = ModelFacts.from_hello(hello)
        if model == self._model:  # the same one, after a reconnection
            return
        self._model = model
        for sink in self._lasting.values():
            sink.introduce(model)

    def write(self, record: dict[str, Any]) -> None:
        """Give a record to all of them; never waits."""
        prediction = Prediction.from_dict(record)
        for uri, sink in self._sinks.items():
            if uri in self._failed:
                continue
            try:
                sink.write(prediction)
            except Exception as error:  # a bug of one sink is not the end of the others
                _log.exception("sink %s failed", _scheme(uri))
                self._failed[uri] = f"a bug: {error!r}"

    def look(self) -> None:
        """Log what keeps a sink from going on, once it has lost something by it, and when that is over."""
        for one in self.health():
            target, trouble = one["target"], one["trouble"]
            if trouble == self._told.get(target, "") or not one["n_dropped"]:
                continue
            self._told[target] = trouble
            if trouble:
                _log.warning("sink %s gets nothing: %s", target, trouble)
            else:
                _log.warning("sink %s goes on; %d predictions are lost to it", target, one["n_dropped"])

    def health(self) -> list[dict[str, Any]]:
        """How each of them is; what is secret of an address is left out."""
        told = []
        for uri, sink in self._sinks.items():
            health = sink.health()
            trouble = self._failed.get(uri) or health.trouble or health.away
            told.append({"target": health.name, "n_dropped": health.n_dropped, "trouble": trouble})
        return told


def _scheme(uri: str) -> str:
    return uri.partition(":")[0]


def _close(uri: str, sink: SinkThread) -> None:
    try:
        sink.close()
    except Exception:
        _log.exception("sink %s failed at its end", _scheme(uri))
