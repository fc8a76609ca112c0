"""The frames of one step become a normalised clip of one person's aligned face."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mer.preprocess.face import Face, FaceDetector, FaceTracker, crop_transform
from edge_mer.preprocess.image import Crop
from edge_mer.preprocess.quality import Quality, of_face
from edge_mer.types.model import FaceClip


@dataclass(frozen=True)
class ClipReport:
    """What one clip shows.

    Attributes:
        coverage: Share of the clip's frames that show the person's face.
        newest_ns: Capture time of the newest of them.
        n_unaligned: How many could not be aligned as the model declares.
        switched: The person is another one than in the steps before.
        quality: What was wrong with most of the frames that came and could not be used; None if all could.
    """

    coverage: float
    newest_ns: int | None
    n_unaligned: int
    switched: bool
    quality: Quality | None = None


class FaceClipMaker:
    """Stateful: follows one face through the session.

    Args:
        spec: The clip that the model declares.
        detector: Finds faces.
        gates: Leave out faces that are too small or too blurred.
    """

    def __init__(self, spec: FaceClip, detector: FaceDetector, *, gates: bool = True) -> None:
        self._spec, self._gates = spec, gates
        self._tracker = FaceTracker(detector, spec.alignment)
        self._person: int | None = None
        self._last: tuple[int, Face | None] | None = None

    def make(
        self,
        frames: Sequence[tuple[int, NDArray[np.uint8]] | None],
        write: Callable[[Sequence[Crop | None]], None],
    ) -> ClipReport:
        """Find the faces of a clip and have them written.

        The clip belongs to the person that most of its frames show; frames of another person
        count as missing, and so do faces that are too small or too blurred to be read.

        Args:
            frames: (capture time in ns, (height, width, 3) uint8 RGB) or None, oldest first.
            write: Takes the clip's crops, oldest first; None = missing.
        """
        faces = [None if frame is None else self._face(*frame) for frame in frames]
        person = self._majority(faces)
        switched = person is not None and self._person is not None and person != self._person
        self._person = self._person if person is None else person
        crops: list[Crop | None] = []
        troubles: Counter[Quality] = Counter()
        for frame, face in zip(frames, faces, strict=True):
            crop = None
            if frame is not None and face is not None and face.person == person:
                crop = Crop(frame[1], self._transform(face))
            trouble = None if frame is None else self._trouble(crop, face)
            troubles.update([] if trouble is None else [trouble])
            crops.append(crop if trouble is None else None)
        write(crops)
        used = [face for face, crop in zip(faces, crops, strict=True) if crop is not None]
        times = [frame[0] for frame, crop in zip(frames, crops, strict=True) if frame and crop]
        return ClipReport(
            coverage=len(times) / len(frames),
            newest_ns=max(times, default=None),
            n_unaligned=sum(face is not None and not face.aligned for face in used),
            switched=switched,
            quality=troubles.most_common(1)[0][0] if troubles else None,
        )

    def _trouble(self, crop: Crop | None, face: Face | None) -> Quality | None:
        if face is None:
            return "no_face"
        if crop is None or not self._gates:
            return None
        return of_face(crop.frame, crop.transform, self._spec.size_px)

    def _transform(self, face: Face) -> NDArray[np.float64]:
        return crop_transform(face, self._spec.alignment, self._spec.size_px)

    def _face(self, t_ns: int, pixels: NDArray[np.uint8]) -> Face | None:
        """A slow camera's frame may stand at two places of a clip; it is searched once."""
        if self._last is None or self._last[0] != t_ns:
            self._last = (t_ns, self._tracker.track(pixels, t_ns))
        return self._last[1]

    def _majority(self, faces: list[Face | None]) -> int | None:
        """The person in most frames; of two with as many, the one that was there before."""
        counts = Counter(face.person for face in faces if face is not None)
        if not counts:
            return None
        return min(counts, key=lambda person: (-counts[person], person))
