"""Sources and sinks that a test holds in its hand, and a session of the tiny model over them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_mer.bundle.manifest import FileEntry, Manifest
from edge_mer.bundle.read import Bundle
from edge_mer.clock import ManualClock
from edge_mer.runtime.live_session import Session
from edge_mer.runtime.opening import Opened
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.target import Choice
from edge_mer.sinks.base import Sink
from edge_mer.sources.base import Source
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk, StreamSpec
from tests.helpers.numpy_engines import tiny_engines
from tests.helpers.tiny_bundle import tiny_files, tiny_manifest
from tests.helpers.tiny_model import tiny_model
from tests.helpers.tiny_session import SquareDetector, TinySession


class FakeSource:
    """Delivers a `TinySession`, or what a test makes of it.

    Args:
        played: What it delivers.
        clock: For a live source, which stamps its chunks by it and moves it to each capture.
        is_live: A sensor.
        is_endless: It never ends, and is silent after what it had.
        gate: Nothing is delivered before it is set.
        fails: Name of the verb that raises `error`.
        fails_at: For "read": after so many chunks.
        error: What is raised.
    """

    uri = "fake:"

    def __init__(
        self,
        played: TinySession,
        clock: ManualClock | None = None,
        *,
        is_live: bool = False,
        is_endless: bool = False,
        gate: threading.Event | None = None,
        fails: str = "",
        fails_at: int = 0,
        error: Exception | None = None,
    ) -> None:
        self.is_live = is_live
        self.ended = False
        self.is_stopped = False
        self.n_read = 0
        self._clock = clock or ManualClock()
        self._is_endless = is_endless
        self._gate = gate
        self._fails, self._fails_at = fails, fails_at
        self._error = error or RuntimeError("the camera caught fire")
        self._chunks: Iterator[Chunk] = played.chunks()
        self._specs = tuple(played.specs)
        self._start_ns = self.late_ns = 0
        self._peeked: Chunk | None = None

    @property
    def specs(self) -> tuple[StreamSpec, ...]:
        return self._specs

    def ensure_ready(self) -> None:
        self._fail("ensure_ready")

    def start(self) -> None:
        self._fail("start")
        if self.is_live and self.n_read == 0:  # opened again, it goes on
            self._start_ns = self._clock.now_ns()

    def read(self, timeout_ms: int) -> Chunk | None:
        if self._gate is not None and not self._gate.wait(timeout_ms / 1000):
            return None
        if self.n_read >= self._fails_at:
            self._fail("read")
        if self.is_live and self._is_yet_to_come(timeout_ms):
            return None
        chunk, self._peeked = self._peeked or next(self._chunks, None), None
        if chunk is None:
            self.ended = not self._is_endless
            if self._is_endless:
                threading.Event().wait(timeout_ms / 1000)
            return None
        self.n_read += 1
        if not self.is_live:
            return chunk
        self._clock.sleep_until_ns(self._start_ns + chunk.t_ns + self.late_ns)
        return replace(chunk, t_ns=self._start_ns + chunk.t_ns)

    def _is_yet_to_come(self, timeout_ms: int) -> bool:
        """Whether the next chunk is captured later than the reader will wait, who then has waited."""
        self._peeked = self._peeked or next(self._chunks, None)
        if self._peeked is None:
            return False
        until_ns = self._clock.now_ns() + timeout_ms * 1_000_000
        if self._start_ns + self._peeked.t_ns + self.late_ns <= until_ns:
            return False
        self._clock.sleep_until_ns(until_ns)
        return True

    def ensure_stopped(self) -> None:
        self.is_stopped = True
        self._fail("ensure_stopped")

    def _fail(self, verb: str) -> None:
        if self._fails == verb:
            raise self._error


class FakeSink:
    """Remembers what was done with it.

    Args:
        fails: Name of the verb that raises.
    """

    target: Path | None = None

    def __init__(self, fails: str = "") -> None:
        self.done: list[str] = []
        self.written: list[Prediction] = []
        self._fails = fails

    def open(self) -> None:
        self._do("open")

    def write(self, prediction: Prediction) -> None:
        self.written.append(prediction)
        self._do("write")

    def close(self) -> None:
        self._do("close")

    def abandon(self) -> None:
        self._do("abandon")

    def _do(self, verb: str) -> None:
        if verb != "write" or "write" not in self.done:
            self.done.append(verb)
        if verb == self._fails:
            raise OSError("the disk is full")


def tiny_manifest_alone() -> Manifest:
    """A manifest whose files are nowhere."""
    return tiny_manifest({name: FileEntry(sha256="0" * 64, n_bytes=1) for name in tiny_files()})


def opened(sources: Sequence[Source], sinks: Sequence[Sink] = ()) -> Opened:
    """What a session of the tiny model runs on."""
    model = tiny_model()
    setup = PipelineSetup(model, tiny_engines(model), SquareDetector())
    return Opened(
        bundle=Bundle(Path("nowhere"), tiny_manifest_alone()),
        setup=setup,
        sources=tuple(sources),
        sinks=tuple(sinks),
        choice=Choice("fp32"),
    )


def session_of(
    *sources: Source,
    sinks: Sequence[Sink] = (),
    clock: ManualClock | None = None,
    fast: bool = True,
    callbacks: Sequence[Callable[[Prediction], None]] = (),
    **how: Any,
) -> Session:
    """A session of the tiny model, not yet started."""
    return Session(opened(sources, sinks), clock or ManualClock(), fast=fast, callbacks=callbacks, **how)
