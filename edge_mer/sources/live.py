"""What microphones and biosensors share: a device that is opened, captured in a thread, and closed."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

from edge_mer.clock import Clock
from edge_mer.sources.capture import CaptureThread, Put
from edge_mer.types.signals import Chunk, StreamSpec

MAX_WAITING_CHUNKS = 1024


class LiveSource(ABC):
    """A live source whose device is opened by `_open`, read by `_capture` in a thread, closed by `_close`.

    It mends nothing itself: when `read` has raised, stop it, and make it ready again.

    Args:
        uri: Opens it again.
        clock: Stamps what it captures.
    """

    is_live = True

    def __init__(self, uri: str, clock: Clock) -> None:
        self._uri = uri
        self._clock = clock
        self._specs: tuple[StreamSpec, ...] = ()
        self._is_open = False
        self._thread: CaptureThread | None = None

    @abstractmethod
    def _open(self) -> tuple[StreamSpec, ...]:
        """Open the device and describe its streams; on failure nothing may stay open."""

    def _begin(self) -> None:
        """Called by `start`, before anything is captured: what came until now is of no interest.

        Raises:
            LostError: The device is gone.
        """
        return

    @abstractmethod
    def _capture(self, put: Put, should_stop: threading.Event) -> None:
        """Capture until asked to stop, in a thread of its own.

        Raises:
            LostError: The device is gone.
        """

    @abstractmethod
    def _close(self) -> None:
        """Close the device; nobody captures any more."""

    @property
    def uri(self) -> str:
        """The URI that opens this source again."""
        return self._uri

    @property
    def specs(self) -> tuple[StreamSpec, ...]:
        """One spec per stream; valid after `ensure_ready`."""
        return self._specs

    @property
    def ended(self) -> bool:
        """False: a sensor has no end, it can only be lost."""
        return False

    @property
    def n_dropped(self) -> int:
        """Chunks that nobody read in time, since `start`."""
        return 0 if self._thread is None else self._thread.n_dropped

    def ensure_ready(self) -> None:
        """Open the device and describe its streams.

        Raises:
            MissingError: No such device, or the package that reads it is not installed.
            DataError: What it delivers cannot be used.
        """
        if not self._is_open:
            self._specs = self._open()
            self._is_open = True

    def start(self) -> None:
        """Begin to deliver.

        Raises:
            MissingError: As `ensure_ready`.
            DataError: As `ensure_ready`.
        """
        self.ensure_ready()
        if self._thread is None:
            self._begin()
            self._thread = CaptureThread(self._capture, self._uri, MAX_WAITING_CHUNKS)

    def read(self, timeout_ms: int) -> Chunk | None:
        """The next chunk, or None when none came within `timeout_ms`.

        Raises:
            LostError: The device is gone.
            RuntimeError: Not started.
        """
        if self._thread is None:
            raise RuntimeError(f"{self.uri} must be started before it is read")
        return self._thread.read(timeout_ms)

    def ensure_stopped(self) -> None:
        """Release the device; harmless when it is not held."""
        has_ended = self._thread is None or self._thread.stop()
        self._thread = None
        is_open, self._is_open = self._is_open, False
        if is_open and has_ended:  # what a hanging driver still works on cannot be taken from under it
            self._close()
