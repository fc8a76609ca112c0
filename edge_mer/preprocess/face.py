"""One face is followed through a session, and it is noticed when another person takes its place.

Who somebody is, is judged by a look: the gradients of the upper face, which speech leaves alone, and
the colours of the whole face, both cut out aligned by the eyes. The looks of the followed person are
remembered. How like them a new one must be depends on how the face came there: gradually, after an
absence, or with a sudden change of the scene around it. While its picture hardly changes, none is made.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.preprocess.looks import (
    CONTINUOUS_NS,
    Box,
    Eyes,
    Glance,
    KnownLooks,
    Look,
    LookMaker,
    Point,
    Scene,
    eyes_in_box,
    eyes_in_frame,
    intersection_over_union,
    similarity,
    smoothed,
)
from edge_mer.types.model import FaceAlignment

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
"""From where on a scene has changed a little, and so much that it is another one (`Scene.change`)."""

_SUDDEN = 4.0
"""A change is sudden when it is so many times what is usual; a camera that moves changes all the time."""

_USUAL_FRAMES = 5

_PATIENCE_NS = 600_000_000
"""So long a lost person is waited for while somebody else is in the picture."""

_UNSURE_PATIENCE_NS = 2_000_000_000
"""The same when the detector is not sure of somebody else, or finds no eyes."""

_SURE_SCORE = 0.5
_SAME_PLACE = 0.3
"""Least overlap (intersection over union) of boxes at the same place."""

_MAX_CANDIDATES = 4
_CLEARLY = 0.05
"""So much more likeness than needed, and no better alignment is searched."""


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


def least_after(change: float, usual: float) -> float:
    """How like the known looks a face must be after the scene has changed, by `Scene.change`.

    Args:
        change: Since the frame before.
        usual: What that is from frame to frame.
    """
    if change <= max(_SCENE_CHANGE, _SUDDEN * usual):
        return SAME_IF_STEADY
    return SAME_AFTER_CUT if change > _SCENE_CUT else SAME_AFTER_CHANGE


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
    return similarity((left, right), (complex(*face.left_eye_px), complex(*face.right_eye_px)))


_Promising = tuple[Detection, bool]
"""A face, and whether it lies where the followed one was a moment ago."""


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
        self._look_maker = LookMaker()
        self.reset()

    def reset(self) -> None:
        """Forget everybody; the next face is person 0."""
        self._person = 0
        self._known = KnownLooks()
        self._seen: _Seen | None = None
        self._least = SAME_IF_STEADY
        self._doubted: Look | None = None
        self._glance: Glance | None = None
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
        promising = self._most_promising(found, t_ns)
        return self._glance_at(frame, found, promising[0], t_ns) or self._look(frame, found, promising, t_ns)

    def _glance_at(
        self, frame: NDArray[np.uint8], found: list[Detection], first: _Promising, t_ns: int
    ) -> Face | None:
        """Follow a face that was looked at a moment ago, if its picture has hardly changed since."""
        (face, near), seen, glance = first, self._seen, self._glance
        if seen is None or glance is None or not near or not glance.still_shows(frame, face.box_px, t_ns):
            return None
        scene = seen.scene
        if seen.t_ns == glance.t_ns:  # the first frame after a look tells what changes are usual
            scene = Scene.of(frame, (face.box_px for face in found))
            self._changes.append(scene.change(seen.scene))
        return self._follow(self._place(face, near, t_ns), scene, t_ns)

    def _look(
        self, frame: NDArray[np.uint8], found: list[Detection], promising: list[_Promising], t_ns: int
    ) -> Face | None:
        """Follow the first face that looks as the followed person does."""
        scene = Scene.of(frame, (face.box_px for face in found))
        self._note_breaks(scene, t_ns)
        self._glance = None
        views = []
        for face, near in promising:
            view = self._view(frame, self._place(face, near, t_ns))
            if not self._known or view.likeness >= view.least:
                return self._recognise(view, frame, scene, t_ns)
            views.append(view)
        if self._may_be_same(views[0]):
            return self._follow(views[0].place, scene, t_ns)
        return self._meet(views, frame, scene, t_ns)

    def _is_worth_a_look(self, face: Detection) -> bool:
        """Faces are large enough, and the first one is hardly a false one."""
        is_sure = face.eyes_px is not None or face.score >= _SURE_SCORE
        return min(face.box_px[2:]) >= MIN_FACE_PX and (is_sure or self._seen is not None)

    def _is_continuous(self, t_ns: int) -> bool:
        return self._seen is not None and t_ns - self._seen.t_ns <= CONTINUOUS_NS

    def _note_breaks(self, scene: Scene, t_ns: int) -> None:
        """After an absence or a sudden change the next look must prove that it is the same person."""
        if self._seen is None:
            return
        if not self._is_continuous(t_ns):
            self._least = max(self._least, SAME_AFTER_CHANGE)
            return
        change = scene.change(self._seen.scene)
        usual = median(self._changes) if self._changes else 0.0
        self._least = max(self._least, least_after(change, usual))
        self._changes.append(change)

    def _most_promising(self, found: list[Detection], t_ns: int) -> list[_Promising]:
        """The one that lies where the followed one was first, then larger ones first."""

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
        return intersection_over_union(face.box_px, self._seen.face.box_px)

    def _place(self, face: Detection, near: bool, t_ns: int) -> _Place:
        eyes, aligned = face.eyes_px, True
        if eyes is None:
            carried = self._carried_eyes(t_ns) if near and self._least == SAME_IF_STEADY else None
            eyes, aligned = eyes_in_frame(carried or TYPICAL_EYES, face.box_px), carried is not None
        return _Place(face, near, eyes, aligned)

    def _view(self, frame: NDArray[np.uint8], place: _Place) -> _View:
        least = self._least if place.near else max(self._least, SAME_AFTER_CHANGE)
        look, likeness = self._look_maker.likest(frame, place.eyes, self._known, least + _CLEARLY)
        return _View(place, look, likeness, least)

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
        return not (view.place.has_eyes and self._is_second_doubt(view))

    def _is_second_doubt(self, view: _View) -> bool:
        """Whether the look before was doubted too, and is more like this one than the known ones are."""
        doubted, self._doubted = self._doubted, view.look
        return doubted is not None and view.look.likeness(doubted) > view.likeness

    def _meet(self, views: list[_View], frame: NDArray[np.uint8], scene: Scene, t_ns: int) -> Face | None:
        """A stranger takes the place, unless the followed person may only be missed for a moment."""
        view = next((view for view in views if view.place.has_eyes), views[0])
        place = view.place
        absent_ns = t_ns - self._seen.t_ns if self._seen else 0
        has_taken_place = place.has_eyes and (place.near or self._least == SAME_AFTER_CUT)
        is_sure = place.has_eyes and place.face.score >= _SURE_SCORE
        if not has_taken_place and absent_ns <= (_PATIENCE_NS if is_sure else _UNSURE_PATIENCE_NS):
            return None
        self._person += 1
        self._known = KnownLooks()
        self._seen = None
        return self._recognise(view, frame, scene, t_ns)

    def _recognise(self, view: _View, frame: NDArray[np.uint8], scene: Scene, t_ns: int) -> Face:
        """Remember how the followed person looks."""
        self._least = SAME_IF_STEADY
        self._doubted = None
        if view.place.has_eyes:
            self._known.remember(view.look, view.likeness)
            self._glance = Glance.at(frame, view.place.face.box_px, t_ns)
        return self._follow(view.place, scene, t_ns)

    def _follow(self, place: _Place, scene: Scene, t_ns: int) -> Face:
        """Remember where the followed face is."""
        seen, box, eyes = self._seen, place.face.box_px, place.eyes
        if seen is not None and place.near and place.aligned and seen.face.aligned:
            eyes = smoothed((seen.face.left_eye_px, seen.face.right_eye_px), eyes)
        face = Face(box, eyes[0], eyes[1], place.aligned, self._person)
        if place.has_eyes:
            self._seen = _Seen(t_ns, face, scene, eyes_in_box(eyes, box), t_ns)
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
        scene: The picture around it, at the last look or in the frame after that.
        eyes_in_box: Its eyes when they were last found, in fractions of the box; None = never.
        eyes_ns: When that was.
    """

    t_ns: int
    face: Face
    scene: Scene
    eyes_in_box: Eyes | None
    eyes_ns: int


@dataclass(frozen=True)
class _Place:
    """Where a detected face is.

    Attributes:
        face: What the detector says.
        near: It lies where the followed face was a moment ago.
        eyes: Found, carried from earlier frames or typical of the box.
        aligned: They are not typical ones.
    """

    face: Detection
    near: bool
    eyes: Eyes
    aligned: bool

    @property
    def has_eyes(self) -> bool:
        """Whether the eyes were found in this very frame."""
        return self.face.eyes_px is not None


@dataclass(frozen=True)
class _View:
    """A detected face, looked at with the followed person in mind.

    Attributes:
        place: Where it is.
        look: How it looks.
        likeness: To the known looks of the followed person, 0 to 1.
        least: What that must be.
    """

    place: _Place
    look: Look
    likeness: float
    least: float
