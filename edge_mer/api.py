"""The Python API: a bundle and streams in, predictions out; all of it is also at `edge_mer`."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.clock import Clock, MonotonicClock
from edge_mer.errors import UsageError
from edge_mer.runtime.async_session import AsyncSession
from edge_mer.runtime.live_session import PredictionCallback, Session
from edge_mer.runtime.opening import Policies, open_all
from edge_mer.runtime.recording import checked_redact
from edge_mer.sinks.base import Sink
from edge_mer.sources.base import Source

MAX_QUEUE = 64
"""Predictions that wait for a loop unless another number is asked for."""


def load_bundle(path: str | PathLike[str]) -> Bundle:
    """Open a bundle and hash every file of it.

    Args:
        path: The bundle's folder.

    Returns:
        The bundle, with `name`, `modalities`, `outputs`, `precisions`, `step_s`, `hop_s`, `window_s`,
        `latency_s`, `bundle_id`, and all that it declares in `manifest`.

    Raises:
        BundleError: No bundle, or it was altered.
    """
    bundle = open_bundle(Path(path))
    bundle.check_files()
    return bundle


def open_session(
    bundle: str | PathLike[str] | Bundle,
    *,
    sources: Sequence[str | Source],
    sinks: Sequence[str | Sink] = (),
    precision: str | None = None,
    missing: Policies | None = None,
    hop: int | None = None,
    face_detector: str | PathLike[str] | None = None,
    fast: bool = False,
    record: str | PathLike[str] | None = None,
    redact: Sequence[str] = (),
    max_queue: int = MAX_QUEUE,
    on_prediction: PredictionCallback | Sequence[PredictionCallback] = (),
    clock: Clock | None = None,
) -> Session:
    """Make a session, which starts when its `with` block is entered.

    The engine is the one that `edge-mer build-engine` chose for this bundle here, else fp32.

    Args:
        bundle: A bundle, or its folder; what is read of it is hashed.
        sources: URIs such as "file:clip.mp4", or objects that follow `edge_mer.Source`. Either all
            of them are live or none is.
        sinks: URIs such as "jsonl:out.jsonl", or objects that follow `edge_mer.Sink`.
        precision: The candidate to run instead of the chosen one, e.g. "fp32".
        missing: Modality -> policy that replaces the declared one, e.g. {"audio": "mask"}.
        hop: Steps between two predictions instead of those that the model declares.
        face_detector: YuNet's ONNX file; without it OpenCV's cascades find faces.
        fast: Play recordings as fast as they go, not at their own pace.
        record: A new file, e.g. "session.mcap", that keeps what sources give, faces and voices too.
        redact: Of "faces", "voice" and "words", what the recording keeps as features only.
        max_queue: Predictions that may wait for the loop; 1 or more.
        on_prediction: One callback or several, called with each prediction in the session's thread.
        clock: Where the time comes from; the host's monotonic clock unless a test brings its own.

    Returns:
        The session; nothing was read or written yet.

    Raises:
        UsageError: Something asked for cannot be carried out, or a sink would overwrite a source, another
            sink or the bundle.
        BundleError: The bundle is broken or altered.
        MissingError: An engine or a file that is needed is not there.
    """
    if redact and record is None:
        raise UsageError("redact says what a recording leaves out", hint="add record='session.mcap'")
    redacted = checked_redact(redact)
    opened = open_all(
        bundle if isinstance(bundle, Bundle) else Path(bundle),
        sources,
        sinks,
        precision=precision,
        missing=missing,
        hop=hop,
        face_detector=None if face_detector is None else Path(face_detector),
    )
    callbacks = [on_prediction] if callable(on_prediction) else list(on_prediction)
    return Session(
        opened,
        clock or MonotonicClock(),
        fast=fast,
        max_queue=max_queue,
        callbacks=callbacks,
        record=None if record is None else Path(record),
        redacted=redacted,
    )


def open_session_async(
    bundle: str | PathLike[str] | Bundle,
    *,
    sources: Sequence[str | Source],
    sinks: Sequence[str | Sink] = (),
    precision: str | None = None,
    missing: Policies | None = None,
    hop: int | None = None,
    face_detector: str | PathLike[str] | None = None,
    fast: bool = False,
    record: str | PathLike[str] | None = None,
    redact: Sequence[str] = (),
    max_queue: int = MAX_QUEUE,
    on_prediction: PredictionCallback | Sequence[PredictionCallback] = (),
    clock: Clock | None = None,
) -> AsyncSession:
    """Make a session for asyncio; arguments as for `open_session`.

    Bundle and engines are opened when `async with` is entered, in a helper thread; that is where the
    errors come from which `open_session` raises at once.
    """

    def make() -> Session:
        return open_session(
            bundle,
            sources=sources,
            sinks=sinks,
            precision=precision,
            missing=missing,
            hop=hop,
            face_detector=face_detector,
            fast=fast,
            record=record,
            redact=redact,
            max_queue=max_queue,
            on_prediction=on_prediction,
            clock=clock,
        )

    return AsyncSession(make)
