"""Several people are followed, and nobody is ever taken for another."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.preprocess.face import FaceDetector
from edge_mer.preprocess.face_detectors import open_face_detector
from edge_mer.preprocess.looks import LookMaker
from edge_mer.preprocess.people import AWAY_NS, CLEARLY, Claim, PeopleTracker, settle
from edge_mer.types.model import FaceAlignment
from tests.helpers.composed import HZ, Walk, composed, stay
from tests.helpers.data import real
from tests.helpers.tiny_people import SIDE, WIDTH, SquaresDetector, crowd

Frame = NDArray[np.uint8]
Seen = list[dict[str, float]]
"""Per frame: name -> middle of the face, in pixels from the left."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    """More threads are slower on pictures of this size."""
    cv2.setNumThreads(1)


def followed(detector: FaceDetector, frames: Sequence[tuple[Frame, int]], max_people: int = 3) -> Seen:
    tracker = PeopleTracker(detector, FaceAlignment(), max_people)
    found: Seen = []
    for frame, t_ns in frames:
        faces = tracker.track(frame, t_ns)
        names = tracker.people
        assert len(names) <= max_people
        assert len({face.person for face in faces}) == len(faces)
        middles = {face.person: face.box_px[0] + face.box_px[2] / 2 for face in faces}
        found.append({names[person]: middle for person, middle in middles.items() if person in names})
    return found


def at(seen: Seen, t_s: float, hz: float = HZ) -> dict[str, int]:
    """Rounded to the nearest 100 pixels."""
    return {name: round(x, -2) for name, x in sorted(seen[round(t_s * hz)].items())}


class TestSimulatedPeople:
    """Three drawn people, found by OpenCV's cascades."""

    def test_who_is_covered_for_a_second_keeps_the_name(self) -> None:
        walks = {4: stay(10), 8: stay(170, (1.5, 2.5)), 0: stay(330)}
        seen = followed(open_face_detector(), composed(walks, 3.5))
        assert at(seen, 1.2) == {"p1": 100, "p2": 200, "p3": 400}
        assert at(seen, 2.0) == {"p1": 100, "p3": 400}
        assert at(seen, 3.3) == {"p1": 100, "p2": 200, "p3": 400}
        assert set().union(*seen) == {"p1", "p2", "p3"}

    def test_two_who_cross_keep_their_names(self) -> None:
        walks = {4: Walk(lambda t_s: 10 + 85 * t_s), 8: Walk(lambda t_s: 310 - 85 * t_s)}
        seen = followed(open_face_detector(), composed(walks, 3.6))
        assert at(seen, 0.7) == {"p1": 100, "p2": 300}
        assert at(seen, 3.5) == {"p1": 400, "p2": 100}
        assert set().union(*seen) == {"p1", "p2"}

    def test_two_who_look_the_same_are_never_swapped(self) -> None:
        walks = {4: Walk(lambda t_s: 10 + 85 * t_s)}
        other = Walk(lambda t_s: 310 - 85 * t_s)
        frames = [
            (np.maximum(one, two), t_ns)
            for (one, t_ns), (two, _) in zip(composed(walks, 3.6), composed({4: other}, 3.6), strict=True)
        ]
        seen = followed(open_face_detector(), frames, 4)
        assert at(seen, 0.7) == {"p1": 100, "p2": 300}
        for moment, names in enumerate(seen):
            t_s = moment / HZ
            for name, expected in (("p1", walks[4]), ("p2", other)):
                if name in names:
                    assert abs(names[name] - 64 - expected.x_px(t_s)) < 40

    def test_who_leaves_for_ten_seconds_comes_back_as_somebody_new(self) -> None:
        walks = {4: stay(10), 8: stay(170, (1.2, 11.2))}
        seen = followed(open_face_detector(), composed(walks, 12.5, hz=4, width_px=320), 2)
        assert at(seen, 1, hz=4) == {"p1": 100, "p2": 200}
        assert at(seen, 12.25, hz=4) == {"p1": 100, "p3": 200}
        assert all("p1" in names for names in seen[4:])


class TestRealPeople:
    """Recorded people on one picture, found by YuNet."""

    def test_they_keep_their_names_when_covered_and_when_they_cross(self) -> None:
        detector = open_face_detector(real("face_detector", "yunet_n_640_640.onnx"))
        clips = [_clip(name) for name in ("bbaf2n", "brbk7n")]
        seen = followed(detector, _crossing(clips), 2)
        assert at(seen, 1) == {"p1": 300, "p2": 700}
        assert at(seen, 3) == {"p2": 500}  # the other one is behind
        assert at(seen, 5) == {"p1": 800, "p2": 200}
        assert set().union(*seen) == {"p1", "p2"}


def _clip(name: str) -> list[Frame]:
    with av.open(str(real("talking_head_video", f"grid_{name}.mpg"))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [*frames, *reversed(frames)]


def _crossing(clips: Sequence[list[Frame]]) -> list[tuple[Frame, int]]:
    """Two people who pass each other within 5.2 s, the second before the first."""
    found = []
    for index in range(round(5.2 * HZ)):
        canvas = np.full((288, 1060, 3), 90, np.uint8)
        for clip, x_px in zip(clips, (130 * index / HZ, 700 - 130 * index / HZ), strict=True):
            picture = clip[round(index * 25 / HZ)]
            canvas[:, round(x_px) : round(x_px) + picture.shape[1]] = picture
        found.append((canvas, round(index * NS_PER_S / HZ)))
    return found


def scene(seed: int, n_frames: int, hz: float) -> list[dict[int, float]]:
    """Three people who wander, cover each other and go away for a while; person -> left edge."""
    rng = np.random.default_rng(seed)
    places, speeds = rng.uniform(0, WIDTH - SIDE, 3), rng.uniform(-8, 8, 3)
    away = np.zeros(3)
    found = []
    for _ in range(n_frames):
        turned = (places + speeds < 0) | (places + speeds > WIDTH - SIDE) | (rng.random(3) < 0.05)
        speeds = np.where(turned, -speeds, speeds)
        places += speeds
        gone = (away <= 0) & (rng.random(3) < 0.05)
        away = np.where(gone, rng.choice([0.3, 1.0, 3.0], 3), away - 1 / hz)
        found.append({k: float(places[k]) for k in range(3) if away[k] <= 0})
    return found


def whose(middle: float, places: dict[int, float]) -> int:
    """Whose square is there; of several at one place, that of who is nearest to the camera."""
    return min(places, key=lambda person: (abs(round(places[person]) + SIDE / 2 - middle), -person))


class TestNobodyIsTakenForAnother:
    """Squares with patterns, however they move."""

    @settings(max_examples=6, deadline=None)
    @given(st.integers(0, 2**32), st.sampled_from([7.5, 15.0]))
    def test_a_name_is_one_persons(self, seed: int, hz: float) -> None:
        truth = scene(seed, 40, hz)
        frames = [(crowd(places), round(i * NS_PER_S / hz)) for i, places in enumerate(truth)]
        seen = followed(SquaresDetector(), frames)
        people, last_ns = defaultdict(set), dict[str, int]()
        for places, names, (_, t_ns) in zip(truth, seen, frames, strict=True):
            for name, middle in names.items():
                people[name].add(whose(middle, places))
                assert t_ns - last_ns.get(name, t_ns) <= AWAY_NS
                last_ns[name] = t_ns
        assert all(len(persons) == 1 for persons in people.values())

    def test_the_order_in_which_a_detector_finds_them_does_not_matter(self) -> None:
        frames = [(crowd(places), i * NS_PER_S // 10) for i, places in enumerate(scene(7, 25, 10))]
        seen = followed(SquaresDetector(), frames)
        assert followed(SquaresDetector(backwards=True), frames) == seen
        assert set().union(*seen) >= {"p1", "p2"}

    def test_who_keeps_still_is_looked_at_once_a_second(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """At first at every frame, to have a name; and at once when another takes a seat."""
        looked_at: list[Frame] = []
        likest = LookMaker.likest

        def noted(self: LookMaker, frame: Frame, *args: Any) -> Any:
            looked_at.append(frame)
            return likest(self, frame, *args)

        monkeypatch.setattr(LookMaker, "likest", noted)
        seats = [{0: 20, 1: 90} if i < 30 else {0: 20, 2: 90} for i in range(32)]
        frames = [(crowd(places), i * NS_PER_S // 10) for i, places in enumerate(seats)]
        seen = followed(SquaresDetector(), frames)
        n_looks = [sum(frame is one for one in looked_at) for frame, _ in frames]
        assert [i for i, n in enumerate(n_looks) if n] == [0, 1, 2, 3, 4, 15, 26, 30, 31]
        assert n_looks[15] == 2
        assert seen[29] == {"p1": 36, "p2": 106}
        assert seen[30] == {"p1": 36}

    def test_they_are_numbered_from_left_to_right_as_they_came(self) -> None:
        frames = [(crowd({0: 150, 1: 90, 2: 20}), i * NS_PER_S // 10) for i in range(8)]
        assert followed(SquaresDetector(), frames)[-1] == {"p1": 36, "p2": 106, "p3": 166}

    def test_who_finds_no_room_waits_for_it(self) -> None:
        def here(index: int) -> dict[int, float]:
            return {0: 20, 1: 90} if index < 10 else {1: 90}

        frames = [(crowd(here(i)), i * NS_PER_S // 10) for i in range(40)]
        seen = followed(SquaresDetector(), frames, 1)
        assert seen[9] == {"p1": 36}
        assert all(names == {} for names in seen[10:30])  # the first one may come back
        assert seen[-1] == {"p2": 106}

    def test_who_takes_a_seat_is_not_who_had_it(self) -> None:
        frames = [(crowd({0 if i < 10 else 1: 90}), i * NS_PER_S // 10) for i in range(45)]
        seen = followed(SquaresDetector(), frames)
        assert seen[9] == {"p1": 106}
        assert all(names == {} for names in seen[10:30])
        assert seen[-1] == {"p2": 106}


claims = st.lists(
    st.builds(
        Claim, st.integers(0, 3), st.integers(0, 3), st.floats(0.8, 1.0), st.sampled_from([0.0, 0.4, 1.0])
    ),
    max_size=12,
    unique_by=lambda claim: (claim.track, claim.face),
)


class TestSettle:
    """Whose each face is."""

    @settings(max_examples=50)
    @given(claims)
    def test_each_is_given_once(self, made: list[Claim]) -> None:
        held, unsure = settle(made)
        for of in ("track", "face"):
            given_out = [getattr(claim, of) for claim in held]
            assert len(set(given_out)) == len(given_out)
        assert unsure.isdisjoint(claim.face for claim in held)
        assert set(held) <= set(made)

    @settings(max_examples=50)
    @given(claims, st.randoms())
    def test_the_order_does_not_matter(self, made: list[Claim], shuffler: st.DataObject) -> None:
        held, unsure = settle(made)
        other = list(made)
        shuffler.shuffle(other)  # type: ignore[attr-defined]
        assert settle(other) == (held, unsure)

    @settings(max_examples=50)
    @given(claims)
    def test_nobody_gets_what_may_as_well_be_anothers(self, made: list[Claim]) -> None:
        for claim in settle(made)[0]:
            for rival in made:
                is_other = (rival.track == claim.track) != (rival.face == claim.face)
                assert not is_other or claim.likeness >= rival.likeness + CLEARLY

    @settings(max_examples=50)
    @given(claims)
    def test_what_is_clear_to_all_is_settled_so(self, made: list[Claim]) -> None:
        best = [
            claim
            for claim in made
            if all(
                claim.likeness > rival.likeness + 3 * CLEARLY
                for rival in made
                if rival != claim and (rival.track == claim.track or rival.face == claim.face)
            )
        ]
        held = settle(made)[0]
        alone = [c for c in best if not any(_touches(c, other) for other in made if other != c)]
        assert set(alone) <= set(held)

    def test_looks_go_before_places(self) -> None:
        crossing = [
            Claim(0, 0, 0.97, 0.1),
            Claim(0, 1, 0.82, 1.0),
            Claim(1, 0, 0.82, 1.0),
            Claim(1, 1, 0.97, 0.1),
        ]
        assert [(c.track, c.face) for c in settle(crossing)[0]] == [(0, 0), (1, 1)]

    def test_who_may_be_either_is_left_out(self) -> None:
        assert settle([Claim(0, 0, 0.95, 1.0), Claim(1, 0, 0.93, 0.9)]) == ([], frozenset({0}))


def _touches(claim: Claim, other: Claim) -> bool:
    return claim.track == other.track or claim.face == other.face


def test_pairs_of_patterns_do_not_look_alike() -> None:
    """What the properties above rest on."""
    for one, two in itertools.combinations(range(3), 2):
        frames = [(crowd({one if i < 8 else two: 90}), i * NS_PER_S // 10) for i in range(9)]
        assert followed(SquaresDetector(), frames)[-1] == {}
