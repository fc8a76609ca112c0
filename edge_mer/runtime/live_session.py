"""A session in a thread of its own, read by a program while it runs."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from edge_mer.bundle.read import Bundle
from edge_mer.clock import NS_PER_S, Clock
from edge_mer.errors import UsageError
from edge_mer.runtime.opening import Opened
from edge_mer.runtime.pipeline import Counters
from edge_mer.runtime.pipeline_setup import PipelineSetup
from edge_mer.runtime.prediction_queue import PredictionQueue
from edge_mer.runtime.recording import SessionRecording, open_recording
from edge_mer.runtime.session import SessionHooks, SessionReport, is_live, run_session
from edge_mer.runtime.switching import SwitchingPipeline, Trial
from edge_mer.runtime.window import Relief
from edge_mer.sinks.recorder import Recorder
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Modality

_log = logging.getLogger(__name__)

PredictionCallback = Callable[[Prediction], None]
"""What is called with each prediction, on the session's own thread."""


class Session:
    """Predictions from sources while they come, made by `edge_mer.open_session`.

    A thread of its own reads the sources, runs the model and feeds sinks and callbacks. Use it as a
    context manager; entering it opens sources and sinks and raises what they have to say against
    it, leaving it stops the thread, closes the sinks and joins. Whatever ended the session early is
    raised once: by the loop over it, by `wait`, or on leaving.

    Iterating gives each prediction once, in order, and ends with the recordings. Between thread and
    loop lies a bounded queue. A live session never waits for the loop: when the queue is full, the
    oldest prediction is dropped and counted in `n_dropped`. A session of recordings waits, so
    nothing is lost, unless it is not meant to be iterated: with callbacks, and once `wait` or
    `latest` was called, only the newest predictions are kept until a loop begins.

    Args:
        opened: Bundle, engines, sources, sinks.
        clock: Where the time comes from.
        fast: Play recordings as fast as they go.
        max_queue: Predictions that may wait for the loop.
        callbacks: Called with each prediction, in this order.
        record: A new file that keeps the session.
        redacted: Of these modalities it keeps features only.
        switchable: `propose` may be used.
    """

    def __init__(
        self,
        opened: Opened,
        clock: Clock,
        *,
        fast: bool = False,
        max_queue: int = 64,
        callbacks: Sequence[PredictionCallback] = (),
        record: Path | None = None,
        redacted: Sequence[Modality] = (),
        switchable: bool = False,
    ) -> None:
        self._opened = opened
        self._is_switchable = switchable
        self._switching: SwitchingPipeline | None = None
        self._record, self._redacted = record, redacted
        self._recording: SessionRecording | None = None
        self._clock = clock
        self._fast = fast
        self._report = SessionReport()
        self._is_live = is_live(opened.sources)
        self._queue = PredictionQueue(max_queue, is_live=self._is_live)
        self._callbacks: list[PredictionCallback] = []
        self._latest: dict[str | None, tuple[Prediction, int]] = {}
        self._failure: BaseException | None = None
        self._stop_asked = threading.Event()
        self._settled = threading.Event()
        self._is_playing = False
        self._is_closed = False
        self._reading_thread: int | None = None
        self._thread: threading.Thread | None = None
        for callback in callbacks:
            self.on_prediction(callback)

    # -- what it is ------------------------------------------------------------------------------

    @property
    def bundle(self) -> Bundle:
        """What it runs."""
        return self._opened.bundle

    @property
    def precision(self) -> str:
        """The candidate that it runs, e.g. "fp32"."""
        return self._opened.choice.precision

    @property
    def is_live(self) -> bool:
        """Whether its sources are sensors, which cannot wait."""
        return self._is_live

    @property
    def is_running(self) -> bool:
        """Whether more predictions may come."""
        return self._thread is not None and not self._queue.has_ended

    @property
    def report(self) -> SessionReport:
        """Predictions per status and reason so far; it keeps growing while the session runs."""
        return self._report

    @property
    def counters(self) -> Counters:
        """What the pipeline counted so far: steps, late data, gaps, the unfinished last step."""
        return self._report.counters

    @property
    def n_dropped(self) -> int:
        """Predictions that the loop was too slow to get; 0 when there never was a loop."""
        return self._queue.n_dropped

    @property
    def recorder(self) -> Recorder | None:
        """What keeps the session in a file: what it has and left out, and why it failed; None: nothing."""
        return None if self._recording is None else self._recording.recorder

    # -- its life --------------------------------------------------------------------------------

    def on_prediction(self, callback: PredictionCallback) -> PredictionCallback:
        """Have `callback` called with each prediction, in the session's thread.

        A slow callback delays the predictions after it, and their `latency_ms` says so; one that
        takes longer than a step belongs behind a queue of its own, or into the loop. When it
        raises, the session ends, its sinks keep what they have, and the error is raised to
        whoever uses the session.

        Args:
            callback: An ordinary function of one prediction.

        Returns:
            The same callback, so that this serves as a decorator.

        Raises:
            UsageError: The session has started, or the callback cannot be called like that.
        """
        if self._thread is not None or self._is_closed:
            raise UsageError("a callback came too late", expected="on_prediction before the session starts")
        if inspect.iscoroutinefunction(callback) or not callable(callback):
            raise UsageError(
                f"{callback!r} cannot be called with a prediction",
                expected="an ordinary function of one prediction",
                hint="coroutines iterate over open_session_async",
            )
        self._callbacks.append(callback)
        self._queue.expect_no_reader()
        return callback

    def start(self) -> None:
        """Open sources and sinks and begin; `with` does it for you.

        Raises:
            DataError: A source cannot be used.
            UsageError: A sink cannot be written to, the streams do not fit the model, or the
                session was started before.
        """
        if self._thread is not None or self._is_closed:
            raise UsageError("a session can be started once", hint="open another session")
        self._thread = threading.Thread(target=self._work, name="edge-mer session", daemon=False)
        self._thread.start()
        try:
            self._settled.wait()
        except BaseException:  # Ctrl-C while a source opens: nobody would ever leave the block
            self._end()
            raise
        if not self._is_playing:
            self._end()
            self._raise_failure()

    def stop(self) -> None:
        """Ask the session to end; returns at once, and may be called from any thread or callback.

        It ends within the time that its source takes for one `read` and one step of work. A loop
        still gets what was predicted before.
        """
        self._stop_asked.set()
        self._queue.stop()

    def wait(self) -> None:
        """Return when the recordings have ended or the session was stopped; for use without a loop.

        Raises:
            EdgeMerError: Whatever ended the session early; an error of your own source, sink or
                callback comes as it was raised.
            UsageError: The session is not running, or this thread iterates over it.
        """
        self._refuse_unless_open("be waited for")
        if self._reading_thread == threading.get_ident():
            raise UsageError("a session cannot be waited for in the loop over it", hint="let the loop end")
        self._queue.expect_no_reader()
        self._queue.wait_for_end()
        self._raise_failure()

    def close(self) -> None:
        """Stop, close the sinks, join the thread; leaving `with` does it for you. Harmless twice.

        Raises:
            EdgeMerError: What ended the session early, if nobody was told yet; an error of your own
                source, sink or callback comes as it was raised.
        """
        self._end()
        self._raise_failure()

    def __enter__(self) -> Session:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        if error is None:
            self._raise_failure()
            return
        failure, self._failure = self._failure, None
        if error.__context__ is None and failure is not error:
            error.__context__ = failure  # what left the block counts; this may have led to it

    def propose(self, setup: PipelineSetup) -> Trial:
        """Have other engines take over between two hops, if they do as well beside those that serve.

        Args:
            setup: What they are; whoever proposes it closes the losers' engines once the trial is over.

        Returns:
            How it goes.

        Raises:
            UsageError: The session has not started, or was not made for it, or keeps features of its bundle.
        """
        if self._switching is None:
            raise UsageError(
                "this session cannot change what it runs",
                expected="a session that runs, was made switchable, and records nothing redacted",
            )
        return self._switching.propose(setup)

    def relieve(self, relief: Relief) -> None:
        """Spare the device from the next hop on: predictions are `degraded`, and their reasons say how.

        Args:
            relief: How; `Relief()` spares it no more.

        Raises:
            UsageError: As `propose`; or nothing would be left.
        """
        if self._switching is None:
            raise UsageError("this session cannot spare its device", expected="one that was made switchable")
        self._switching.relieve(relief)

    # -- what comes out --------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Prediction]:
        self._refuse_unless_open("be iterated")
        self._queue.begin_reading()
        return self._read()

    def _read(self) -> Iterator[Prediction]:
        self._reading_thread = threading.get_ident()
        try:
            while (prediction := self._queue.take()) is not None:
                yield prediction
        finally:
            self._reading_thread = None
            self._queue.end_reading()
        self._raise_failure()

    def latest(self, max_age_ms: float, person: str | None = None) -> Prediction | None:
        """The newest prediction, if it is new enough; never waits and never raises the session's error.

        Its age is counted from the moment it is for (`t_end_ns`), by the session's clock. In a
        session that plays a recording as fast as it goes, it is counted from when it was made. A
        withheld prediction counts as any other: look at its status.

        Args:
            max_age_ms: The oldest that is of use, in milliseconds.
            person: Whom it is about, such as "p1"; None: anybody, which of several is not what you want.

        Returns:
            The prediction, or None when there is none or the newest one is older, and of people who are gone.

        Raises:
            UsageError: `max_age_ms` is not positive.
        """
        if not max_age_ms > 0:
            raise UsageError("max_age_ms is no age", expected="more than 0", found=str(max_age_ms))
        self._queue.expect_no_reader()
        found = self._latest
        told = found.get(person) if person is not None else next(reversed(found.values()), None)
        if told is None:
            return None
        prediction, since_ns = told
        age_ns = self._clock.now_ns() - since_ns
        return prediction if age_ns <= max_age_ms * NS_PER_S / 1000 else None

    # -- the thread ------------------------------------------------------------------------------

    def _work(self) -> None:
        opened = self._opened
        try:
            run_session(
                opened.setup,
                opened.sources,
                opened.sinks,
                self._clock,
                self._report,
                fast=self._fast,
                hooks=self._hooks(),
            )
        except BaseException as error:  # carried over to the thread that uses the session
            self._failure = self._failure or error
        finally:
            if self._recording is not None:
                self._recording.close()
            self._queue.end()
            self._settled.set()

    def _hooks(self) -> SessionHooks:
        own = SessionHooks(self._begin, self._deliver, self._stop_asked.is_set)
        if self._is_switchable and not self._redacted:
            own = replace(own, on_switchable=self._be_switchable)
        if self._record is None:
            return own
        self._recording = recording = open_recording(
            self._record,
            self._opened.sources,
            self._clock,
            self._report,
            _log.warning,
            beside=self._opened,
            redacted=self._redacted,
        )
        return recording.hooks.before(own)

    def _be_switchable(self, switching: SwitchingPipeline) -> None:
        self._switching = switching

    def _begin(self) -> None:
        self._is_playing = True
        self._settled.set()

    def _deliver(self, prediction: Prediction) -> None:
        start_ns = self._report.start_ns
        since_ns = self._clock.now_ns() if start_ns is None else start_ns + prediction.t_end_ns
        held = self._latest.items()  # made anew: other threads may be looking at it
        self._latest = {
            person: told
            for person, told in held
            if person != prediction.person and told[0].window_index >= prediction.window_index - 1
        } | {prediction.person: (prediction, since_ns)}
        if self._failure is None:
            self._call_back(prediction)
        self._queue.put(prediction)

    def _call_back(self, prediction: Prediction) -> None:
        try:
            for callback in self._callbacks:
                callback(prediction)
        except BaseException as error:  # the predictions are right: end as if stopped, sinks closed
            self._failure = error
            self.stop()

    def _end(self) -> None:
        if self._thread is threading.current_thread():
            raise UsageError("a session cannot be closed from its own callback", hint="call session.stop()")
        self.stop()
        if self._thread is not None:
            self._thread.join()
        self._opened.setup.close()
        self._is_closed = True
        self._queue.clear()

    def _refuse_unless_open(self, what: str) -> None:
        if self._is_closed or self._thread is None:
            raise UsageError(
                f"a session cannot {what} {'after it was closed' if self._is_closed else 'before it starts'}",
                hint="use it inside its `with` block",
            )
        if self._thread is threading.current_thread():
            raise UsageError(f"a session cannot {what} from its own callback")

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
