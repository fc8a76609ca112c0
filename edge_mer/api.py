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
from edge_mer.runtime.opening import Policies, open_all, open_shared
from edge_mer.runtime.recording import checked_redact
from edge_mer.runtime.shared_model import SharedModel
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


def open_model(
    bundle: str | PathLike[str] | Bundle,
    *,
    precision: str | None = None,
    max_batch: int | None = None,
    max_wait_ms: float = 0.0,
    engine: str | None = None,
    clock: Clock | None = None,
) -> SharedModel:
    """Open a bundle's engines once, for many sessions: `open_session` takes the model in a bundle's place.

    Steps of several sessions run as one batch where `edge-mer build-engine --max-batch` proved that it gives
    the same numbers, and measured that it saves time here. Elsewhere the sessions share the engines, each
    step for itself.

    Args:
        bundle: A bundle, or its folder; what is read of it is hashed.
        precision: The candidate to run instead of the chosen one, e.g. "fp32".
        max_batch: Batches of up to so many, whether that saves time or not, but not more than were proven; 1:
            none.
        max_wait_ms: So long each stage waits for other sessions while its engine is free. What comes while it
            runs is gathered in any case, so that 0 serves latency, and more only fuller batches.
        engine: A server that runs the stages, as of `open_session`; it makes batches itself.
        clock: Where the time comes from; the host's monotonic clock unless a test brings its own.

    Returns:
        The model; close it, or use it in a `with` block.

    Raises:
        UsageError: No such precision, or larger batches than were proven here.
        BundleError: The bundle is broken or altered.
        MissingError: An engine that is needed is not there, nor a server that nothing stands in for.
        ParityError: A server's numbers are not the bundle's.
    """
    named = bundle if isinstance(bundle, Bundle) else Path(bundle)
    return open_shared(named, precision, max_batch, max_wait_ms, clock or MonotonicClock(), engine)


def open_session(
    bundle: str | PathLike[str] | Bundle | SharedModel,
    *,
    sources: Sequence[str | Source],
    sinks: Sequence[str | Sink] = (),
    precision: str | None = None,
    missing: Policies | None = None,
    hop: int | None = None,
    face_detector: str | PathLike[str] | None = None,
    people: int | None = None,
    engine: str | None = None,
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
        bundle: A bundle, or its folder; what is read of it is hashed. Or a model that `open_model` opened.
        sources: URIs such as "file:clip.mp4", or objects that follow `edge_mer.Source`. Either all
            of them are live or none is.
        sinks: URIs such as "jsonl:out.jsonl", or objects that follow `edge_mer.Sink`.
        precision: The candidate to run instead of the chosen one, e.g. "fp32".
        missing: Modality -> policy that replaces the declared one, e.g. {"audio": "mask"}.
        hop: Steps between two predictions instead of those that the model declares.
        face_detector: YuNet's ONNX file; without it OpenCV's cascades find faces.
        people: Follow up to so many faces at once, 1 to 8, with predictions of their own for each, which say
            in `person` who it is; None follows one, as the models were made for.
        engine: A server that runs the stages, e.g. "triton://gpu-box:8001/jmt?deadline_ms=100". While it is
            away this device does, and predictions say so: `server_away`. None: this device runs them.
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
        MissingError: An engine or a file that is needed is not there, nor is a server that nothing stands in
            for.
        ParityError: A server's numbers are not the bundle's.
    """
    if redact and record is None:
        raise UsageError("redact says what a recording leaves out", hint="add record='session.mcap'")
    redacted = checked_redact(redact)
    opened = open_all(
        bundle if isinstance(bundle, (Bundle, SharedModel)) else Path(bundle),
        sources,
        sinks,
        precision=precision,
        missing=missing,
        hop=hop,
        face_detector=None if face_detector is None else Path(face_detector),
        people=people,
        engine=engine,
    )
    callbacks = [on_prediction] if callable(on_prediction) else list(on_prediction)
    session = Session(
        opened,
        clock or MonotonicClock(),
        fast=fast,
        max_queue=max_queue,
        callbacks=callbacks,
        record=None if record is None else Path(record),
        redacted=redacted,
    )
    if isinstance(bundle, SharedModel):
        bundle.close_with(session)
    return session


def open_session_async(
    bundle: str | PathLike[str] | Bundle | SharedModel,
    *,
    sources: Sequence[str | Source],
    sinks: Sequence[str | Sink] = (),
    precision: str | None = None,
    missing: Policies | None = None,
    hop: int | None = None,
    face_detector: str | PathLike[str] | None = None,
    people: int | None = None,
    engine: str | None = None,
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
            people=people,
            engine=engine,
            fast=fast,
            record=record,
            redact=redact,
            max_queue=max_queue,
            on_prediction=on_prediction,
            clock=clock,
        )

    return AsyncSession(make)
