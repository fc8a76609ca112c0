"""Several faces are followed at once: each keeps its identity or loses it, and none takes another's.

Faces are found once per frame for all. Which face is whose is decided for all of them together: by looks
(see `looks`), which alone can tell two people who cross, and by place. Where neither tells, the frame counts
as missing for those it may show.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from statistics import median

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.preprocess.face import (
    MIN_FACE_PX,
    SAME_AFTER_CHANGE,
    SAME_IF_STEADY,
    TYPICAL_EYES,
    Detection,
    Face,
    FaceDetector,
    least_after,
)
from edge_mer.preprocess.image import Crop
from edge_mer.preprocess.looks import (
    CONTINUOUS_NS,
    Box,
    Eyes,
    Glance,
    KnownLooks,
    Look,
    LookMaker,
    Scene,
    eyes_in_box,
    eyes_in_frame,
    intersection_over_union,
    smoothed,
)
from edge_mer.preprocess.visual import ClipReport, write_faces
from edge_mer.types.model import FaceAlignment, FaceClip

AWAY_NS = 2 * NS_PER_S
"""So long somebody who is not seen is waited for. Who comes later is somebody new."""

NEWCOMER_NS = 400_000_000
"""So long a face is watched before it is somebody: detectors take other things for faces for a moment."""

MAX_PEOPLE = 8
"""That can be followed at once."""

CLEARLY = 0.05
"""So much liker than to any other a face must be to somebody, where the place does not tell."""

_OPTIMIZER = "scipy.optimize"
"""Takes 25 MB of memory: it is loaded by sessions that follow several people, and by no others."""

_NEWCOMER_SIGHTINGS = 3
_SAME_PLACE = 0.3
"""Least overlap (intersection over union) of boxes at the same place."""

_PLACE_WEIGHT = 0.05
_REACH, _REACH_PER_S = 1.0, 3.0
"""How far somebody gets unseen, in sides of the face's box: at once, and per second."""

_RESIZED, _RESIZED_PER_S = 1.5, 1.0
"""How many times larger or smaller a face gets: at once, and more per second."""

_MAX_STRANGERS = 16
_USUAL_FRAMES = 5


@dataclass(frozen=True)
class Claim:
    """A face may be somebody's.

    Attributes:
        track: Who.
        face: Which of the faces found.
        likeness: 0 to 1, and enough.
        overlap: Of the face's place with where they are expected, 0 to 1.
    """

    track: int
    face: int
    likeness: float
    overlap: float


def settle(claims: Sequence[Claim]) -> tuple[list[Claim], frozenset[int]]:
    """Give each face to one at most, and each one face at most, so that likeness is largest in all.

    Returns:
        The claims that hold; and faces that are left out, since two are as like to one, or one to two.
    """
    tracks = sorted({claim.track for claim in claims})
    faces = sorted({claim.face for claim in claims})
    places = {(claim.track, claim.face): claim for claim in claims}
    worth = np.zeros((len(tracks), len(faces)))
    for (track, face), claim in places.items():
        score = claim.likeness + _PLACE_WEIGHT * claim.overlap
        worth[tracks.index(track), faces.index(face)] = score
    rows, columns = import_module(_OPTIMIZER).linear_sum_assignment(worth, maximize=True)
    chosen = [places.get((tracks[row], faces[column])) for row, column in zip(rows, columns, strict=True)]
    held = [claim for claim in chosen if claim is not None]
    sure = [claim for claim in held if _is_clear(claim, claims)]
    return sure, frozenset(faces) - {claim.face for claim in sure} if len(sure) < len(held) else frozenset()


def _is_clear(claim: Claim, claims: Iterable[Claim]) -> bool:
    rivals = [r for r in claims if r != claim and (r.track == claim.track or r.face == claim.face)]
    return all(claim.likeness >= rival.likeness + CLEARLY for rival in rivals)


@dataclass
class _Track:
    """Somebody who is followed, or a stranger who may come to be.

    Attributes:
        number: Counts tracks.
        first_ns: When they were first seen.
        stands_for: Of a stranger who appeared where somebody was, and does not look like them: who that was.
        name: "p1", "p2" and so on; None of a stranger.
        n_seen: Frames that show them.
        known: How they look.
        least: How like that their next face must be, if it is where they were.
        seen_ns: When they were last seen.
        face: Where that was.
        eyes_in_box: Their eyes when they were last found, in fractions of the box; None = never.
        eyes_ns: When that was.
        speed_px: Of the face, right and down, in pixels per nanosecond.
        glance: At the face when it was last looked at; None = without eyes.
    """

    number: int
    first_ns: int
    stands_for: int | None
    name: str | None = None
    n_seen: int = 0
    known: KnownLooks = field(default_factory=KnownLooks)
    least: float = SAME_IF_STEADY
    seen_ns: int = 0
    face: Face | None = None
    eyes_in_box: Eyes | None = None
    eyes_ns: int = 0
    speed_px: complex = 0j
    glance: Glance | None = None

    def expected(self, t_ns: int) -> list[Box]:
        """Where the face is if it stays, and if it moves on as it did."""
        if self.face is None:
            return []
        x, y, width, height = self.face.box_px
        moved = self.speed_px * min(t_ns - self.seen_ns, CONTINUOUS_NS)
        return [(x, y, width, height), (x + moved.real, y + moved.imag, width, height)]

    def overlap(self, box: Box, t_ns: int) -> float:
        """With where they were a moment ago, or would be now."""
        if t_ns - self.seen_ns > CONTINUOUS_NS:
            return 0.0
        return max((intersection_over_union(box, expected) for expected in self.expected(t_ns)), default=0.0)

    def can_reach(self, box: Box, t_ns: int) -> bool:
        """Whether they can be there by now, and so large."""
        if self.face is None:
            return False
        gap_s = (t_ns - self.seen_ns) / NS_PER_S
        small, large = sorted((box[2], self.face.box_px[2]))
        far_px = min(abs(_middle(box) - _middle(one)) for one in self.expected(t_ns))
        is_in_reach = far_px <= (_REACH + _REACH_PER_S * gap_s) * large
        return is_in_reach and large <= (_RESIZED + _RESIZED_PER_S * gap_s) * small


@dataclass(frozen=True)
class _View:
    """A face as it looks to somebody who claims it."""

    eyes: Eyes
    aligned: bool
    look: Look
    likeness: float


class PeopleTracker:
    """Follows several faces: same frames, same results. For one thread at a time.

    Args:
        detector: Finds the faces of single frames.
        alignment: What the model declares; `eyes_max_age_s` says how old eye positions may be.
        max_people: How many are followed at once, at most; 1 to `MAX_PEOPLE`.

    Raises:
        MissingError: This OpenCV is not version 4.
    """

    def __init__(self, detector: FaceDetector, alignment: FaceAlignment, max_people: int) -> None:
        self._detector, self._max_people = detector, max_people
        self._eyes_max_age_ns = round(alignment.eyes_max_age_s * NS_PER_S)
        self._look_maker = LookMaker()
        import_module(_OPTIMIZER)  # now, and not when the first faces come
        self._tracks: dict[int, _Track] = {}
        self._n_tracks = self._n_names = 0
        self._scene: Scene | None = None
        self._newest_ns = self._looked_ns = 0
        self._changes: deque[float] = deque(maxlen=_USUAL_FRAMES)

    @property
    def people(self) -> dict[int, str]:
        """`Face.person` -> name of those who are followed, in the order in which they came."""
        named = [track for track in self._tracks.values() if track.name is not None]
        return {track.number: track.name for track in sorted(named, key=_rank) if track.name is not None}

    def forget(self, now_ns: int) -> None:
        """Who was not seen for longer than `AWAY_NS` is gone, and leaves room."""
        self._tracks = {
            number: track for number, track in self._tracks.items() if now_ns - track.seen_ns <= AWAY_NS
        }

    def track(self, frame: NDArray[np.uint8], t_ns: int) -> list[Face]:
        """Find the faces of the next frame, those of strangers too.

        Args:
            frame: (height, width, 3) uint8 RGB.
            t_ns: When it was captured, in nanoseconds; frames come in the order of time.

        Returns:
            The faces of which it is sure whose they are; `Face.person` is a key of `people`, or a stranger's.

        Raises:
            DataError: The detector cannot use the frame.
        """
        self.forget(t_ns)
        found = [face for face in self._detector.detect(frame) if min(face.box_px[2:]) >= MIN_FACE_PX]
        found.sort(key=lambda face: face.box_px)  # whatever order the detector has
        faces = self._glance_at(frame, found, t_ns) or self._look(frame, found, t_ns)
        self._newest_ns = t_ns
        return faces

    def _glance_at(self, frame: NDArray[np.uint8], found: list[Detection], t_ns: int) -> list[Face]:
        """Follow those who were looked at a moment ago; nobody if any picture has changed since."""
        steady = self._steady(frame, found, t_ns)
        if steady and self._scene is not None and self._looked_ns == self._newest_ns:
            # the first frame after a look tells what changes are usual
            before, self._scene = self._scene, Scene.of(frame, (face.box_px for face in found))
            self._changes.append(self._scene.change(before))
        return [self._follow(track, face, *self._eyes(track, face, t_ns), t_ns) for track, face in steady]

    def _steady(
        self, frame: NDArray[np.uint8], found: list[Detection], t_ns: int
    ) -> list[tuple[_Track, Detection]]:
        """Whose all faces are, if they were looked at a moment ago and none has changed; else empty."""
        steady = []
        for face in found:
            here = [track for track in self._tracks.values() if track.overlap(face.box_px, t_ns) > 0]
            glance = here[0].glance if len(here) == 1 and here[0].name is not None else None
            if glance is None or not glance.still_shows(frame, face.box_px, t_ns):
                return []
            steady.append((here[0], face))
        return steady if len({track.number for track, _ in steady}) == len(steady) else []

    def _look(self, frame: NDArray[np.uint8], found: list[Detection], t_ns: int) -> list[Face]:
        """Find who is who by looks."""
        self._note_breaks(Scene.of(frame, (face.box_px for face in found)), t_ns)
        views, claims = self._claims(frame, found, t_ns)
        held, unsure = settle(claims)
        faces = [
            self._recognise(
                self._tracks[claim.track], frame, found[claim.face], views[claim.track, claim.face], t_ns
            )
            for claim in held
        ]
        taken = [face.box_px for face in faces]
        self._end_strangers(faces, t_ns)
        for index, face in enumerate(found):
            is_new = index not in unsure and all(_apart(face.box_px, box) for box in taken)
            if is_new and face.eyes_px is not None and len(self._tracks) < _MAX_STRANGERS + self._max_people:
                faces.append(self._meet(frame, face, face.eyes_px, t_ns))
        self._name_newcomers(t_ns)
        self._looked_ns = t_ns
        return faces

    # -- who is who ----------------------------------------------------------------------------

    def _note_breaks(self, scene: Scene, t_ns: int) -> None:
        """After a sudden change of the scene, the next look of everybody must prove who they are."""
        before, self._scene = self._scene, scene
        least = SAME_IF_STEADY
        if before is not None and t_ns - self._newest_ns <= CONTINUOUS_NS:
            change = scene.change(before)
            least = least_after(change, median(self._changes) if self._changes else 0.0)
            self._changes.append(change)
        for track in self._tracks.values():
            track.least, track.glance = max(track.least, least), None

    def _claims(
        self, frame: NDArray[np.uint8], found: list[Detection], t_ns: int
    ) -> tuple[dict[tuple[int, int], _View], list[Claim]]:
        """Whose each face may be: those who were there a moment ago first, then those who were away."""
        views: dict[tuple[int, int], _View] = {}
        claims: list[Claim] = []
        for is_near in (True, False):
            near = list(claims)
            for track in self._tracks.values():
                for index, face in enumerate(found):
                    overlap = track.overlap(face.box_px, t_ns)
                    if (overlap >= _SAME_PLACE) != is_near or not track.can_reach(face.box_px, t_ns):
                        continue
                    if any(self._is_settled(claim, track, index) for claim in near):
                        continue
                    least = track.least if is_near else max(track.least, SAME_AFTER_CHANGE)
                    view = self._view(frame, face, track, t_ns, least, is_near=is_near)
                    if view is not None and view.likeness >= least:
                        views[track.number, index] = view
                        claims.append(Claim(track.number, index, view.likeness, overlap))
        return views, [claim for claim in claims if not self._is_overruled(claim, claims)]

    def _is_settled(self, near: Claim, track: _Track, face: int) -> bool:
        """Whether somebody who was away need not be looked for: they are here, or the face is another's."""
        if near.track == track.number:
            return True
        return near.face == face and not _may_be(self._tracks[near.track], track)

    def _is_overruled(self, claim: Claim, claims: list[Claim]) -> bool:
        """Whether a stranger turns out to be somebody who was away, or looked different for a moment."""
        stranger = self._tracks[claim.track]
        return any(
            _may_be(stranger, self._tracks[other.track]) for other in claims if other.face == claim.face
        )

    def _view(
        self,
        frame: NDArray[np.uint8],
        face: Detection,
        track: _Track,
        t_ns: int,
        least: float,
        *,
        is_near: bool,
    ) -> _View | None:
        """None when there is too little to see: no eyes, and nobody was there a moment ago."""
        if face.eyes_px is None and (not is_near or track.least > SAME_IF_STEADY):
            return None
        eyes, aligned = self._eyes(track, face, t_ns)
        look, likeness = self._look_maker.likest(frame, eyes, track.known, least + CLEARLY)
        return _View(eyes, aligned, look, likeness)

    def _eyes(self, track: _Track, face: Detection, t_ns: int) -> tuple[Eyes, bool]:
        """Those found, else carried from earlier frames or typical ones; False = typical."""
        if face.eyes_px is not None:
            return face.eyes_px, True
        is_fresh = t_ns - track.eyes_ns <= self._eyes_max_age_ns
        carried = track.eyes_in_box if is_fresh else None
        return eyes_in_frame(carried or TYPICAL_EYES, face.box_px), carried is not None

    def _recognise(
        self, track: _Track, frame: NDArray[np.uint8], face: Detection, view: _View, t_ns: int
    ) -> Face:
        """Remember how somebody looks."""
        if face.eyes_px is not None:
            track.known.remember(view.look, view.likeness)
            track.glance = Glance.at(frame, face.box_px, t_ns)
        track.least = SAME_IF_STEADY
        return self._follow(track, face, view.eyes, view.aligned, t_ns)

    def _follow(self, track: _Track, found: Detection, eyes: Eyes, aligned: bool, t_ns: int) -> Face:
        """Remember where somebody is."""
        before, box = track.face, found.box_px
        if before is not None and track.overlap(box, t_ns) >= _SAME_PLACE:
            track.speed_px = (_middle(box) - _middle(before.box_px)) / max(1, t_ns - track.seen_ns)
            if aligned and before.aligned:
                eyes = smoothed((before.left_eye_px, before.right_eye_px), eyes)
        else:
            track.speed_px = 0j
        if found.eyes_px is not None:
            track.eyes_in_box, track.eyes_ns = eyes_in_box(eyes, box), t_ns
        track.seen_ns = t_ns
        track.n_seen += 1
        track.face = Face(box, eyes[0], eyes[1], aligned, track.number)
        return track.face

    def _end_strangers(self, seen: list[Face], t_ns: int) -> None:
        """Strangers in whose place somebody is seen now were nobody else; the others stand for nobody."""
        for stranger in [track for track in self._tracks.values() if track.name is None]:
            if any(stranger.stands_for == face.person for face in seen):
                stranger.stands_for = None
            boxes = [] if stranger.face is None or stranger.seen_ns == t_ns else [stranger.face.box_px]
            if not all(_apart(box, face.box_px) for box in boxes for face in seen):
                del self._tracks[stranger.number]

    def _meet(self, frame: NDArray[np.uint8], face: Detection, eyes: Eyes, t_ns: int) -> Face:
        """Somebody who is not known."""
        was_there = [
            track.number
            for track in self._tracks.values()
            if track.name is not None and not all(_apart(face.box_px, box) for box in track.expected(t_ns))
        ]
        track = _Track(self._n_tracks, t_ns, was_there[0] if was_there else None, seen_ns=t_ns)
        self._n_tracks += 1
        self._tracks[track.number] = track
        look, likeness = self._look_maker.likest(frame, eyes, track.known, 0.0)
        return self._recognise(track, frame, face, _View(eyes, True, look, likeness), t_ns)

    def _name_newcomers(self, t_ns: int) -> None:
        """Strangers who stayed become somebody while there is room, the first ones first."""
        for track in sorted(self._tracks.values(), key=_rank):
            has_stayed = track.n_seen >= _NEWCOMER_SIGHTINGS and t_ns - track.first_ns >= NEWCOMER_NS
            is_free = track.stands_for not in self._tracks
            if track.name is None and has_stayed and is_free and len(self.people) < self._max_people:
                self._n_names += 1
                track.name = f"p{self._n_names}"


class PeopleClipMaker:
    """Stateful: the clips of everybody who is followed through a session.

    Args:
        spec: The clip that the model declares.
        detector: Finds faces.
        max_people: How many are followed at once.
        gates: Leave out faces that are too small or too blurred.
    """

    def __init__(
        self, spec: FaceClip, detector: FaceDetector, max_people: int, *, gates: bool = True
    ) -> None:
        self._spec, self._gates = spec, gates
        self._tracker = PeopleTracker(detector, spec.alignment, max_people)
        self._last: tuple[int, list[Face]] | None = None
        self._frames: Sequence[tuple[int, NDArray[np.uint8]] | None] = ()
        self._faces: list[list[Face]] = []

    def look(self, frames: Sequence[tuple[int, NDArray[np.uint8]] | None], end_ns: int) -> list[str]:
        """Find everybody in the frames of a clip.

        Args:
            frames: (capture time in ns, (height, width, 3) uint8 RGB) or None, oldest first.
            end_ns: When the clip ends.

        Returns:
            Who is followed, in the order in which they came; also who is not seen, but may come back.
        """
        self._frames = frames
        self._faces = [[] if frame is None else self._found(*frame) for frame in frames]
        self._tracker.forget(end_ns)
        return list(self._tracker.people.values())

    def make(self, name: str, write: Callable[[Sequence[Crop | None]], None]) -> ClipReport:
        """Have somebody's clip written, of the frames that were looked at last.

        Args:
            name: Of `look`.
            write: Takes the clip's crops, oldest first; None = missing.
        """
        number = next(number for number, who in self._tracker.people.items() if who == name)
        faces = [next((face for face in found if face.person == number), None) for found in self._faces]
        return write_faces(self._spec, self._frames, faces, write, gates=self._gates)

    def _found(self, t_ns: int, pixels: NDArray[np.uint8]) -> list[Face]:
        """A slow camera's frame may stand at two places of a clip; it is searched once."""
        if self._last is None or self._last[0] != t_ns:
            self._last = (t_ns, self._tracker.track(pixels, t_ns))
        return self._last[1]


def _rank(track: _Track) -> tuple[int, int]:
    """First come; of those who came at once, as they were from left to right."""
    return track.first_ns, track.number


def _may_be(stranger: _Track, track: _Track) -> bool:
    """Whether a stranger may be somebody with a name: one who was not seen since the stranger was."""
    return stranger.name is None and track.name is not None and track.seen_ns < stranger.first_ns


def _middle(box: Box) -> complex:
    return complex(box[0] + box[2] / 2, box[1] + box[3] / 2)


def _apart(box: Box, other: Box) -> bool:
    """Whether two boxes are of two faces; some detectors find small faces within large ones."""
    return abs(_middle(box) - _middle(other)) > max(box[2], other[2]) / 2
