"""Frames by number: those that were recorded at 30 fps, else those of a grid of 30 fps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.errors import UsageError
from edge_mer.preprocess.face import FaceDetector, FaceTracker, crop_transform
from edge_mer.preprocess.image import crop, normalise_into
from edge_mer.sync.frames import Frame
from edge_mer.types.model import FaceClip, to_ns
from edge_mer.types.signals import Chunk, StreamSpec

GRID_FPS = 30
_NEAR_FPS = 0.1
"""A camera so near to it counts as one of 30 fps; 30000/1001 is one."""

_ROUNDING_NS = 1_000
"""The end of the last frame is known no better."""


@dataclass(frozen=True)
class Count:
    """The next frame by number.

    Attributes:
        t_ns: Its time.
        frame: What was captured then; None where no frame is near enough.
    """

    t_ns: int
    frame: Frame | None


class Counting(Protocol):
    """Gives numbers to what a camera captured."""

    def push(self, frame: Frame) -> Iterator[Count]:
        """Take a captured frame; the counted ones that are certain now."""
        ...

    def finish(self) -> Iterator[Count]:
        """The rest."""
        ...


def place(chunk: Chunk) -> Frame:
    """A chunk of a picture as a frame."""
    return Frame(chunk.t_ns, chunk.data.astype(np.uint8, copy=False))


def counting(stream: StreamSpec, clip: FaceClip, notes: list[str]) -> Counting:
    """How the frames of a stream are counted.

    Args:
        stream: Of pictures.
        clip: Says how far from its nominal time a frame may be.
        notes: Told when it is not by the frames themselves.
    """
    if stream.rate_hz is not None and abs(stream.rate_hz - GRID_FPS) <= _NEAR_FPS:
        return AsRecorded()
    rate = "no fixed rate" if stream.rate_hz is None else f"{stream.rate_hz:g} fps"
    notes.append(f"The picture has {rate}: its frames were taken by time from a grid of {GRID_FPS} fps.")
    return OnGrid(to_ns(clip.frame_tolerance) + 1, stream.rate_hz or GRID_FPS)


class AsRecorded:
    """Every captured frame is the next one."""

    def push(self, frame: Frame) -> Iterator[Count]:
        """The frame itself."""
        yield Count(frame.t_ns, frame)

    def finish(self) -> Iterator[Count]:
        """Nothing."""
        return iter(())


class OnGrid:
    """For every point of the grid the nearest captured frame.

    Args:
        tolerance_ns: None is taken from farther away.
        rate_hz: Captured frames per second, which says how long the last one stands.
    """

    def __init__(self, tolerance_ns: int, rate_hz: float) -> None:
        self._tolerance_ns = tolerance_ns
        self._period_ns = round(NS_PER_S / rate_hz)
        self._last: Frame | None = None
        self._n = 0

    def push(self, frame: Frame) -> Iterator[Count]:
        """The points that lie nearer to the frame before."""
        before, self._last = self._last, frame
        if before is not None:
            yield from self._up_to(before, (before.t_ns + frame.t_ns) // 2)

    def finish(self) -> Iterator[Count]:
        """The points for as long as the last frame stands."""
        if self._last is not None:
            yield from self._up_to(self._last, self._last.t_ns + self._period_ns - _ROUNDING_NS)
            self._last = None

    def _up_to(self, frame: Frame, t_ns: int) -> Iterator[Count]:
        while (at_ns := self._n * NS_PER_S // GRID_FPS) <= t_ns:
            is_near = abs(at_ns - frame.t_ns) <= self._tolerance_ns
            yield Count(at_ns, frame if is_near else None)
            self._n += 1


@dataclass(frozen=True)
class Picture:
    """The followed face in a counted frame.

    Attributes:
        t_ns: When it was captured.
        skew_ns: From the time of its number to its capture.
        pixels: (3, size, size) float32, normalised.
        is_aligned: The eyes are not only estimated.
        person: Counts persons from 0.
    """

    t_ns: int
    skew_ns: int
    pixels: NDArray[np.float32]
    is_aligned: bool
    person: int


class Pictures:
    """Follows one face through the counted frames.

    Args:
        detector: Finds faces.
        clip: What the model looks at.
        model: Its name.

    Raises:
        UsageError: There is no detector.
    """

    def __init__(self, detector: FaceDetector | None, clip: FaceClip, model: str) -> None:
        if detector is None:
            raise UsageError(f"model {model} looks at faces, and no face detector was given")
        self._clip = clip
        self._tracker = FaceTracker(detector, clip.alignment)
        self._last: tuple[int, Picture | None] | None = None

    def of(self, count: Count) -> Picture | None:
        """The face; None where it is not seen. A captured frame that counts twice is searched once."""
        frame = count.frame
        if frame is None:
            return None
        if self._last is None or self._last[0] != frame.t_ns:
            self._last = (frame.t_ns, self._search(frame, frame.t_ns - count.t_ns))
        return self._last[1]

    def _search(self, frame: Frame, skew_ns: int) -> Picture | None:
        face = self._tracker.track(frame.pixels, frame.t_ns)
        if face is None:
            return None
        size = self._clip.size_px
        pixels = np.empty((3, size, size), np.float32)
        transform = crop_transform(face, self._clip.alignment, size)
        normalise_into(crop(frame.pixels, transform, size), self._clip, pixels)
        return Picture(frame.t_ns, skew_ns, pixels, face.aligned, face.person)
