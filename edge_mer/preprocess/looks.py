"""How faces and the scenes around them look, so that one person can be told from another.

A look holds the gradients of the upper face, which speech leaves alone, and the colours of the whole face,
both cut out aligned by the eyes. Looks are compared, never shown, kept or sent.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mer.errors import DataError, MissingError

Point = tuple[float, float]
Eyes = tuple[Point, Point]
Box = tuple[float, float, float, float]
Floats = NDArray[np.float32]

CONTINUOUS_NS = 600_000_000
"""Two frames farther apart than this are not continuous."""

_MAX_LOOKS = 12
_NOVEL = 0.94
"""A look less like all remembered ones than this stays remembered."""

_LEAST_WEIGHT = 0.5
_FOLLOW_AT_ONCE = 0.12
"""Eyes that moved by this part of their distance or more are not smoothed."""

_SCENE_SIZE = (32, 24)
_SCENE_NOISE = 6.0
"""Grey levels; differences of this size say nothing."""

LOOK_AGAIN_NS = 1_000_000_000
"""A face is looked at anew after so long, however little its picture changes.

Of six people who spoke before a camera, 4 % of 25 frames per second were looked at, and 7 % of 15: that is
once a second, and hardly more often.
"""

_GLANCE_SIZE = (16, 16)
_GLANCE_INNER = slice(2, 14), slice(2, 14)
_SAME_BOX = 0.6
"""Least overlap (intersection over union) of a detector's boxes of a face that keeps still; 0.79 was seen."""

# Measured on the same six people: whatever a detector's boxes did, pictures at one place were alike by 0.990
# and more from one frame to the next (25 per second), by 0.976 after 80 ms and 0.970 after 240 ms; after a
# second 0.904, and 8 % below 0.97. Of any two people at the very same place, the likest two frames of all
# were alike by 0.897, and by 0.905 where one was also moved and resized to be as like as can be; as
# silhouettes before a bright wall by 0.956 (there it is the inner part that tells them apart).
_SAME_PICTURE = 0.97
"""Least likeness of the picture at a face's place to that when it was looked at, if nothing has changed."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Scene:
    """A thumbnail of a whole picture, the picture's width and height, and the faces in it."""

    thumbnail: Pixels
    size_px: tuple[int, int]
    boxes_px: tuple[Box, ...]

    @classmethod
    def of(cls, frame: Pixels, boxes_px: Iterable[Box]) -> Scene:
        """Of a frame, (height, width, 3) uint8 RGB, and its faces."""
        height, width = frame.shape[:2]
        return cls(_thumbnail(frame, _SCENE_SIZE, 2), (width, height), tuple(boxes_px))

    def change(self, before: Scene) -> float:
        """How much changed around the faces: 0 for nothing, 1 for scenes with nothing in common."""
        if self.size_px != before.size_px:
            return 1.0
        around = self._around((*before.boxes_px, *self.boxes_px))
        return _change(self.thumbnail, before.thumbnail, around)

    def _around(self, boxes: tuple[Box, ...]) -> Pixels:
        """1 where the thumbnail shows no head, else 0; 1 everywhere if the heads leave next to nothing."""
        across, down = _SCENE_SIZE
        around = np.ones((down, across), np.uint8)
        for x, y, width, height in boxes:
            left, right = ((x + part * width) * across / self.size_px[0] for part in (-0.2, 1.2))
            top, bottom = ((y + part * height) * down / self.size_px[1] for part in (-0.4, 1.2))
            rows = slice(max(0, int(top)), max(0, int(bottom) + 1))
            around[rows, max(0, int(left)) : max(0, int(right) + 1)] = 0
        return around if 8 * cv2.countNonZero(around) >= around.size else np.ones_like(around)


@dataclass(frozen=True)
class Glance:
    """What the place of a face showed when it was looked at.

    Attributes:
        t_ns: When.
        box_px: Where: x, y, width, height in pixels of the frame.
        pictures: What, coarsely: all of it, and its inner part; vectors of length 1.
    """

    t_ns: int
    box_px: Box
    pictures: tuple[Floats, Floats]

    @classmethod
    def at(cls, frame: Pixels, box_px: Box, t_ns: int) -> Glance:
        """At a face in a frame, (height, width, 3) uint8 RGB."""
        return cls(t_ns, box_px, _pictures(frame, box_px))

    def still_shows(self, frame: Pixels, box_px: Box, t_ns: int) -> bool:
        """Whether a face in a later frame of the same size is the one that was there, by its picture.

        The same place is compared, not the detector's newest box, which trembles more than people do.
        """
        if t_ns - self.t_ns > LOOK_AGAIN_NS or intersection_over_union(box_px, self.box_px) < _SAME_BOX:
            return False
        pairs = zip(_pictures(frame, self.box_px), self.pictures, strict=True)
        return all(float(now @ before) >= _SAME_PICTURE for now, before in pairs)


def _pictures(frame: Pixels, box_px: Box) -> tuple[Floats, Floats]:
    """Of a box as far as it lies in the frame, and of the face alone: a bright wall may outshine it."""
    height, width = frame.shape[:2]
    x, y, wide, tall = box_px
    left, top = min(max(0, int(x)), width - 1), min(max(0, int(y)), height - 1)
    inside = frame[top : max(top + 1, int(y + tall)), left : max(left + 1, int(x + wide))]
    colours = _thumbnail(inside, _GLANCE_SIZE, 1).astype(np.float32)
    return _unit(colours), _unit(colours[_GLANCE_INNER])


def _thumbnail(picture: Pixels, size: tuple[int, int], n_halvings: int) -> Pixels:
    """(down, across, 3) of a few of a picture's pixels: it must be the same for the same, not beautiful.

    Halving is many times faster than any other ratio.
    """
    across, down = size
    for n in range(n_halvings, -1, -1):
        way = cv2.INTER_NEAREST if n == n_halvings else cv2.INTER_AREA
        picture = np.asarray(cv2.resize(picture, (across << n, down << n), interpolation=way), np.uint8)
    return picture


def _change(now: Pixels, before: Pixels, mask: Pixels) -> float:
    """Half the mean square by which two thumbnails differ: 0 for the same, 1 for nothing in common.

    Each channel is taken without its mean and of deviation 1: light and its colour may change.
    """
    products = cv2.multiply(now, before, dtype=cv2.CV_32F)  # exact, and so are their sums
    total = 0.0
    channels = zip(_moments(now, mask), _moments(before, mask), cv2.mean(products, mask)[:3], strict=True)
    for (mean, deviation), (old_mean, old_deviation), product in channels:
        scale, old_scale = (1 / math.hypot(found, _SCENE_NOISE) for found in (deviation, old_deviation))
        shared = (product - mean * old_mean) * scale * old_scale
        total += (deviation * scale) ** 2 + (old_deviation * old_scale) ** 2 - 2 * shared
    return max(0.0, total / 6)


def _moments(thumbnail: Pixels, mask: Pixels) -> list[tuple[float, float]]:
    """Mean and deviation of each channel, where the mask is not 0."""
    means, deviations = cv2.meanStdDev(thumbnail, mask=mask)
    return list(zip(means.ravel().tolist(), deviations.ravel().tolist(), strict=True))


@dataclass(frozen=True)
class Look:
    """How a face looks: two vectors of length 1."""

    shape: Floats
    colour: Floats

    def likeness(self, other: Look) -> float:
        """1 for the same look."""
        return float(self.shape @ other.shape + self.colour @ other.colour) / 2


class KnownLooks:
    """The looks of one person: the newest, and earlier ones that differed."""

    def __init__(self) -> None:
        self._is_newest_novel = True
        self._shapes = self._colours = np.zeros((0, 0), np.float32)

    def __len__(self) -> int:
        return len(self._shapes)

    def likeness(self, look: Look) -> float:
        """Of the likest known look; 0 when none is known."""
        if not len(self):
            return 0.0
        return float((self._shapes @ look.shape + self._colours @ look.colour).max()) / 2

    def shape_likeness(self, shape: Floats) -> float:
        """The same by the shape alone."""
        return float((self._shapes @ shape).max())

    def remember(self, look: Look, likeness: float) -> None:
        """Keep a look, in place of the newest unless that was novel; `likeness` is that of the new one."""
        stays, self._is_newest_novel = self._is_newest_novel, likeness < _NOVEL
        if not stays:
            self._shapes[-1], self._colours[-1] = look.shape, look.colour
            return
        if not len(self):
            self._shapes, self._colours = look.shape[np.newaxis].copy(), look.colour[np.newaxis].copy()
            return
        kept = [0, *range(2, len(self))] if len(self) == _MAX_LOOKS else slice(None)
        self._shapes = np.vstack([self._shapes[kept], look.shape])
        self._colours = np.vstack([self._colours[kept], look.colour])


_Pose = tuple[float, float, float, float]
"""Shift to the right and down in distances of the eyes, size, turn in radians."""

_AS_FOUND: _Pose = (0.0, 0.0, 1.0, 0.0)
_POSE_STEPS = (0.07, 0.07, 0.08, 0.07)
_HEAD_PX = 96
_HEAD_EYES = (complex(32, 44), complex(64, 44))
_HEAD_EYES_PX = 32.0
"""Distance of the eyes in the upright head that looks are made of."""

_HEAD_REACH = 1.65
"""From between the eyes to the upright head's farthest edge, in distances of the eyes."""

_HALF_PIXEL = complex(0.5, 0.5)


class LookMaker:
    """Makes looks of faces."""

    _SIDE_PX = 64
    _BLUR_PX = 1.5
    _SHAPE_EYES: Eyes = ((0.25, 0.5), (0.75, 0.5))
    _COLOUR_BLUR_PX = 2.0
    _COLOUR_EYES: Eyes = ((0.28, 0.35), (0.72, 0.35))
    _COLOUR_CELLS = (16, 16)

    def __init__(self) -> None:
        if not hasattr(cv2, "HOGDescriptor"):
            raise MissingError(
                "faces cannot be told apart with this OpenCV",
                expected="OpenCV 4, which has histograms of oriented gradients",
                found=f"OpenCV {cv2.__version__}",
                hint="pip install 'opencv-python-headless>=4.8,<5'",
            )
        self._hog = cv2.HOGDescriptor((self._SIDE_PX, self._SIDE_PX), (16, 16), (8, 8), (8, 8), 9)

    def likest(
        self, frame: NDArray[np.uint8], eyes: Eyes, known: KnownLooks, enough: float
    ) -> tuple[Look, float]:
        """The look of a face, aligned so that it is likest to known ones, and how like them it is.

        Detectors place eyes a few percent differently from frame to frame, which would make one
        person look different; so the alignment may move by as much where it is not like `enough`.
        """
        head = _upright_head(frame, eyes)
        look = self._look(head, _AS_FOUND)
        likeness = known.likeness(look)
        if not known or likeness >= enough:
            return look, likeness
        best = known.shape_likeness(look.shape), _AS_FOUND
        for part in (1.0, 0.5):
            for axis in (1, 0, 2, 3):
                step = part * _POSE_STEPS[axis]
                poses = [_moved(best[1], axis, sign * step) for sign in (-1, 1)]
                tried = [(known.shape_likeness(self._shape(head, pose)), pose) for pose in poses]
                best = max((best, *tried), key=itemgetter(0))
        look = self._look(head, best[1])
        return look, known.likeness(look)

    def _look(self, head: _Head, pose: _Pose) -> Look:
        return Look(self._shape(head, pose), self._colour(head, pose))

    def _shape(self, head: _Head, pose: _Pose) -> Floats:
        """Gradients of the upper face; light, blur and noise change them little."""
        grey = _cut(head.grey, pose, self._SIDE_PX, self._SHAPE_EYES)
        grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), self._BLUR_PX), np.float32)
        low, high = float(grey.min()), float(grey.max())
        stretched = np.rint((grey - low) * (255 / max(high - low, 1.0))).astype(np.uint8)
        return _unit(np.asarray(self._hog.compute(stretched), np.float32))

    def _colour(self, head: _Head, pose: _Pose) -> Floats:
        """Coarse colours of the face, without their common brightness."""
        colours = _cut(head.colours, pose, self._SIDE_PX, self._COLOUR_EYES)
        colours = np.asarray(cv2.GaussianBlur(colours, (0, 0), self._COLOUR_BLUR_PX), np.float32)
        cells = cv2.resize(colours, self._COLOUR_CELLS, interpolation=cv2.INTER_AREA)
        return _unit(np.asarray(cells, np.float32))


def _moved(pose: _Pose, axis: int, step: float) -> _Pose:
    across, down, size, turn = (value + step * (index == axis) for index, value in enumerate(pose))
    return across, down, size, turn


class _Head(NamedTuple):
    """(96, 96, 3) RGB and (96, 96) grey around a face, its eyes at `_HEAD_EYES`."""

    colours: Floats
    grey: Floats


def _upright_head(frame: NDArray[np.uint8], eyes: Eyes) -> _Head:
    left, right = complex(*eyes[0]), complex(*eyes[1])
    distance = max(1.0, abs(right - left))
    shrink = max(1, round(distance / _HEAD_EYES_PX))
    turn = (right - left) / distance
    reach_px = _HEAD_REACH * (abs(turn.real) + abs(turn.imag)) * distance + shrink + 1
    corner, piece = _piece(frame, (left + right) / 2, reach_px, shrink)
    if shrink > 1:  # by whole numbers, which is many times faster
        size = (max(1, piece.shape[1] // shrink), max(1, piece.shape[0] // shrink))
        piece = np.asarray(cv2.resize(piece, size, interpolation=cv2.INTER_AREA), np.uint8)
    placed = tuple((eye - corner + _HALF_PIXEL) / shrink - _HALF_PIXEL for eye in (left, right))
    colours = _warped(piece.astype(np.float32), similarity(_HEAD_EYES, (placed[0], placed[1])), _HEAD_PX)
    return _Head(colours, np.asarray(cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY), np.float32))


def _piece(
    frame: NDArray[np.uint8], middle: complex, reach_px: float, multiple: int
) -> tuple[complex, NDArray[np.uint8]]:
    """A square as far as it lies in the frame, of whole multiples of pixels, and its first pixel's place."""
    height, width = frame.shape[:2]
    x0 = min(max(0, int(middle.real - reach_px)), max(0, width - multiple))
    y0 = min(max(0, int(middle.imag - reach_px)), max(0, height - multiple))
    x1, y1 = min(width, int(middle.real + reach_px)), min(height, int(middle.imag + reach_px))
    wide, tall = ((stop - start) // multiple * multiple for start, stop in ((x0, x1), (y0, y1)))
    rows, columns = slice(y0, y0 + max(multiple, tall)), slice(x0, x0 + max(multiple, wide))
    return complex(x0, y0), frame[rows, columns]


def _cut(picture: Floats, pose: _Pose, side_px: int, eyes: Eyes) -> Floats:
    """A square of an upright head, the eyes at fractions of its side, were they where `pose` says."""
    across, down, size, turn_rad = pose
    middle = (_HEAD_EYES[0] + _HEAD_EYES[1]) / 2 + _HEAD_EYES_PX * complex(across, down)
    half = cmath.rect(_HEAD_EYES_PX * size / 2, turn_rad)
    targets = (complex(*eyes[0]) * side_px, complex(*eyes[1]) * side_px)
    return _warped(picture, similarity(targets, (middle - half, middle + half)), side_px)


def _warped(picture: Floats, transform: NDArray[np.float64], side_px: int) -> Floats:
    """A square of a picture; what lies outside it continues its edge."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    square = cv2.warpAffine(
        picture, transform, (side_px, side_px), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(square, np.float32)


def _unit(values: Floats) -> Floats:
    """Flat, without its mean, of length 1."""
    flat = values.ravel()
    centred = flat - flat.sum() / np.float32(flat.size)
    return np.asarray(centred / np.float32(max(math.sqrt(float(centred @ centred)), 1e-6)), np.float32)


def similarity(source: tuple[complex, complex], target: tuple[complex, complex]) -> NDArray[np.float64]:
    """(2, 3): turn, size and shift that take two source points to two target points."""
    if source[0] == source[1] or target[0] == target[1]:
        raise DataError("a face cannot be aligned", expected="two different eyes", found="one point for both")
    turn = (target[1] - target[0]) / (source[1] - source[0])
    shift = target[0] - turn * source[0]
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def intersection_over_union(a: Box, b: Box) -> float:
    """How far two boxes overlap, 0 to 1."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def eyes_in_frame(eyes_in_box: Eyes, box: Box) -> Eyes:
    """From fractions of a box to pixels of the frame."""
    left, right = ((box[0] + x * box[2], box[1] + y * box[3]) for x, y in eyes_in_box)
    return left, right


def eyes_in_box(eyes_px: Eyes, box: Box) -> Eyes:
    """From pixels of the frame to fractions of a box."""
    left, right = (((x - box[0]) / box[2], (y - box[1]) / box[3]) for x, y in eyes_px)
    return left, right


def smoothed(before: Eyes, now: Eyes) -> Eyes:
    """Eyes that hardly moved follow slowly, for most of that is the detector's noise; others at once."""
    distance = max(math.dist(*now), 1.0)
    left, right = (
        _blend(old, new, math.dist(old, new) / distance / _FOLLOW_AT_ONCE)
        for old, new in zip(before, now, strict=True)
    )
    return left, right


def _blend(old: Point, new: Point, weight: float) -> Point:
    weight = min(1.0, max(_LEAST_WEIGHT, weight))
    return old[0] + weight * (new[0] - old[0]), old[1] + weight * (new[1] - old[1])
