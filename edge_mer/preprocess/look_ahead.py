"""Faces are searched as frames come, so that a step that is complete need not wait for that."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_mer.preprocess.face import Detection, FaceDetector

MAX_HELD = 32
"""Frames that were searched and not asked for yet, as many as a clip may have."""


class LookAheadDetector:
    """A detector that may search a frame before it is asked what is in it. For one thread at a time.

    Args:
        inner: Who searches.
    """

    def __init__(self, inner: FaceDetector) -> None:
        self._inner, self.name = inner, inner.name
        self._held: dict[int, tuple[NDArray[np.uint8], list[Detection]]] = {}
        self._answered: NDArray[np.uint8] | None = None

    def look_ahead(self, frame: NDArray[np.uint8]) -> None:
        """Search a frame, (height, width, 3) uint8 RGB, that will be asked for."""
        if frame is self._answered or id(frame) in self._held:
            return
        self._held[id(frame)] = frame, self._inner.detect(frame)
        if len(self._held) > MAX_HELD:
            del self._held[next(iter(self._held))]

    def detect(self, frame: NDArray[np.uint8]) -> list[Detection]:
        """All faces of one frame, (height, width, 3) uint8 RGB; frames before it are not asked for again."""
        _, found = self._held.get(id(frame)) or (frame, self._inner.detect(frame))
        while id(frame) in self._held:
            del self._held[next(iter(self._held))]
        self._answered = frame
        return found
