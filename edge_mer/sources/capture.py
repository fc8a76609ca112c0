"""A live source's own thread, and the bounded queue between it and whoever reads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from edge_mer.errors import EdgeMerError, LostError
from edge_mer.types.signals import Chunk

Put = Callable[[Chunk], None]
Capturing = Callable[[Put, threading.Event], None]
"""Captures until the event is set, or until nothing more comes, and hands on each chunk at once."""


class CaptureThread:
    """Captures in a thread of its own, so that nobody's slowness makes a device overrun.

    When nobody reads, the oldest chunks go, and are counted.

    Args:
        capture: Runs in the thread. What it raises comes out of `read`.
        name: The source's URI, for messages.
        max_chunks: So many may wait.

    Attributes:
        n_dropped: Chunks that went unread.
    """

    def __init__(self, capture: Capturing, name: str, max_chunks: int) -> None:
        self._capture, self._name, self._max_chunks = capture, name, max_chunks
        self._chunks: deque[Chunk] = deque()
        self._changed = threading.Condition()
        self._stop_asked = threading.Event()
        self._failure: BaseException | None = None
        self._is_over = False
        self.n_dropped = 0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether everything was captured and read."""
        with self._changed:
            return self._is_over and not self._chunks and self._failure is None

    def read(self, timeout_ms: int) -> Chunk | None:
        """The oldest chunk, or None when none came within `timeout_ms` or at the end.

        Raises:
            LostError: Capturing failed, and all that was captured before has been read.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self._is_over, timeout_ms / 1000)
            if self._chunks:
                return self._chunks.popleft()
            if self._failure is None:
                return None
            failure, self._failure = self._failure, None
        if isinstance(failure, EdgeMerError):
            raise failure
        raise LostError(f"{self._name}: capturing failed", found=str(failure) or repr(failure)) from failure

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Ask the thread to end, and wait for it; True once it has ended.

        A device's driver may hang for good; its thread is then left behind, and ends with the process.
        """
        self._stop_asked.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            self._capture(self._put, self._stop_asked)
        except BaseException as failure:  # carried over to the thread that reads
            self._failure = failure
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _put(self, chunk: Chunk) -> None:
        with self._changed:
            if len(self._chunks) == self._max_chunks:
                self._chunks.popleft()
                self.n_dropped += 1
            self._chunks.append(chunk)
            self._changed.notify_all()
