"""The same session for asyncio: it waits without holding up the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType

from edge_mer.bundle.read import Bundle
from edge_mer.errors import UsageError
from edge_mer.runtime.live_session import Session
from edge_mer.runtime.pipeline import Counters
from edge_mer.runtime.prediction_queue import PredictionQueue
from edge_mer.runtime.session import SessionReport
from edge_mer.types.predictions import Prediction


class AsyncSession:
    """Predictions from sources while they come, made by `edge_mer.open_session_async`.

    `async with` opens bundle, engines, sources and sinks in a helper thread, and raises what they
    have to say against it; `async for` gives each prediction once. Queue, loss and errors are those
    of `Session`, which does the work. Cancelling the task that is inside the block ends the session
    properly: thread joined, sinks closed.

    Args:
        open_session: Makes the session; called in a helper thread, since it reads the bundle.
    """

    def __init__(self, open_session: Callable[[], Session]) -> None:
        self._open_session = open_session
        self._session: Session | None = None
        self._changed = asyncio.Event()
        self._is_entered = False
        self._is_stopped = False
        self._reader: asyncio.Task[object] | None = None

    # -- what it is ------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The session that does the work, for all that never waits.

        Raises:
            UsageError: The block was not entered yet.
        """
        if self._session is None:
            raise UsageError(
                "an asynchronous session cannot be used before it starts",
                hint="use it inside its `async with` block",
            )
        return self._session

    @property
    def bundle(self) -> Bundle:
        """What it runs."""
        return self.session.bundle

    @property
    def precision(self) -> str:
        """The candidate that it runs, e.g. "fp32"."""
        return self.session.precision

    @property
    def is_live(self) -> bool:
        """Whether its sources are sensors, which cannot wait."""
        return self.session.is_live

    @property
    def is_running(self) -> bool:
        """Whether more predictions may come."""
        return self._session is not None and self._session.is_running

    @property
    def report(self) -> SessionReport:
        """Predictions per status and reason so far."""
        return self.session.report

    @property
    def counters(self) -> Counters:
        """What the pipeline counted so far."""
        return self.session.counters

    @property
    def n_dropped(self) -> int:
        """Predictions that the loop was too slow to get."""
        return self.session.n_dropped

    def latest(self, max_age_ms: float, person: str | None = None) -> Prediction | None:
        """The newest prediction, if it is new enough: as `Session.latest`."""
        return self.session.latest(max_age_ms, person)

    def stop(self) -> None:
        """Ask the session to end; returns at once."""
        self._is_stopped = True
        if self._session is not None:
            self._session.stop()

    # -- its life --------------------------------------------------------------------------------

    async def __aenter__(self) -> AsyncSession:
        if self._is_entered:
            raise UsageError("a session can be started once", hint="open another session")
        self._is_entered = True
        loop = asyncio.get_running_loop()
        starting = loop.run_in_executor(None, self._start, loop)
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            self.stop()
            await asyncio.wait([starting])
            with contextlib.suppress(Exception):  # being cancelled is what counts
                await starting
                await self._end()
            raise
        return self

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        session = self._open_session()
        session._queue.listen(lambda: self._wake(loop))
        self._session = session
        if self._is_stopped:
            session.stop()
        session.start()

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is gone, and with it who waited
            loop.call_soon_threadsafe(self._changed.set)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._end()
        except Exception as failure:
            if error is None:
                raise
            if error.__context__ is None and failure is not error:
                error.__context__ = failure

    async def _end(self) -> None:
        if self._session is None:
            return
        self._session.stop()
        closing = asyncio.get_running_loop().run_in_executor(None, self._session.close)
        await asyncio.shield(closing)

    async def wait(self) -> None:
        """Return when the recordings have ended or the session was stopped; for use without a loop.

        Raises:
            EdgeMerError: What ended the session early, as it was raised.
            UsageError: The session is not running.
        """
        queue = self._queue("be waited for")
        if self._reader is asyncio.current_task():
            queue.end_reading()  # a task that waits has left its loop
        queue.expect_no_reader()
        while True:
            self._changed.clear()
            if queue.has_ended:
                break
            await self._changed.wait()
        self.session._raise_failure()

    # -- what comes out --------------------------------------------------------------------------

    def __aiter__(self) -> AsyncSession:
        self._queue("be iterated").begin_reading()
        self._reader = asyncio.current_task()
        return self

    async def __anext__(self) -> Prediction:
        queue = self._queue("be iterated")
        while True:
            self._changed.clear()
            if (prediction := queue.take_now()) is not None:
                return prediction
            if queue.is_over:
                queue.end_reading()
                self.session._raise_failure()
                raise StopAsyncIteration
            await self._changed.wait()

    def _queue(self, what: str) -> PredictionQueue:
        self.session._refuse_unless_open(what)
        return self.session._queue
