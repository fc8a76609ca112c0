"""One face is followed through a session, and it is noticed when another person takes its place.

Who somebody is, is judged by a look: the shape of the upper face (a histogram of oriented gradients,
which speech leaves alone) and the colours of the whole face, both cut out aligned by the eyes. The
looks of the person that is followed are remembered. How like them a new look must be depends on how
the face got there: gradually, over a cut, or after an absence.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.errors import DataError
from edge_mer.types.model import FaceAlignment

Point = tuple[float, float]
Eyes = tuple[Point, Point]
Box = tuple[float, float, float, float]
Floats = NDArray[np.float32]

MIN_FACE_PX = 24.0
"""Smaller faces are not followed."""

SAME_IF_STEADY = 0.80
"""Least likeness to the person's looks while face and scene change gradually; less must come twice."""

SAME_AFTER_CHANGE = 0.86
"""Least likeness when the face was away, jumped, or the scene around it changed a little at once."""

SAME_AFTER_CUT = 0.92
"""Least likeness when the scene around the face became another one at once."""

_CHANGE, _CUT = 0.012, 0.05
"""From where on a scene changed a little, and so much that it is another one; 0 = not, 1 = entirely."""

_UNREST_FACTOR = 4.0
"""A change is sudden when it is so many times that of the frames before (a camera that moves)."""

_UNREST_WEIGHT = 0.25
_SCENE_WIDTH, _SCENE_HEIGHT = 32, 24
_SCENE_NOISE = 6.0
"""Grey levels; in a picture without contrast, differences of this size say nothing."""

_SAME_PLACE = 0.3
"""Least overlap (intersection over union) of boxes at the same place."""

_CONTINUOUS_NS = 600_000_000
"""Two frames farther apart than this are not continuous."""

_PATIENCE_NS = 600_000_000
"""So long a lost person is waited for while somebody else is in the picture."""

_UNSURE_PATIENCE_NS = 2_000_000_000
"""The same, when of somebody else no eyes are seen or the detector is not sure."""

_SURE_SCORE = 0.5
_MAX_CANDIDATES = 4
_MAX_LOOKS = 12
_NOVEL = 0.94
"""A look less like all remembered ones than this is remembered when the next one comes."""

_LIKE_ENOUGH = 0.94
"""From here on no better alignment is searched."""

_Pose = tuple[float, ...]
"""Shift to the right and down in distances of the eyes, size, turn in radians."""

_POSE_STEPS: _Pose = (0.07, 0.07, 0.08, 0.07)
_HEAD_EYES_PX = 32
_SHAPE_PX = 64
_SHAPE_BLUR_PX = 1.5

_LEAST_WEIGHT = 0.5
_FOLLOW_AT_ONCE = 0.12
"""Eyes that moved by this part of their distance or more are not smoothed."""

TYPICAL_EYES: Eyes = ((0.324, 0.382), (0.680, 0.374))
"""Where eyes lie in a detector's box, in fractions of its sides."""


@dataclass(frozen=True)
class Detection:
    """A face that a detector found in one frame; pixel centres lie at integers.

    Attributes:
        box_px: x, y, width, height in pixels of the frame; a square from above the brows to the chin,
            as OpenCV's frontal cascades give it. It may reach over the frame's edges.
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
        name: Short name for records, e.g. "haar".
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
        alignment: Where the eyes belong; a fraction f of the crop's side is the pixel f * size_px.
        size_px: Side of the square crop, in pixels.

    Returns:
        (2, 3): crop pixel (x, y, 1) -> frame pixel (x, y); pixel centres at integers in both.

    Raises:
        DataError: Both eyes lie at one point, or the alignment has them there.
    """
    left, right = (complex(*eye) * size_px for eye in (alignment.left_eye, alignment.right_eye))
    return _similarity((left, right), (complex(*face.left_eye_px), complex(*face.right_eye_px)))


def _similarity(source: tuple[complex, complex], target: tuple[complex, complex]) -> NDArray[np.float64]:
    """(2, 3): the similarity that takes two source points to two target points."""
    if source[0] == source[1] or target[0] == target[1]:
        raise DataError("a face cannot be aligned", expected="two different eyes", found="one point for both")
    turn = (target[1] - target[0]) / (source[1] - source[0])
    shift = target[0] - turn * source[0]
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


class FaceTracker:
    """Follows one face through a session: same frames, same results. For one thread at a time.

    Args:
        detector: Finds the faces of single frames.
        alignment: What the model declares; `eyes_max_age_s` says how old eye positions may be.
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
        self._unrest = 0.0

    def track(self, frame: NDArray[np.uint8], t_ns: int) -> Face | None:
        """Find the followed face in the next frame.

        Args:
            frame: (height, width, 3) uint8 RGB.
            t_ns: When it was captured, in nanoseconds; frames come in the order of time.

        Returns:
            The face; None when the followed person is not seen and nobody has taken the place.
        """
        found = [face for face in self._detector.detect(frame) if min(face.box_px[2:]) >= MIN_FACE_PX]
        if not found:
            return None
        scene = _Scene.of(frame)
        self._note_breaks(scene, found, t_ns)
        views = []
        for face, overlap in self._most_promising(found, t_ns):
            view = self._view(frame, face, overlap, t_ns)
            if self._is_same(view):
                return self._follow(view, scene, t_ns)
            views.append(view)
        return self._meet(views, scene, t_ns)

    def _note_breaks(self, scene: _Scene, found: list[Detection], t_ns: int) -> None:
        """After an absence or a cut the next look must prove that it is the same person."""
        if self._seen is None:
            return
        if t_ns - self._seen.t_ns > _CONTINUOUS_NS:
            self._least = max(self._least, SAME_AFTER_CHANGE)
            return
        change = scene.change(self._seen.scene, [self._seen.box, *(face.box_px for face in found)])
        if change > max(_CHANGE, _UNREST_FACTOR * self._unrest):
            self._least = max(self._least, SAME_AFTER_CUT if change > _CUT else SAME_AFTER_CHANGE)
        self._unrest += _UNREST_WEIGHT * (change - self._unrest)

    def _most_promising(self, found: list[Detection], t_ns: int) -> list[tuple[Detection, float]]:
        """Faces with their overlap with the followed one: that which overlaps most first, then by size."""
        seen = self._seen
        continuous = seen is not None and t_ns - seen.t_ns <= _CONTINUOUS_NS
        overlaps = [_overlap(face.box_px, seen.box) if seen and continuous else 0.0 for face in found]
        ranked = []
        for face, overlap in zip(found, overlaps, strict=True):
            near = overlap if overlap >= _SAME_PLACE and self._known else 0.0
            has_eyes = face.eyes_px is not None and not self._known
            ranked.append(((near, has_eyes, face.box_px[2] * face.box_px[3]), face, overlap))
        ranked.sort(key=lambda item: item[0], reverse=True)
        return [(face, overlap) for _, face, overlap in ranked[:_MAX_CANDIDATES]]

    def _view(self, frame: NDArray[np.uint8], face: Detection, overlap: float, t_ns: int) -> _View:
        near = overlap >= _SAME_PLACE
        eyes, aligned = face.eyes_px, True
        if eyes is None:
            carried = self._carried_eyes(t_ns) if near and self._least == SAME_IF_STEADY else None
            eyes, aligned = _place(carried or TYPICAL_EYES, face.box_px), carried is not None
        look, similarity = self._look_maker.best(frame, eyes, self._known)
        least = self._least if near else max(self._least, SAME_AFTER_CHANGE)
        return _View(face, near, eyes, aligned, look, similarity, least)

    def _carried_eyes(self, t_ns: int) -> Eyes | None:
        """Eyes found a short while ago, in fractions of the box."""
        seen = self._seen
        if seen is None or seen.eyes_in_box is None or t_ns - seen.eyes_ns > self._eyes_max_age_ns:
            return None
        return seen.eyes_in_box

    def _is_same(self, view: _View) -> bool:
        """Whether a face is the followed one."""
        if not self._known or view.similarity >= view.least:
            return True
        if view.least > SAME_IF_STEADY:
            return False
        return not view.has_eyes or not self._is_confirmed(view)

    def _is_confirmed(self, view: _View) -> bool:
        """Whether a face that came gradually is a stranger: two looks in a row, like each other."""
        doubted, self._doubted = self._doubted, view.look
        return doubted is not None and view.look.likeness(doubted) > view.similarity

    def _meet(self, views: list[_View], scene: _Scene, t_ns: int) -> Face | None:
        """A stranger takes the place, unless the followed person may only be missed for a moment."""
        view = next((view for view in views if view.has_eyes), views[0])
        absent_ns = t_ns - self._seen.t_ns if self._seen else 0
        sure = view.has_eyes and view.face.score >= _SURE_SCORE
        taken = view.has_eyes and (view.near or self._least == SAME_AFTER_CUT)
        if not taken and absent_ns <= (_PATIENCE_NS if sure else _UNSURE_PATIENCE_NS):
            return None
        self._person += 1
        self._known = _KnownLooks()
        self._seen = None
        return self._follow(view, scene, t_ns)

    def _follow(self, view: _View, scene: _Scene, t_ns: int) -> Face:
        if not self._known or view.similarity >= view.least:
            self._least = SAME_IF_STEADY
            self._doubted = None
            if view.has_eyes:
                self._known.remember(view.look, view.similarity)
        box, eyes, seen = view.face.box_px, view.eyes, self._seen
        if seen is not None and view.near and view.aligned:
            eyes = _smoothed(seen.eyes, eyes)
        if view.has_eyes or seen is None:
            eyes_in_box, eyes_ns = (_fractions(eyes, box) if view.has_eyes else None), t_ns
        else:
            eyes_in_box, eyes_ns = seen.eyes_in_box, seen.eyes_ns
        self._seen = _Seen(t_ns, box, eyes, eyes_in_box, eyes_ns, scene)
        return Face(box, eyes[0], eyes[1], view.aligned, self._person)


@dataclass(frozen=True)
class _Look:
    """How a face looks: two vectors of length 1, its shape and its colours."""

    shape: Floats
    colour: Floats

    def likeness(self, other: _Look) -> float:
        """1 for the same look; about 0.75 for two people."""
        return float(self.shape @ other.shape + self.colour @ other.colour) / 2


class _KnownLooks:
    """The looks of one person: the newest, and those before that differed."""

    def __init__(self) -> None:
        self._looks: list[_Look] = []
        self._newest_is_novel = True
        self._shapes = np.zeros((0, 0), np.float32)
        self._colours = np.zeros((0, 0), np.float32)

    def __len__(self) -> int:
        return len(self._looks)

    def shape_likeness(self, shape: Floats) -> float:
        return float((self._shapes @ shape).max())

    def likeness(self, look: _Look) -> float:
        """That of the likest of the looks; 0 when there is none."""
        if not self._looks:
            return 0.0
        return float((self._shapes @ look.shape + self._colours @ look.colour).max()) / 2

    def remember(self, look: _Look, likeness: float) -> None:
        """Keep the newest look, and the one before only where it was novel."""
        if self._looks and not self._newest_is_novel:
            self._looks.pop()
        self._newest_is_novel = likeness < _NOVEL
        self._looks.append(look)
        if len(self._looks) > _MAX_LOOKS:
            del self._looks[1]
        self._shapes = np.stack([look.shape for look in self._looks])
        self._colours = np.stack([look.colour for look in self._looks])


@dataclass(frozen=True)
class _View:
    """One detected face, seen with the followed person in mind.

    Attributes:
        face: What the detector says.
        near: It lies where the followed face was a moment ago.
        eyes: Found, carried from earlier frames or typical of the box.
        aligned: They are not typical ones.
        look: How it looks.
        similarity: To the looks of the followed person, 0 to 1.
        least: What that must be.
    """

    face: Detection
    near: bool
    eyes: Eyes
    aligned: bool
    look: _Look
    similarity: float
    least: float

    @property
    def has_eyes(self) -> bool:
        """Whether the eyes were found in this very frame."""
        return self.face.eyes_px is not None


@dataclass(frozen=True)
class _Seen:
    """Where the followed face was last: box, eyes, and eyes relative to the box when last found."""

    t_ns: int
    box: Box
    eyes: Eyes
    eyes_in_box: Eyes | None
    eyes_ns: int
    scene: _Scene


@dataclass(frozen=True)
class _Scene:
    """A thumbnail of the whole picture, and the size of the picture."""

    thumbnail: Floats
    size: tuple[int, int]

    @classmethod
    def of(cls, frame: NDArray[np.uint8]) -> _Scene:
        height, width = frame.shape[:2]
        # every n-th pixel is enough: the thumbnail only has to be the same for the same scene
        coarse = np.ascontiguousarray(frame[:: max(1, height // 120), :: max(1, width // 160)])
        small = cv2.resize(coarse, (_SCENE_WIDTH, _SCENE_HEIGHT), interpolation=cv2.INTER_AREA)
        return cls(small.astype(np.float32), (width, height))

    def change(self, other: _Scene, boxes: list[Box]) -> float:
        """How much changed around the faces: 0 for nothing, about 1 for scenes that share nothing."""
        if self.size != other.size:
            return 1.0
        around = np.ones((_SCENE_HEIGHT, _SCENE_WIDTH), bool)
        for x, y, width, height in boxes:
            left, right = ((x + part * width) * _SCENE_WIDTH / self.size[0] for part in (-0.2, 1.2))
            top, bottom = ((y + part * height) * _SCENE_HEIGHT / self.size[1] for part in (-0.4, 1.2))
            around[max(0, int(top)) : max(0, int(bottom) + 1), max(0, int(left)) : max(0, int(right) + 1)] = (
                False
            )
        if around.sum() < _SCENE_WIDTH * _SCENE_HEIGHT // 8:
            around[:] = True
        a, b = _contrast(self.thumbnail[around]), _contrast(other.thumbnail[around])
        return float(((a - b) ** 2).mean()) / 2


class _LookMaker:
    """Makes looks of faces. The head is first cut out upright, at a fixed distance of its eyes."""

    def __init__(self) -> None:
        side = _SHAPE_PX
        self._hog = cv2.HOGDescriptor((side, side), (16, 16), (8, 8), (8, 8), 9)

    def best(self, frame: NDArray[np.uint8], eyes: Eyes, known: _KnownLooks) -> tuple[_Look, float]:
        """The look of a face and its likeness to known ones, at the alignment where it is likest.

        Detectors place eyes a few percent differently from frame to frame, which would make the looks
        of one person differ; so the alignment may move a little when that makes the look more like.
        """
        head = _head(frame, eyes)
        pose = (0.0, 0.0, 1.0, 0.0)
        shape = self._shape(head, pose)
        look = _Look(shape, self._colour(head, pose))
        likeness = known.likeness(look)
        if not known or likeness >= _LIKE_ENOUGH:
            return look, likeness
        best = known.shape_likeness(shape)
        for steps in (_POSE_STEPS, tuple(step / 2 for step in _POSE_STEPS)):
            for axis in (1, 0, 2, 3):
                for sign in (-1, 1):
                    moved = tuple(p + sign * steps[axis] * (i == axis) for i, p in enumerate(pose))
                    tried = self._shape(head, moved)
                    value = known.shape_likeness(tried)
                    if value > best:
                        best, pose, shape = value, moved, tried
                        break
        look = _Look(shape, self._colour(head, pose))
        return look, known.likeness(look)

    def _shape(self, head: Floats, pose: _Pose) -> Floats:
        """Unit vector of the upper face's gradients: speech, blur, noise and light change it little."""
        grey = _cut(head[..., 3], pose, _SHAPE_PX, (0.25, 0.5), (0.75, 0.5))
        grey = cv2.GaussianBlur(grey, (0, 0), _SHAPE_BLUR_PX)
        low, high = float(grey.min()), float(grey.max())
        stretched = (grey - low) * (255 / max(high - low, 1.0))
        return _unit(np.asarray(self._hog.compute(np.rint(stretched).astype(np.uint8)), np.float32))

    def _colour(self, head: Floats, pose: _Pose) -> Floats:
        """Unit vector of the face's colours, coarse, without their common brightness."""
        colours = _cut(head[..., :3], pose, 64, (0.28, 0.35), (0.72, 0.35))
        colours = cv2.GaussianBlur(colours, (0, 0), 2.0)
        return _unit(cv2.resize(colours, (16, 16), interpolation=cv2.INTER_AREA))


def _head(frame: NDArray[np.uint8], eyes: Eyes) -> Floats:
    """(96, 96, 4): red, green, blue and grey around a face, its eyes at (32, 44) and (64, 44)."""
    left, right = np.array(eyes[0]), np.array(eyes[1])
    distance = max(1.0, float(np.hypot(*(right - left))))
    middle, reach = (left + right) / 2, 2.2 * distance
    height, width = frame.shape[:2]
    x0, y0 = (
        int(np.clip(value, 0, limit - 2))
        for value, limit in zip(middle - reach, (width, height), strict=True)
    )
    x1 = int(np.clip(middle[0] + reach, x0 + 2, width))
    y1 = int(np.clip(middle[1] + reach, y0 + 2, height))
    piece = np.ascontiguousarray(frame[y0:y1, x0:x1])
    shrink = np.ones(2)
    if distance > _HEAD_EYES_PX * 1.1:
        size = (
            max(1, round((x1 - x0) * _HEAD_EYES_PX / distance)),
            max(1, round((y1 - y0) * _HEAD_EYES_PX / distance)),
        )
        shrink = np.array(size) / (x1 - x0, y1 - y0)
        piece = cv2.resize(piece, size, interpolation=cv2.INTER_AREA)
    left, right = (((eye - (x0, y0) + 0.5) * shrink - 0.5) for eye in (left, right))
    place = _similarity((complex(32, 44), complex(64, 44)), (complex(*left), complex(*right)))
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    colours = cv2.warpAffine(
        piece.astype(np.float32), place, (96, 96), flags=how, borderMode=cv2.BORDER_REPLICATE
    )
    return np.dstack([colours, cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)])


def _cut(head: Floats, pose: _Pose, side: int, left_eye: Point, right_eye: Point) -> Floats:
    """A square of the head, its eyes at fractions of the side, seen as if they lay a little elsewhere."""
    across, down, size, turn_rad = pose
    middle = complex(48 + _HEAD_EYES_PX * across, 44 + _HEAD_EYES_PX * down)
    half = cmath.rect(_HEAD_EYES_PX * size / 2, turn_rad)
    eyes = (complex(*left_eye) * side, complex(*right_eye) * side)
    place = _similarity(eyes, (middle - half, middle + half))
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(head, place, (side, side), flags=how, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, np.float32)


def _contrast(colours: Floats) -> Floats:
    """(n, 3): each channel without its mean and of deviation 1, so that light and its colour may change."""
    centred = colours - colours.mean(axis=0)
    return np.asarray(centred / np.sqrt((centred**2).mean(axis=0) + _SCENE_NOISE**2), np.float32)


def _unit(values: NDArray[np.float32]) -> Floats:
    """Flat, without its mean, of length 1."""
    flat = values.astype(np.float32).ravel()
    flat = flat - flat.mean()
    return np.asarray(flat / max(float(np.linalg.norm(flat)), 1e-6), np.float32)


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def _place(fractions: Eyes, box: Box) -> Eyes:
    """From fractions of a box to pixels."""
    left, right = ((box[0] + x * box[2], box[1] + y * box[3]) for x, y in fractions)
    return left, right


def _fractions(eyes: Eyes, box: Box) -> Eyes:
    """From pixels to fractions of a box."""
    left, right = (((x - box[0]) / box[2], (y - box[1]) / box[3]) for x, y in eyes)
    return left, right


def _smoothed(before: Eyes, now: Eyes) -> Eyes:
    """Eyes that hardly moved follow slowly, since most of that is the detector's noise; others at once."""
    distance = math.dist(*now)
    left, right = (
        _blend(old, new, math.dist(old, new) / distance) for old, new in zip(before, now, strict=True)
    )
    return left, right


def _blend(old: Point, new: Point, moved: float) -> Point:
    weight = min(1.0, max(_LEAST_WEIGHT, moved / _FOLLOW_AT_ONCE))
    return old[0] + weight * (new[0] - old[0]), old[1] + weight * (new[1] - old[1])
