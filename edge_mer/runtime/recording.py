"""Records sessions: beside a model, or sources alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import edge_mer
from edge_mer.bundle.manifest import Manifest
from edge_mer.clock import NS_PER_S, Clock
from edge_mer.errors import UsageError
from edge_mer.runtime.clocks import RemoteClocks
from edge_mer.runtime.opening import Opened, refuse_to_overwrite
from edge_mer.runtime.pipeline import StepTrace
from edge_mer.runtime.session import (
    SessionHooks,
    SessionReport,
    check_pace,
    end_all,
    ensure_all_ready,
    is_live,
    timed_chunks,
)
from edge_mer.runtime.supervisor import health_of, supervised
from edge_mer.sinks.recorder import Recorder
from edge_mer.sources.base import Source
from edge_mer.types.predictions import Prediction
from edge_mer.types.recording import SessionInfo
from edge_mer.types.signals import Chunk, ClockOffset, Modality

REDACTABLE: dict[str, Modality] = {"faces": "visual", "voice": "audio", "words": "text"}
"""What need not be kept -> modality."""


def _nothing() -> None: ...


class SessionRecording:
    """One session's recording: opened before the session, told what happens by hooks, closed after it.

    `end_ns` is the session's time up to which chunks came.

    Args:
        path: A new file.
        sources: The session's.
        clock: The session's.
        report: The session's, which knows its zero once it has started.
        tell: Told in one sentence what the user must know, from any thread.
        bundle: What runs beside it, if anything does.
        redacted: Of these modalities it keeps the features of the bundle's encoders, and nothing else.
    """

    def __init__(
        self,
        path: Path,
        sources: Sequence[Source],
        clock: Clock,
        report: SessionReport,
        tell: Callable[[str], None],
        *,
        bundle: Manifest | None = None,
        redacted: Iterable[Modality] = (),
    ) -> None:
        self._sources, self._clock, self._report, self._bundle = sources, clock, report, bundle
        self._redacted = tuple(redacted)
        encoders = () if bundle is None else bundle.model.encoders
        self._encoders = [encoder for encoder in encoders if encoder.modality in self._redacted]
        waits = not is_live(sources)
        self.end_ns = 0
        self._heard_ns = None if waits else 0
        self.recorder = Recorder(path, clock, waits=waits, tell=tell)

    @property
    def target(self) -> Path:
        """The file."""
        return self.recorder.target

    def hooks_until(self, duration_ns: int | None, on_look: Callable[[], None] = _nothing) -> SessionHooks:
        """`hooks`, with an end: after a time, or when the file cannot be written any more.

        Args:
            duration_ns: The session's time at which to stop; None: at its end.
            on_look: Called again and again, at least every `READ_TIMEOUT_MS`.
        """

        def should_stop() -> bool:
            on_look()
            reached_ns = max(self.end_ns, self._now_ns() or 0)
            return self.recorder.failure is not None or (
                duration_ns is not None and reached_ns >= duration_ns
            )

        return replace(self.hooks, should_stop=should_stop)

    @property
    def hooks(self) -> SessionHooks:
        """What tells it of the session."""
        return SessionHooks(
            on_start=self._begin,
            on_prediction=self._prediction,
            on_chunk=self._chunk,
            on_offset=self._offset,
            on_time=self._time,
            on_step=self._step if self._encoders else None,
        )

    def open(self) -> None:
        """Create the file.

        Raises:
            UsageError: There is such a file, or it cannot be written.
        """
        self.recorder.open()

    def close(self) -> None:
        """Complete the file; without a session it is taken away. Harmless twice."""
        self.recorder.close()

    def _begin(self) -> None:
        utc_ns = _since_1970_ns(self._clock)
        info = SessionInfo(
            edge_mer=edge_mer.__version__,
            bundle_id=None if self._bundle is None else self._bundle.bundle_id,
            utc_zero_ns=utc_ns - (self._now_ns() or 0),
            utc_synchronised=self._clock.is_utc_synchronised(),
            redacted=self._redacted,
            was_live=is_live(self._sources),
        )
        specs = [spec for source in self._sources for spec in source.specs]
        kept = [spec for spec in specs if spec.modality not in self._redacted]
        self.recorder.begin(kept, info, [encoder.stage for encoder in self._encoders])

    def _chunk(self, chunk: Chunk, given: Chunk) -> None:
        self.end_ns = max(self.end_ns, chunk.t_ns)
        if chunk.modality in self._redacted:
            return
        start_ns = self._report.start_ns
        arrived_ns = None
        if given.arrived_ns is not None and start_ns is not None:
            arrived_ns = given.arrived_ns - start_ns
        remote_ns = given.t_ns if given.time_basis == "remote" else None
        self.recorder.chunk(chunk, arrived_ns, remote_ns, self._heard_ns)

    def _time(self, heard_ns: int) -> None:
        self._heard_ns = heard_ns

    def _offset(self, look: ClockOffset) -> None:
        self.recorder.offset(replace(look, host_ns=look.host_ns - (self._report.start_ns or 0)))

    def _prediction(self, prediction: Prediction) -> None:
        now_ns = self._now_ns()
        self.recorder.prediction(prediction, prediction.t_end_ns if now_ns is None else now_ns)

    def _step(self, trace: StepTrace) -> None:
        if self._bundle is None:
            return
        model = self._bundle.model
        t_end_ns = model.step_end_ns(trace.index)
        for encoder in self._encoders:
            present = bool(trace.present[model.modalities.index(encoder.modality), -1])
            newest = trace.features[encoder.stage][0, -1]
            self.recorder.feature(encoder.stage, trace.index, t_end_ns, newest, present=present)

    def _now_ns(self) -> int | None:
        """The session's time; None when it runs ahead of any clock."""
        start_ns = self._report.start_ns
        return None if start_ns is None else self._clock.now_ns() - start_ns


def open_recording(
    to: Path,
    sources: Sequence[Source],
    clock: Clock,
    report: SessionReport,
    tell: Callable[[str], None],
    *,
    beside: Opened | None,
    redacted: Sequence[Modality],
) -> SessionRecording:
    """A recording whose file was made, and takes no other one's place.

    Args:
        to: The file.
        sources: What is recorded.
        clock: The session's.
        report: The session's.
        tell: Told in one sentence what the user must know, from any thread.
        beside: What runs beside it.
        redacted: Of these modalities it keeps features only.

    Raises:
        UsageError: There is such a file, it cannot be written, or something else is written there.
    """
    bundle, sinks = (None, ()) if beside is None else (beside.bundle, beside.sinks)
    manifest = None if bundle is None else bundle.manifest
    recording = SessionRecording(to, sources, clock, report, tell, bundle=manifest, redacted=redacted)
    refuse_to_overwrite([*sinks, recording], sources, None if bundle is None else bundle.path)
    recording.open()
    return recording


def checked_redact(words: Sequence[str]) -> list[Modality]:
    """Modalities that are not kept, of words such as "faces".

    Raises:
        UsageError: No such word.
    """
    if unknown := [word for word in words if word not in REDACTABLE]:
        raise UsageError(f"redact {unknown[0]!r} is unknown", expected=" or ".join(REDACTABLE))
    return [REDACTABLE[word] for word in words]


def record_sources(
    sources: Sequence[Source], clock: Clock, report: SessionReport, hooks: SessionHooks, *, fast: bool = False
) -> None:
    """Play sources to their end, or until stopped, without a model.

    Args:
        sources: Not yet opened.
        clock: Where the time comes from.
        report: Filled with the session's zero.
        hooks: Of a recording that is open.
        fast: Do not wait for the time at which a recorded source's data would have come.

    Raises:
        DataError: A source cannot be used.
        UsageError: Sources that do not go together.
        KeyboardInterrupt: As it came; everything is released.
    """
    failure: BaseException | None = None
    sources = supervised(sources, clock, NS_PER_S)
    clocks = RemoteClocks() if is_live(sources) else None
    report.sources = partial(health_of, sources)
    try:
        check_pace(sources, fast=fast)
        ensure_all_ready(sources)
        report.start_ns = None if fast else clock.now_ns()
        for source in sources:
            source.start()
        hooks.on_start()
        specs = {spec.name: spec for source in sources for spec in source.specs}
        for _ in timed_chunks(sources, specs, clock, report.start_ns, hooks, clocks):
            pass  # the hooks were told
    except BaseException as error:  # raised again once everything is released
        failure = error
    failure = end_all([source.ensure_stopped for source in sources], failure)
    if failure is not None:
        raise failure


def _since_1970_ns(clock: Clock) -> int:
    # In whole microseconds, as a datetime has them: a float has not enough digits.
    now = clock.utc()
    return int(now.replace(microsecond=0).timestamp()) * NS_PER_S + now.microsecond * 1000
