"""Between the thread that makes predictions and whoever reads them: bounded, and honest about loss."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

from edge_mer.errors import UsageError
from edge_mer.types.predictions import Prediction


class PredictionQueue:
    """One writer, one reader, at most `max_n` predictions between them.

    When it is full, a writer whose source cannot wait pushes out the oldest prediction. Any other
    writer waits for the reader, as long as one may be expected: until `expect_no_reader` was called
    and nobody reads, or the reader has left.

    Args:
        max_n: Predictions that it holds.
        is_live: The writer must never wait.

    Raises:
        UsageError: There is no room for even one.
    """

    def __init__(self, max_n: int, *, is_live: bool) -> None:
        if max_n < 1:
            raise UsageError("max_queue leaves no room", expected="1 or more", found=str(max_n))
        self._max_n = max_n
        self._is_live = is_live
        self._changed = threading.Condition()
        self._held: deque[Prediction] = deque()
        self._reader: Literal["none", "reading", "left"] = "none"
        self._expects_reader = True
        self._is_stopping = False
        self._has_ended = False
        self._n_pushed_out = 0
        self._listeners: list[Callable[[], None]] = []

    # -- the writer ------------------------------------------------------------------------------

    def put(self, prediction: Prediction) -> None:
        """Add a prediction; waits or pushes out the oldest when there is no room."""
        with self._changed:
            while self._must_wait():
                self._changed.wait()
            if len(self._held) >= self._max_n and not self._is_stopping:
                self._held.popleft()
                self._n_pushed_out += int(self._reader != "left")
            self._held.append(prediction)
        self._tell()

    def end(self) -> None:
        """Nothing more will be put."""
        with self._changed:
            self._has_ended = True
        self._tell()

    def _must_wait(self) -> bool:
        is_full = len(self._held) >= self._max_n
        is_read = self._reader == "reading" or (self._reader == "none" and self._expects_reader)
        return is_full and is_read and not self._is_live and not self._is_stopping

    # -- the reader ------------------------------------------------------------------------------

    def begin_reading(self) -> None:
        """Claim the only place for a reader.

        Raises:
            UsageError: Somebody reads already, or did.
        """
        with self._changed:
            if self._reader != "none":
                raise UsageError(
                    "a session can be iterated once",
                    found="a second iteration",
                    hint="keep the first iterator (it = iter(session)), or ask session.latest()",
                )
            self._reader = "reading"

    def end_reading(self) -> None:
        """The reader leaves; nobody waits for it any more."""
        with self._changed:
            if self._reader == "reading":
                self._reader = "left"
        self._tell()

    def expect_no_reader(self) -> None:
        """The session is used in another way: until somebody reads, only the newest are kept."""
        with self._changed:
            is_news, self._expects_reader = self._expects_reader, False
        if is_news:
            self._tell()

    def take(self) -> Prediction | None:
        """The oldest prediction, once there is one; None when none will come."""
        with self._changed:
            while not self._held and not self._has_ended:
                self._changed.wait()
        return self.take_now()

    def take_now(self) -> Prediction | None:
        """The oldest prediction, or None when there is none now."""
        with self._changed:
            taken = self._held.popleft() if self._held else None
        if taken is not None:
            self._tell()
        return taken

    @property
    def is_over(self) -> bool:
        """Whether nothing is held and nothing will come."""
        with self._changed:
            return self._has_ended and not self._held

    @property
    def has_ended(self) -> bool:
        """Whether nothing will come."""
        return self._has_ended

    @property
    def n_dropped(self) -> int:
        """Predictions that were pushed out before the reader took them; 0 when nobody ever read."""
        with self._changed:
            return 0 if self._reader == "none" else self._n_pushed_out

    # -- both ------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Let the writer put what it has without waiting."""
        with self._changed:
            self._is_stopping = True
        self._tell()

    def clear(self) -> None:
        """Forget what nobody took."""
        with self._changed:
            self._held.clear()
        self._tell()

    def wait_for_end(self) -> None:
        """Return once nothing more will be put."""
        with self._changed:
            while not self._has_ended:
                self._changed.wait()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change, on the thread that made it; it must not block."""
        self._listeners.append(listener)

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
        for listener in self._listeners:
            listener()
