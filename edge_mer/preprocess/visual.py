"""The frames of one step become a normalised clip of one person's aligned face."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
        own = [face if face is not None and face.person == person else None for face in faces]
        seen = [face is not None for face in faces]
        report = write_faces(self._spec, frames, own, write, gates=self._gates, seen=seen)
        return replace(report, switched=switched)

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


def write_faces(
    spec: FaceClip,
    frames: Sequence[tuple[int, NDArray[np.uint8]] | None],
    faces: Sequence[Face | None],
    write: Callable[[Sequence[Crop | None]], None],
    *,
    gates: bool,
    seen: Sequence[bool] | None = None,
) -> ClipReport:
    """Have a clip of one person's faces written.

    Args:
        spec: The clip that the model declares.
        frames: (capture time in ns, (height, width, 3) uint8 RGB) or None, oldest first.
        faces: The person's face in each; None = missing.
        write: Takes the clip's crops, oldest first; None = missing.
        gates: Leave out faces that are too small or too blurred.
        seen: Whether anybody's face was in a frame, which is then not without one; None: the person's own.
    """
    crops: list[Crop | None] = []
    troubles: Counter[Quality] = Counter()
    for index, (frame, face) in enumerate(zip(frames, faces, strict=True)):
        crop, trouble = None, None
        if frame is not None and face is not None:
            crop = Crop(frame[1], crop_transform(face, spec.alignment, spec.size_px))
            trouble = of_face(crop.frame, crop.transform, spec.size_px) if gates else None
        elif frame is not None and not (seen is not None and seen[index]):
            trouble = "no_face"
        if trouble is not None:
            troubles[trouble] += 1
        crops.append(crop if trouble is None else None)
    write(crops)
    used = [face for face, crop in zip(faces, crops, strict=True) if face is not None and crop is not None]
    times = [frame[0] for frame, crop in zip(frames, crops, strict=True) if frame and crop]
    return ClipReport(
        coverage=len(times) / len(frames),
        newest_ns=max(times, default=None),
        n_unaligned=sum(not face.aligned for face in used),
        switched=False,
        quality=troubles.most_common(1)[0][0] if troubles else None,
    )
