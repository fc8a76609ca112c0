"""What all cameras have in common: a thread that captures, pictures that are stamped and counted."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S, Clock
from edge_mer.errors import EdgeMerError, MissingError
from edge_mer.sources.camera_settings import to_ns
from edge_mer.sources.capture import CaptureThread, Put
from edge_mer.types.signals import Chunk, StreamSpec, TimeBasis

MAX_PICTURES = 8
"""So many wait to be read; then the oldest go."""

OPEN_TIMEOUT_MS = 5_000
"""A camera that shows no picture within this time is not there."""

STOP_TIMEOUT_S = 3.0

MAX_AGE_NS = NS_PER_S // 2
"""Pictures that a driver stamped longer ago than this are refused as old."""


@dataclass(frozen=True)
class Picture:
    """What a camera saw.

    Attributes:
        pixels: RGB (height, width, 3) uint8.
        t_ns: When, host monotonic nanoseconds, the camera's own latency not yet taken off.
        arrived_ns: When it came, on the same clock.
        time_basis: Whose stamp `t_ns` is.
    """

    pixels: NDArray[np.uint8]
    t_ns: int
    arrived_ns: int
    time_basis: TimeBasis = "arrival"


See = Callable[[Picture], None]


@dataclass
class CameraCounts:
    """What became of the pictures since the camera was opened.

    Attributes:
        n_seen: Pictures that were captured and not old.
        n_stale: Pictures that had waited too long somewhere, and were left out.
        n_corrupt: Pictures that could not be decoded.
        n_dropped: Pictures that nobody read soon enough.
    """

    n_seen: int = 0
    n_stale: int = 0
    n_corrupt: int = 0
    n_dropped: int = 0


class LiveCamera(ABC):
    """A camera as a source with one stream "NAME/visual" of RGB pictures (height, width, 3) uint8.

    It is open once it has shown a picture; those from before `start` are left out. Its size may change at
    any time.

    Args:
        uri: Opens it again.
        name: How messages and its stream call it; without a password.
        latency_ms: Its own fixed latency.
        clock: Stamps what comes.
    """

    is_live = True
    ended = False

    def __init__(self, uri: str, name: str, latency_ms: Fraction, clock: Clock) -> None:
        self._uri, self._name, self._clock = uri, name, clock
        self._latency_ns = to_ns(latency_ms)
        self._thread: CaptureThread | None = None
        self._stop = threading.Event()
        self._started = threading.Event()
        self._failure: EdgeMerError | None = None
        self._counts = CameraCounts()
        self._rate_hz: float | None = None
        self._mode = ""
        self._spec: StreamSpec | None = None

    @property
    def uri(self) -> str:
        """The URI that opens this camera again."""
        return self._uri

    @property
    def specs(self) -> tuple[StreamSpec, ...]:
        """The one stream; valid after `ensure_ready`."""
        return () if self._spec is None else (self._spec,)

    @property
    def mode(self) -> str:
        """What it delivers, e.g. "640 x 480 at 30 Hz, MJPEG"; valid after `ensure_ready`."""
        return self._mode

    @property
    def counts(self) -> CameraCounts:
        """What became of the pictures since `ensure_ready`."""
        if self._thread is not None:
            self._counts.n_dropped = self._thread.n_dropped
        return self._counts

    def ensure_ready(self) -> None:
        """Open it and wait for a picture, at most `OPEN_TIMEOUT_MS`.

        Raises:
            MissingError: No such camera, not allowed to open it, in use, or silent.
            DataError: It is there, and what it delivers cannot be used.
        """
        if self._thread is not None:
            return
        self._stop, self._started = threading.Event(), threading.Event()
        self._failure, self._counts = None, CameraCounts()
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.ensure_stopped)
            self._thread = CaptureThread(self._work, self._name, MAX_PICTURES)
            first = self._thread.read(OPEN_TIMEOUT_MS)
            if first is None:
                raise self._silent()
            self._spec = self._described()
            self._mode = self._mode_of(*first.data.shape[:2])
            on_failure.pop_all()

    def start(self) -> None:
        """Begin to deliver.

        Raises:
            MissingError: As `ensure_ready`.
            DataError: As `ensure_ready`.
        """
        self.ensure_ready()
        self._started.set()

    def read(self, timeout_ms: int) -> Chunk | None:
        """The next picture; None where none came within `timeout_ms`.

        Raises:
            LostError: The camera is gone.
            RuntimeError: Not started.
        """
        if self._thread is None or not self._started.is_set():
            raise RuntimeError(f"{self._name} must be started before it is read")
        if self._failure is not None:
            raise self._failure
        try:
            return self._thread.read(timeout_ms)
        except EdgeMerError as failure:
            self._failure = failure
            raise

    def ensure_stopped(self) -> None:
        """Let go of the camera; harmless when it is not held."""
        if self._thread is None:
            return
        self._stop.set()
        self._interrupt()
        self._thread.stop(STOP_TIMEOUT_S)
        self._counts.n_dropped = self._thread.n_dropped
        self._thread = None

    @abstractmethod
    def _capture(self, see: See, stop: threading.Event) -> None:
        """Open the camera, set `_rate_hz`, and hand on pictures until `stop`; runs in a thread of its own.

        Raises:
            LostError: It is gone.
            MissingError: As `ensure_ready`.
            DataError: As `ensure_ready`.
        """

    def _interrupt(self) -> None:  # noqa: B027 (most look often enough)
        """Make `_capture` notice that `stop` is set, where it waits for the device."""

    @abstractmethod
    def _mode_of(self, height_px: int, width_px: int) -> str:
        """What it delivers, and what was asked for where that is something else."""

    def _silent(self) -> MissingError:
        return MissingError(
            f"{self._name}: no picture came",
            expected=f"one within {OPEN_TIMEOUT_MS // 1000} s",
            hint="check that the camera is on and not in use by another program",
        )

    def _work(self, put: Put, _: threading.Event) -> None:
        stop, started, counts = self._stop, self._started, self._counts
        seq = 0

        def see(picture: Picture) -> None:
            nonlocal seq
            counts.n_seen += 1
            if counts.n_seen > 1 and not started.is_set():
                return
            put(self._chunk(picture, seq))
            seq += started.is_set()

        self._capture(see, stop)

    def _chunk(self, picture: Picture, seq: int) -> Chunk:
        return Chunk(
            stream=f"{self._name}/visual",
            modality="visual",
            seq=seq,
            t_ns=picture.t_ns - self._latency_ns,
            data=picture.pixels,
            time_basis=picture.time_basis,
            arrived_ns=picture.arrived_ns,
        )

    def _described(self) -> StreamSpec:
        return StreamSpec(
            name=f"{self._name}/visual",
            modality="visual",
            axes=("height", "width", "channel"),
            shape=(None, None, 3),
            dtype="uint8",
            rate_hz=self._rate_hz,
            unit="rgb24",
            channels=("r", "g", "b"),
        )
