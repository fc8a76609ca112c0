"""One face is followed through a session, and it is noticed when another person takes its place.

Who somebody is, is judged by a look: the gradients of the upper face, which speech leaves alone, and
the colours of the whole face, both cut out aligned by the eyes. The looks of the followed person are
remembered. How like them a new one must be depends on how the face came there: gradually, after an
absence, or with a sudden change of the scene around it.
"""

from __future__ import annotations

import cmath
import math
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.errors import DataError, MissingError
from edge_mer.types.model import FaceAlignment

Point = tuple[float, float]
Eyes = tuple[Point, Point]
Box = tuple[float, float, float, float]
Floats = NDArray[np.float32]

MIN_FACE_PX = 24.0
"""Smaller faces are not followed."""

TYPICAL_EYES: Eyes = ((0.324, 0.382), (0.680, 0.374))
"""Where eyes lie in a detector's box, (x, y) in fractions of its sides."""

# Measured on video of six people, all frontal: looks of one person are alike by 0.946 and more, of two
# people by 0.83 at most. Blur, noise and changing light left the former above 0.85.
SAME_IF_STEADY = 0.80
"""Least likeness to the person's looks while face and scene change gradually; less must come twice."""

SAME_AFTER_CHANGE = 0.86
"""Least likeness when the face was away, jumped, or the scene around it changed a little at once."""

SAME_AFTER_CUT = 0.92
"""Least likeness when the scene around the face became another one at once."""

_SCENE_CHANGE, _SCENE_CUT = 0.012, 0.05
"""From where on a scene has changed a little, and so much that it is another one (`_Scene.change`)."""

_SUDDEN = 4.0
"""A change is sudden when it is so many times what is usual; a camera that moves changes all the time."""

_USUAL_FRAMES = 5
_CONTINUOUS_NS = 600_000_000
"""Two frames farther apart than this are not continuous."""

_PATIENCE_NS = 600_000_000
"""So long a lost person is waited for while somebody else is in the picture."""

_UNSURE_PATIENCE_NS = 2_000_000_000
"""The same when the detector is not sure of somebody else, or finds no eyes."""

_SURE_SCORE = 0.5
_SAME_PLACE = 0.3
"""Least overlap (intersection over union) of boxes at the same place."""

_MAX_CANDIDATES = 4
_MAX_LOOKS = 12
_NOVEL = 0.94
"""A look less like all remembered ones than this stays remembered."""

_CLEARLY = 0.05
"""So much more likeness than needed, and no better alignment is searched."""

_LEAST_WEIGHT = 0.5
_FOLLOW_AT_ONCE = 0.12
"""Eyes that moved by this part of their distance or more are not smoothed."""


@dataclass(frozen=True)
class Detection:
    """A face that a detector found in one frame; pixel centres lie at integers.

    Attributes:
        box_px: x, y, width, height in pixels of the frame: a square from above the brows to the chin,
            with the eyes about at `TYPICAL_EYES`. It may reach over the frame's edges.
        score: How sure the detector is, 0 to 1.
        eyes_px: Centres of the eye at the picture's left and of that at its right, (x, y) each; None
            when they were not found.
    """

    box_px: Box
    score: float
    eyes_px: Eyes | None


class FaceDetector(Protocol):
    """Finds faces in single frames.

    Attributes:
        name: A short name for records, e.g. "haar".
    """

    name: str

    def detect(self, frame: NDArray[np.uint8]) -> list[Detection]:
        """All faces of one frame, (height, width, 3) uint8 RGB, in any order."""
        ...


@dataclass(frozen=True)
class Face:
    """The followed face in one frame; pixel centres lie at integers.

    Attributes:
        box_px: x, y, width, height in pixels of the frame.
        left_eye_px: Centre of the eye at the picture's left, (x, y).
        right_eye_px: Centre of the eye at the picture's right, (x, y).
        aligned: False when the eyes are only estimated from the box.
        person: Counts persons from 0; one more whenever another person takes the place.
    """

    box_px: Box
    left_eye_px: Point
    right_eye_px: Point
    aligned: bool
    person: int


def crop_transform(face: Face, alignment: FaceAlignment, size_px: int) -> NDArray[np.float64]:
    """The similarity that puts a face's eyes where a model wants them.

    Args:
        face: The face in its frame.
        alignment: Where the eyes belong; the fraction f of the crop's side is its pixel f * size_px.
        size_px: Side of the square crop, in pixels.

    Returns:
        (2, 3): crop pixel (x, y, 1) -> frame pixel (x, y); pixel centres at integers in both.

    Raises:
        DataError: Both eyes lie at one point.
    """
    left, right = (complex(*eye) * size_px for eye in (alignment.left_eye, alignment.right_eye))
    return _similarity((left, right), (complex(*face.left_eye_px), complex(*face.right_eye_px)))


class FaceTracker:
    """Follows one face through a session: same frames, same results. For one thread at a time.

    Args:
        detector: Finds the faces of single frames.
        alignment: What the model declares; `eyes_max_age_s` says how old eye positions may be.

    Raises:
        MissingError: This OpenCV is not version 4.
    """

    def __init__(self, detector: FaceDetector, alignment: FaceAlignment) -> None:
        self._detector = detector
        self._eyes_max_age_ns = round(alignment.eyes_max_age_s * NS_PER_S)
        self._look_maker = _LookMaker()
        self.reset()

    def reset(self) -> None:
        """Forget everybody; the next face is person 0."""
        self._person = 0
        self._known = _KnownLooks()
        self._seen: _Seen | None = None
        self._least = SAME_IF_STEADY
        self._doubted: _Look | None = None
        self._changes: deque[float] = deque(maxlen=_USUAL_FRAMES)

    def track(self, frame: NDArray[np.uint8], t_ns: int) -> Face | None:
        """Find the followed face in the next frame.

        Args:
            frame: (height, width, 3) uint8 RGB.
            t_ns: When it was captured, in nanoseconds; frames come in the order of time.

        Returns:
            The face; None when the followed person is not seen and nobody has taken the place.

        Raises:
            DataError: The detector cannot use the frame.
        """
        found = [face for face in self._detector.detect(frame) if self._is_worth_a_look(face)]
        if not found:
            return None
        scene = _Scene.of(frame)
        self._note_breaks(scene, found, t_ns)
        views = []
        for face, near in self._most_promising(found, t_ns):
            view = self._view(frame, face, near, t_ns)
            if not self._known or view.likeness >= view.least:
                return self._follow(view, scene, t_ns)
            views.append(view)
        if self._may_be_same(views[0]):
            return self._follow(views[0], scene, t_ns)
        return self._meet(views, scene, t_ns)

    def _is_worth_a_look(self, face: Detection) -> bool:
        """Faces are large enough, and the first one is hardly a false one."""
        is_sure = face.eyes_px is not None or face.score >= _SURE_SCORE
        return min(face.box_px[2:]) >= MIN_FACE_PX and (is_sure or self._seen is not None)

    def _is_continuous(self, t_ns: int) -> bool:
        return self._seen is not None and t_ns - self._seen.t_ns <= _CONTINUOUS_NS

    def _note_breaks(self, scene: _Scene, found: list[Detection], t_ns: int) -> None:
        """After an absence or a sudden change the next look must prove that it is the same person."""
        if self._seen is None:
            return
        if not self._is_continuous(t_ns):
            self._least = max(self._least, SAME_AFTER_CHANGE)
            return
        boxes = [self._seen.face.box_px, *(face.box_px for face in found)]
        change = scene.change(self._seen.scene, boxes)
        usual = median(self._changes) if self._changes else 0.0
        if change > max(_SCENE_CHANGE, _SUDDEN * usual):
            self._least = max(self._least, SAME_AFTER_CUT if change > _SCENE_CUT else SAME_AFTER_CHANGE)
        self._changes.append(change)

    def _most_promising(self, found: list[Detection], t_ns: int) -> list[tuple[Detection, bool]]:
        """Faces, and whether each lies where the followed one was: that first, then larger ones first."""

        def rank(face: Detection) -> tuple[float, bool, float]:
            place = self._overlap(face, t_ns) if self._known else 0.0
            unknown_with_eyes = not self._known and face.eyes_px is not None
            return (
                place if place >= _SAME_PLACE else 0.0,
                unknown_with_eyes,
                face.box_px[2] * face.box_px[3],
            )

        ranked = sorted(found, key=rank, reverse=True)[:_MAX_CANDIDATES]
        return [(face, self._overlap(face, t_ns) >= _SAME_PLACE) for face in ranked]

    def _overlap(self, face: Detection, t_ns: int) -> float:
        """With the box where the followed face was a moment ago, 0 to 1."""
        if self._seen is None or not self._is_continuous(t_ns):
            return 0.0
        return _intersection_over_union(face.box_px, self._seen.face.box_px)

    def _view(self, frame: NDArray[np.uint8], face: Detection, near: bool, t_ns: int) -> _View:
        eyes, aligned = face.eyes_px, True
        if eyes is None:
            carried = self._carried_eyes(t_ns) if near and self._least == SAME_IF_STEADY else None
            eyes, aligned = _in_frame(carried or TYPICAL_EYES, face.box_px), carried is not None
        least = self._least if near else max(self._least, SAME_AFTER_CHANGE)
        look, likeness = self._look_maker.likest(frame, eyes, self._known, least + _CLEARLY)
        return _View(face, near, eyes, aligned, look, likeness, least)

    def _carried_eyes(self, t_ns: int) -> Eyes | None:
        """Eyes found a short while ago, in fractions of the box."""
        seen = self._seen
        if seen is None or seen.eyes_in_box is None or t_ns - seen.eyes_ns > self._eyes_max_age_ns:
            return None
        return seen.eyes_in_box

    def _may_be_same(self, view: _View) -> bool:
        """Whether a face that came there gradually is the followed one although it does not look so.

        A hand or a blur spoils a look for a moment, and without eyes a look says little.
        """
        if view.least > SAME_IF_STEADY:
            return False
        return not (view.has_eyes and self._is_second_doubt(view))

    def _is_second_doubt(self, view: _View) -> bool:
        """Whether the look before was doubted too, and is more like this one than the known ones are."""
        doubted, self._doubted = self._doubted, view.look
        return doubted is not None and view.look.likeness(doubted) > view.likeness

    def _meet(self, views: list[_View], scene: _Scene, t_ns: int) -> Face | None:
        """A stranger takes the place, unless the followed person may only be missed for a moment."""
        view = next((view for view in views if view.has_eyes), views[0])
        absent_ns = t_ns - self._seen.t_ns if self._seen else 0
        has_taken_place = view.has_eyes and (view.near or self._least == SAME_AFTER_CUT)
        is_sure = view.has_eyes and view.face.score >= _SURE_SCORE
        if not has_taken_place and absent_ns <= (_PATIENCE_NS if is_sure else _UNSURE_PATIENCE_NS):
            return None
        self._person += 1
        self._known = _KnownLooks()
        self._seen = None
        return self._follow(view, scene, t_ns)

    def _follow(self, view: _View, scene: _Scene, t_ns: int) -> Face:
        """Remember what was seen of the followed face."""
        if not self._known or view.likeness >= view.least:
            self._least = SAME_IF_STEADY
            self._doubted = None
            if view.has_eyes:
                self._known.remember(view.look, view.likeness)
        seen, box, eyes = self._seen, view.face.box_px, view.eyes
        if seen is not None and view.near and view.aligned and seen.face.aligned:
            eyes = _smoothed((seen.face.left_eye_px, seen.face.right_eye_px), eyes)
        face = Face(box, eyes[0], eyes[1], view.aligned, self._person)
        if view.has_eyes:
            self._seen = _Seen(t_ns, face, scene, _in_box(eyes, box), t_ns)
        else:
            in_box, eyes_ns = (seen.eyes_in_box, seen.eyes_ns) if seen else (None, t_ns)
            self._seen = _Seen(t_ns, face, scene, in_box, eyes_ns)
        return face


@dataclass(frozen=True)
class _Seen:
    """How the followed face was last seen.

    Attributes:
        t_ns: When.
        face: Where.
        scene: The picture.
        eyes_in_box: Its eyes when they were last found, in fractions of the box; None = never.
        eyes_ns: When that was.
    """

    t_ns: int
    face: Face
    scene: _Scene
    eyes_in_box: Eyes | None
    eyes_ns: int


@dataclass(frozen=True)
class _View:
    """A detected face, looked at with the followed person in mind.

    Attributes:
        face: What the detector says.
        near: It lies where the followed face was a moment ago.
        eyes: Found, carried from earlier frames or typical of the box.
        aligned: They are not typical ones.
        look: How it looks.
        likeness: To the known looks of the followed person, 0 to 1.
        least: What that must be.
    """

    face: Detection
    near: bool
    eyes: Eyes
    aligned: bool
    look: _Look
    likeness: float
    least: float

    @property
    def has_eyes(self) -> bool:
        """Whether the eyes were found in this very frame."""
        return self.face.eyes_px is not None


_SCENE_SIZE = (32, 24)
_SCENE_NOISE = 6.0
"""Grey levels; differences of this size say nothing."""


@dataclass(frozen=True)
class _Scene:
    """A thumbnail of a whole picture, and the picture's width and height."""

    thumbnail: Floats
    size_px: tuple[int, int]

    @classmethod
    def of(cls, frame: NDArray[np.uint8]) -> _Scene:
        height, width = frame.shape[:2]
        # every n-th pixel will do: a thumbnail must be the same for the same scene, not beautiful
        coarse = np.ascontiguousarray(frame[:: max(1, height // 120), :: max(1, width // 160)])
        thumbnail = cv2.resize(coarse, _SCENE_SIZE, interpolation=cv2.INTER_AREA)
        return cls(np.asarray(thumbnail, np.float32), (width, height))

    def change(self, before: _Scene, boxes: list[Box]) -> float:
        """How much changed around the faces: 0 for nothing, 1 for scenes with nothing in common."""
        if self.size_px != before.size_px:
            return 1.0
        around = self._around(boxes)
        now, then = _contrast(self.thumbnail[around]), _contrast(before.thumbnail[around])
        return float(((now - then) ** 2).mean()) / 2

    def _around(self, boxes: list[Box]) -> NDArray[np.bool_]:
        """Where the thumbnail shows no head; everywhere if the heads leave next to nothing."""
        across, down = _SCENE_SIZE
        around = np.ones((down, across), np.bool_)
        for x, y, width, height in boxes:
            left, right = ((x + part * width) * across / self.size_px[0] for part in (-0.2, 1.2))
            top, bottom = ((y + part * height) * down / self.size_px[1] for part in (-0.4, 1.2))
            rows = slice(max(0, int(top)), max(0, int(bottom) + 1))
            around[rows, max(0, int(left)) : max(0, int(right) + 1)] = False
        return around if 8 * around.sum() >= around.size else np.ones_like(around)


def _contrast(colours: Floats) -> Floats:
    """(n, 3), each channel without its mean and of deviation 1: light and its colour may change."""
    centred = colours - colours.mean(axis=0)
    return np.asarray(centred / np.sqrt((centred**2).mean(axis=0) + _SCENE_NOISE**2), np.float32)


@dataclass(frozen=True)
class _Look:
    """How a face looks: two vectors of length 1."""

    shape: Floats
    colour: Floats

    def likeness(self, other: _Look) -> float:
        """1 for the same look."""
        return float(self.shape @ other.shape + self.colour @ other.colour) / 2


class _KnownLooks:
    """The looks of one person: the newest, and earlier ones that differed."""

    def __init__(self) -> None:
        self._looks: list[_Look] = []
        self._is_newest_novel = True
        self._shapes = self._colours = np.zeros((0, 0), np.float32)

    def __len__(self) -> int:
        return len(self._looks)

    def likeness(self, look: _Look) -> float:
        """Of the likest known look; 0 when none is known."""
        if not self._looks:
            return 0.0
        return float((self._shapes @ look.shape + self._colours @ look.colour).max()) / 2

    def shape_likeness(self, shape: Floats) -> float:
        """The same by the shape alone."""
        return float((self._shapes @ shape).max())

    def remember(self, look: _Look, likeness: float) -> None:
        """Keep a look, in place of the newest unless that was novel; `likeness` is that of the new one."""
        if not self._is_newest_novel:
            self._looks.pop()
        self._is_newest_novel = likeness < _NOVEL
        self._looks.append(look)
        if len(self._looks) > _MAX_LOOKS:
            del self._looks[1]
        self._shapes = np.stack([known.shape for known in self._looks])
        self._colours = np.stack([known.colour for known in self._looks])


_Pose = tuple[float, float, float, float]
"""Shift to the right and down in distances of the eyes, size, turn in radians."""

_AS_FOUND: _Pose = (0.0, 0.0, 1.0, 0.0)
_POSE_STEPS = (0.07, 0.07, 0.08, 0.07)
_HEAD_PX = 96
_HEAD_EYES = (complex(32, 44), complex(64, 44))
_HEAD_EYES_PX = 32.0
"""Distance of the eyes in the upright head that looks are made of."""


class _LookMaker:
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
        self, frame: NDArray[np.uint8], eyes: Eyes, known: _KnownLooks, enough: float
    ) -> tuple[_Look, float]:
        """The look of a face, aligned so that it is likest to known ones, and how like them it is.

        Detectors place eyes a few percent differently from frame to frame, which would make one
        person look different; so the alignment may move by as much where it is not like `enough`.
        """
        head = _upright_head(frame, eyes)
        look = self._look(head, _AS_FOUND)
        likeness = known.likeness(look)
        if not known or likeness >= enough:
            return look, likeness
        pose = _AS_FOUND
        for part in (1.0, 0.5):
            for axis in (1, 0, 2, 3):
                pose = self._likest_pose(head, pose, axis, part * _POSE_STEPS[axis], known)
        look = self._look(head, pose)
        return look, known.likeness(look)

    def _likest_pose(self, head: Floats, pose: _Pose, axis: int, step: float, known: _KnownLooks) -> _Pose:
        """The pose itself, or a step along one axis."""
        poses = [pose, *(_moved(pose, axis, sign * step) for sign in (-1, 1))]
        return max(poses, key=lambda tried: known.shape_likeness(self._shape(head, tried)))

    def _look(self, head: Floats, pose: _Pose) -> _Look:
        return _Look(self._shape(head, pose), self._colour(head, pose))

    def _shape(self, head: Floats, pose: _Pose) -> Floats:
        """Gradients of the upper face; light, blur and noise change them little."""
        grey = _cut(head[..., 3], pose, self._SIDE_PX, self._SHAPE_EYES)
        grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), self._BLUR_PX), np.float32)
        low, high = float(grey.min()), float(grey.max())
        stretched = np.rint((grey - low) * (255 / max(high - low, 1.0))).astype(np.uint8)
        return _unit(np.asarray(self._hog.compute(stretched), np.float32))

    def _colour(self, head: Floats, pose: _Pose) -> Floats:
        """Coarse colours of the face, without their common brightness."""
        colours = _cut(head[..., :3], pose, self._SIDE_PX, self._COLOUR_EYES)
        colours = np.asarray(cv2.GaussianBlur(colours, (0, 0), self._COLOUR_BLUR_PX), np.float32)
        cells = cv2.resize(colours, self._COLOUR_CELLS, interpolation=cv2.INTER_AREA)
        return _unit(np.asarray(cells, np.float32))


def _moved(pose: _Pose, axis: int, step: float) -> _Pose:
    across, down, size, turn = (value + step * (index == axis) for index, value in enumerate(pose))
    return across, down, size, turn


def _upright_head(frame: NDArray[np.uint8], eyes: Eyes) -> Floats:
    """(96, 96, 4): red, green, blue and grey around a face, its eyes at `_HEAD_EYES`."""
    left, right = complex(*eyes[0]), complex(*eyes[1])
    distance = max(1.0, abs(right - left))
    corner, piece = _piece(frame, (left + right) / 2, 2.2 * distance)
    steps = complex(1, 1)
    if distance > 1.1 * _HEAD_EYES_PX:
        height, width = piece.shape[:2]
        shrink = _HEAD_EYES_PX / distance
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        piece = np.asarray(cv2.resize(piece, size, interpolation=cv2.INTER_AREA), np.uint8)
        steps = complex(size[0] / width, size[1] / height)
    placed = tuple(_scaled(eye - corner, steps) for eye in (left, right))
    colours = _warped(piece.astype(np.float32), _similarity(_HEAD_EYES, (placed[0], placed[1])), _HEAD_PX)
    return np.dstack([colours, cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)])


def _piece(frame: NDArray[np.uint8], middle: complex, reach_px: float) -> tuple[complex, NDArray[np.uint8]]:
    """A square as far as it lies in the frame (at least 2 x 2 pixels), and its first pixel's place."""
    height, width = frame.shape[:2]
    x0 = min(max(0, int(middle.real - reach_px)), max(0, width - 2))
    y0 = min(max(0, int(middle.imag - reach_px)), max(0, height - 2))
    x1, y1 = max(x0 + 2, int(middle.real + reach_px)), max(y0 + 2, int(middle.imag + reach_px))
    return complex(x0, y0), np.ascontiguousarray(frame[y0:y1, x0:x1])


def _scaled(place: complex, steps: complex) -> complex:
    """A pixel after a picture was scaled by `steps`; pixel centres at integers."""
    return complex((place.real + 0.5) * steps.real - 0.5, (place.imag + 0.5) * steps.imag - 0.5)


def _cut(head: Floats, pose: _Pose, side_px: int, eyes: Eyes) -> Floats:
    """A square of an upright head with the eyes at fractions of its side, were they where `pose` says."""
    across, down, size, turn_rad = pose
    middle = (_HEAD_EYES[0] + _HEAD_EYES[1]) / 2 + _HEAD_EYES_PX * complex(across, down)
    half = cmath.rect(_HEAD_EYES_PX * size / 2, turn_rad)
    targets = (complex(*eyes[0]) * side_px, complex(*eyes[1]) * side_px)
    return _warped(head, _similarity(targets, (middle - half, middle + half)), side_px)


def _warped(picture: Floats, transform: NDArray[np.float64], side_px: int) -> Floats:
    """A square of a picture; what lies outside it continues its edge."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    square = cv2.warpAffine(
        picture, transform, (side_px, side_px), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(square, np.float32)


def _unit(values: Floats) -> Floats:
    """Flat, without its mean, of length 1."""
    flat = values.ravel() - values.mean()
    return np.asarray(flat / max(float(np.linalg.norm(flat)), 1e-6), np.float32)


def _similarity(source: tuple[complex, complex], target: tuple[complex, complex]) -> NDArray[np.float64]:
    """(2, 3): turn, size and shift that take two source points to two target points."""
    if source[0] == source[1] or target[0] == target[1]:
        raise DataError("a face cannot be aligned", expected="two different eyes", found="one point for both")
    turn = (target[1] - target[0]) / (source[1] - source[0])
    shift = target[0] - turn * source[0]
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def _intersection_over_union(a: Box, b: Box) -> float:
    """How far two boxes overlap, 0 to 1."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def _in_frame(eyes_in_box: Eyes, box: Box) -> Eyes:
    """From fractions of a box to pixels of the frame."""
    left, right = ((box[0] + x * box[2], box[1] + y * box[3]) for x, y in eyes_in_box)
    return left, right


def _in_box(eyes_px: Eyes, box: Box) -> Eyes:
    """From pixels of the frame to fractions of a box."""
    left, right = (((x - box[0]) / box[2], (y - box[1]) / box[3]) for x, y in eyes_px)
    return left, right


def _smoothed(before: Eyes, now: Eyes) -> Eyes:
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
