"""The frames of one step become a normalised clip of the whole picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_mer.errors import UsageError
from edge_mer.preprocess.face import FaceDetector
from edge_mer.preprocess.image import Crop
from edge_mer.preprocess.quality import is_black
from edge_mer.preprocess.visual import ClipReport, FaceClipMaker
from edge_mer.types.model import Clip, FaceClip, SceneClip


class SceneClipMaker:
    """Shrinks or grows each frame until it just fits, and centres it.

    Args:
        spec: The clip that the model declares.
        gates: Leave out pictures that show nothing.
    """

    def __init__(self, spec: SceneClip, *, gates: bool = True) -> None:
        self._spec, self._gates = spec, gates

    def make(
        self,
        frames: Sequence[tuple[int, NDArray[np.uint8]] | None],
        write: Callable[[Sequence[Crop | None]], None],
    ) -> ClipReport:
        """Fit the pictures of a clip and have them written; a black one counts as missing.

        Args:
            frames: (capture time in ns, (height, width, 3) uint8 RGB) or None, oldest first.
            write: Takes the clip's crops, oldest first; None = missing.
        """
        shown = [None if frame is None or (self._gates and is_black(frame[1])) else frame for frame in frames]
        write([None if frame is None else self._fitted(frame[1]) for frame in shown])
        times = [frame[0] for frame in shown if frame is not None]
        return ClipReport(
            coverage=len(times) / len(frames),
            newest_ns=max(times, default=None),
            n_unaligned=0,
            switched=False,
            quality="black" if any(a is not b for a, b in zip(frames, shown, strict=True)) else None,
        )

    def _fitted(self, frame: NDArray[np.uint8]) -> Crop:
        return Crop(frame, fit_transform(frame.shape[:2], self._spec.shape_px))


def clip_maker(
    spec: Clip, detector: FaceDetector | None, *, gates: bool = True
) -> FaceClipMaker | SceneClipMaker:
    """What makes the clips that a model declares.

    Args:
        spec: Of faces or of scenes.
        detector: Finds faces; scenes need none.
        gates: Leave out what cannot be read.

    Raises:
        UsageError: Faces are looked at, and there is no detector.
    """
    if isinstance(spec, SceneClip):
        return SceneClipMaker(spec, gates=gates)
    if not isinstance(spec, FaceClip):
        raise TypeError(f"a clip of neither faces nor scenes: {spec}")
    if detector is None:
        raise UsageError("the model looks at faces, and no face detector was given")
    return FaceClipMaker(spec, detector, gates=gates)


def fit_transform(frame_px: tuple[int, ...], clip_px: tuple[int, int]) -> NDArray[np.float64]:
    """The similarity from a clip's pixels to a frame's that shows all of the frame, centred.

    Args:
        frame_px: Height and width.
        clip_px: Height and width.

    Returns:
        (2, 3) matrix; pixel centres lie at whole coordinates.
    """
    scale = max(frame_px[0] / clip_px[0], frame_px[1] / clip_px[1])
    x = (frame_px[1] - scale * clip_px[1]) / 2 + (scale - 1) / 2
    y = (frame_px[0] - scale * clip_px[0]) / 2 + (scale - 1) / 2
    return np.array([[scale, 0.0, x], [0.0, scale, y]])
