"""Face detectors that come with OpenCV: YuNet, a small network, and the Haar cascades.

YuNet needs its ONNX file; it also sees faces half in profile. The cascades come with OpenCV 4 and see
frontal faces. Both search a copy of the frame scaled down to a fixed number of pixels, so that their
time does not grow with the camera's resolution.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mer.errors import DataError, EdgeMerError, MissingError
from edge_mer.preprocess.face import TYPICAL_EYES, Detection, FaceDetector
from edge_mer.preprocess.looks import Box, Eyes, Point

_FACES = "haarcascade_frontalface_alt2.xml"
"""Of OpenCV's frontal cascades the fastest, and the one with the fewest false faces."""

_EYES = "haarcascade_eye.xml"

_SYSTEM_CASCADES = (Path("/usr/share/opencv4/haarcascades"), Path("/usr/local/share/opencv4/haarcascades"))
"""Where Linux distributions and JetPack put the cascades."""

_INSTALL = "pip install 'opencv-python-headless>=4.8,<5'"
_MAX_ONNX_BYTES = 16 << 20
_BILINEAR = cv2.INTER_LINEAR_EXACT
"""OpenCV's plain one differs by up to two grey levels between processors, which moves eyes by a pixel."""

_EYES_MIDDLE = tuple((left + right) / 2 for left, right in zip(*TYPICAL_EYES, strict=True))


def open_face_detector(yunet_path: Path | None = None) -> FaceDetector:
    """YuNet when its ONNX file is given, else OpenCV's cascades for faces and eyes.

    Args:
        yunet_path: The ONNX file of YuNet; None = cascades.

    Raises:
        MissingError: The file is not there, or this OpenCV has no cascades.
        DataError: The file is not YuNet.
    """
    return CascadeDetector(_cascade_folder()) if yunet_path is None else YuNetDetector(yunet_path)


def _cascade_folder() -> Path:
    """Where this OpenCV's cascades are."""
    if not hasattr(cv2, "CascadeClassifier"):
        raise _no_cascades(f"OpenCV {cv2.__version__}, which has none", _INSTALL)
    data = getattr(cv2, "data", None)
    folders = ([Path(data.haarcascades)] if data is not None else []) + list(_SYSTEM_CASCADES)
    for folder in folders:
        if all((folder / name).is_file() for name in (_FACES, _EYES)):
            return folder
    found = f"not both {_FACES} and {_EYES} in any of {', '.join(map(str, folders))}"
    raise _no_cascades(found, f"{_INSTALL}, or give the ONNX file of YuNet")


def _no_cascades(found: str, hint: str) -> EdgeMerError:
    return MissingError(
        "OpenCV's face cascades are missing",
        expected="OpenCV 4 with its cascade files",
        found=found,
        hint=hint,
    )


class YuNetDetector:
    """YuNet through OpenCV; may be shared by threads.

    Args:
        path: Its ONNX file.

    Raises:
        MissingError: There is no such file.
        DataError: It is not YuNet.
    """

    name = "yunet"

    _MAX_PIXELS = 110_000
    _MIN_SCORE = 0.7
    _MAX_OVERLAP = 0.3
    _MAX_FACES = 32
    _MAX_SLOPE = 1.0
    """Of the line through the eyes: a head tilted by 45 degrees."""

    _WIDTH_TO_SIDE = 1.334
    """Side of a frontal cascade's box for the same face, in widths of YuNet's box."""

    _EYES_HEIGHT = 0.384
    """Where the eyes lie in YuNet's box, in its heights from the top."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        if not path.is_file():
            raise MissingError(
                f"there is no face detector {path}",
                expected="the ONNX file of YuNet",
                hint="give its right path, or none to use OpenCV's cascades",
            )
        if path.stat().st_size > _MAX_ONNX_BYTES:
            raise self._refusal(path, f"{path.stat().st_size} bytes")
        try:
            self._net = cv2.FaceDetectorYN.create(
                str(path), "", (64, 64), self._MIN_SCORE, self._MAX_OVERLAP, self._MAX_FACES
            )
            self.detect(np.zeros((64, 64, 3), np.uint8))
        except cv2.error as error:
            raise self._refusal(path, _reason(error)) from error

    @staticmethod
    def _refusal(path: Path, found: str) -> EdgeMerError:
        return DataError(
            f"{path} is no face detector that OpenCV can run",
            expected="the ONNX file of YuNet, about 0.3 MB",
            found=found,
            hint="take face_detection_yunet_2023mar.onnx or yunet_n_640_640.onnx, whole and unchanged",
        )

    def detect(self, frame: NDArray[np.uint8]) -> list[Detection]:
        """All faces of one frame, (height, width, 3) uint8 RGB.

        Raises:
            DataError: The frame has another shape or type.
        """
        copy, steps = _scaled_down(_checked(frame), self._MAX_PIXELS)
        with self._lock:
            self._net.setInputSize((copy.shape[1], copy.shape[0]))
            rows = self._net.detect(cv2.cvtColor(copy, cv2.COLOR_RGB2BGR))[1]
        return (
            [] if rows is None else [self._detection([float(value) for value in row], steps) for row in rows]
        )

    def _detection(self, row: list[float], steps: Point) -> Detection:
        """From x, y, width, height, five landmarks (the eyes first) and score, in the copy."""
        x, y, width, height = _scaled_box((row[0], row[1], row[2], row[3]), steps)
        side = self._WIDTH_TO_SIDE * width
        box = (x + (width - side) / 2, y + self._EYES_HEIGHT * height - _EYES_MIDDLE[1] * side, side, side)
        left, right = sorted(_scaled_point((row[i], row[i + 1]), steps) for i in (4, 6))
        eyes = (left, right)
        return Detection(box, row[14], eyes if _plausible(eyes, box, self._MAX_SLOPE) else None)


class CascadeDetector:
    """OpenCV's Haar cascades for frontal faces and for eyes; may be shared by threads.

    Args:
        folder: Holds the cascades' XML files.

    Raises:
        DataError: OpenCV cannot read them.
    """

    name = "haar"

    _MAX_PIXELS = 64_000
    _SCALE_STEP = 1.2
    _MIN_NEIGHBOURS = 4
    _MIN_SIZE_PX = 24
    """In the scaled copy."""

    _NEIGHBOURS_OF_HALF_SCORE = 8
    _EYE_FACE_PX = 96
    """Side to which a face is scaled for the search for its eyes."""

    _EYE_STRIP = (0.15, 0.60)
    """Where eyes are searched, in heights of the box."""

    _EYE_BLUR_PX = 0.8
    """Against the noise of dark pictures."""

    _EYE_SIZE_PX = (16, 36)
    _EYE_SCALE_STEP = 1.15
    _EYE_MIN_NEIGHBOURS = 2
    _MAX_SLOPE = 0.35
    """Of the line through the eyes; frontal cascades miss heads tilted by more than about 20 degrees."""

    _UNLIKELY_OFFSET = 0.06
    """An eye so far from its typical place (in sides) counts e times fewer neighbours."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._faces = self._load(folder / _FACES)
        self._eyes = self._load(folder / _EYES)

    @staticmethod
    def _load(path: Path) -> cv2.CascadeClassifier:
        try:
            cascade = cv2.CascadeClassifier(str(path))
            found = "no cascade" if cascade.empty() else None
        except (cv2.error, SystemError) as error:  # OpenCV's constructor turns its own error into that
            found = _reason(error.__cause__ or error)
        if found is not None:
            raise DataError(
                f"OpenCV cannot read the cascade {path}",
                expected="a cascade file of OpenCV 4",
                found=found,
                hint="install opencv-python-headless again, or give the ONNX file of YuNet",
            )
        return cascade

    def detect(self, frame: NDArray[np.uint8]) -> list[Detection]:
        """All faces of one frame, (height, width, 3) uint8 RGB.

        Raises:
            DataError: The frame has another shape or type.
        """
        grey = np.asarray(cv2.cvtColor(_checked(frame), cv2.COLOR_RGB2GRAY), np.uint8)
        copy, steps = _scaled_down(grey, self._MAX_PIXELS)
        with self._lock:
            found = self._search(_stretched(copy))
            if not found:
                # a dark face before a bright window
                found = self._search(np.asarray(cv2.equalizeHist(copy), np.uint8))
            return [self._detection(grey, _scaled_box(box, steps), n) for box, n in found]

    def _search(self, copy: NDArray[np.uint8]) -> list[tuple[Box, int]]:
        """Boxes in the scaled copy, and how many finds each of them joins."""
        smallest = (self._MIN_SIZE_PX, self._MIN_SIZE_PX)
        found = self._faces.detectMultiScale2(copy, self._SCALE_STEP, self._MIN_NEIGHBOURS, minSize=smallest)
        return [_box_and_count(box, n) for box, n in zip(*found, strict=True)]

    def _detection(self, grey: NDArray[np.uint8], box: Box, neighbours: int) -> Detection:
        score = neighbours / (neighbours + self._NEIGHBOURS_OF_HALF_SCORE)
        return Detection(box, score, self._likeliest_pair(self._find_eyes(grey, box), box))

    def _find_eyes(self, grey: NDArray[np.uint8], box: Box) -> list[tuple[Point, int]]:
        """Centres of what looks like an eye in a face's box, and how many finds each of them joins."""
        x, y, width, height = box
        x0, x1 = max(0, round(x)), min(grey.shape[1], round(x + width))
        y0, y1 = (min(max(0, round(y + part * height)), grey.shape[0]) for part in self._EYE_STRIP)
        scale = self._EYE_FACE_PX / width
        size = (round((x1 - x0) * scale), round((y1 - y0) * scale))
        smallest, largest = self._EYE_SIZE_PX
        if min(size) < smallest:
            return []
        way = cv2.INTER_AREA if scale < 1 else _BILINEAR
        strip = cv2.resize(grey[y0:y1, x0:x1], size, interpolation=way)
        strip = _stretched(np.asarray(cv2.GaussianBlur(strip, (0, 0), self._EYE_BLUR_PX), np.uint8))
        found = self._eyes.detectMultiScale2(
            strip,
            self._EYE_SCALE_STEP,
            self._EYE_MIN_NEIGHBOURS,
            minSize=(smallest, smallest),
            maxSize=(largest, largest),
        )
        steps = ((x1 - x0) / size[0], (y1 - y0) / size[1])
        spots = (_box_and_count(spot, n) for spot, n in zip(*found, strict=True))
        return [(_centre(_scaled_box(spot, steps), (x0, y0)), n) for spot, n in spots]

    def _likeliest_pair(self, spots: list[tuple[Point, int]], box: Box) -> Eyes | None:
        pairs = [
            (min(self._weight(a, box, 0), self._weight(b, box, 1)), (a[0], b[0]))
            for a, b in itertools.permutations(spots, 2)
            if _plausible((a[0], b[0]), box, self._MAX_SLOPE)
        ]
        return max(pairs)[1] if pairs else None

    def _weight(self, spot: tuple[Point, int], box: Box, side: int) -> float:
        """Log of the finds that a spot joins, less where eyes are unlikely."""
        (x, y), neighbours = spot
        typical = TYPICAL_EYES[side]
        offset = math.hypot((x - box[0]) / box[2] - typical[0], (y - box[1]) / box[3] - typical[1])
        return math.log(max(1, neighbours)) - offset / self._UNLIKELY_OFFSET


def _checked(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame, contiguous."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
        raise DataError(
            "a frame cannot be searched for faces",
            expected="(height, width, 3) uint8 RGB",
            found=f"{frame.shape} {frame.dtype}",
        )
    return np.ascontiguousarray(frame)


def _scaled_down(picture: NDArray[np.uint8], max_pixels: int) -> tuple[NDArray[np.uint8], Point]:
    """A copy of at most about `max_pixels`, and how many pixels one of its pixels spans across and down."""
    height, width = picture.shape[:2]
    scale = math.sqrt(max_pixels / (height * width))
    if scale >= 0.95:
        return picture, (1.0, 1.0)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    copy = picture
    while copy.shape[0] >= 2 * size[1] and copy.shape[1] >= 2 * size[0]:
        # means of 2 x 2 pixels: many times faster than areas of any size
        half = (copy.shape[1] // 2, copy.shape[0] // 2)
        copy = np.asarray(cv2.resize(copy, half, interpolation=_BILINEAR), np.uint8)
    copy = np.asarray(cv2.resize(copy, size, interpolation=cv2.INTER_AREA), np.uint8)
    return copy, (width / size[0], height / size[1])


def _stretched(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same with more contrast: cascades pass over windows that deviate by less than 10 grey levels."""
    share = np.cumsum(np.bincount(grey.ravel(), minlength=256)) / grey.size
    low, high = (float(level) for level in np.searchsorted(share, (0.01, 0.99)))
    if high - low >= 200:
        return grey
    levels = np.clip((np.arange(256) - low) * (255 / max(high - low, 8.0)), 0, 255)
    return np.asarray(cv2.LUT(grey, levels.astype(np.uint8)), np.uint8)


def _box_and_count(box: Sequence[int], count: int) -> tuple[Box, int]:
    """OpenCV's integers as Python's."""
    x, y, width, height = (float(value) for value in box)
    return (x, y, width, height), int(count)


def _scaled_box(box: Box, steps: Point) -> Box:
    return box[0] * steps[0], box[1] * steps[1], box[2] * steps[0], box[3] * steps[1]


def _centre(box: Box, corner: tuple[int, int]) -> Point:
    """Of a box whose origin is the corner of a pixel; pixel centres at integers."""
    return corner[0] + box[0] + box[2] / 2 - 0.5, corner[1] + box[1] + box[3] / 2 - 0.5


def _scaled_point(point: Point, steps: Point) -> Point:
    """A pixel of the scaled copy in the frame; pixel centres at integers in both."""
    return (point[0] + 0.5) * steps[0] - 0.5, (point[1] + 0.5) * steps[1] - 0.5


def _plausible(eyes: Eyes, box: Box, max_slope: float) -> bool:
    """Whether two eyes can belong to a face, turned to the camera enough to be aligned by them."""
    across, down = eyes[1][0] - eyes[0][0], eyes[1][1] - eyes[0][1]
    distance = math.hypot(across, down) / box[2]
    middle = ((eyes[0][0] + eyes[1][0]) / 2, (eyes[0][1] + eyes[1][1]) / 2)
    sideways = abs((middle[0] - box[0]) / box[2] - _EYES_MIDDLE[0])
    level = abs((middle[1] - box[1]) / box[3] - _EYES_MIDDLE[1])
    return 0.22 <= distance <= 0.55 and abs(down) <= max_slope * across and max(sideways, level) <= 0.2


def _reason(error: BaseException) -> str:
    """What OpenCV says, without its file and line."""
    return str(getattr(error, "err", None) or error)
