"""A face is found, aligned and followed, and another person in its place is noticed at once."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.errors import DataError, MissingError
from edge_mer.preprocess import face_detectors
from edge_mer.preprocess.face import (
    MIN_FACE_PX,
    Detection,
    Face,
    FaceDetector,
    FaceTracker,
    crop_transform,
)
from edge_mer.preprocess.face_detectors import CascadeDetector, open_face_detector
from edge_mer.preprocess.looks import LOOK_AGAIN_NS, Box, Eyes, Glance, LookMaker
from edge_mer.sources.sim import SimSource
from edge_mer.types.model import FaceAlignment
from tests.helpers.data import real

Frame = NDArray[np.uint8]
Timeline = list[tuple[Frame, int]]

GRID = ("bbaf2n", "brbk7n", "id2_vcd_swwp2s", "lbax4n", "lrwp9a", "sbia1a")
GRID_HZ = 25
DETECTORS = ("haar", "yunet")


class Remembering:
    """A detector that searches no frame twice."""

    def __init__(self, detector: FaceDetector) -> None:
        self.name = detector.name
        self._detector = detector
        self._found: dict[int, tuple[Frame, list[Detection]]] = {}

    def detect(self, frame: Frame) -> list[Detection]:
        if id(frame) not in self._found:
            self._found[id(frame)] = (frame, self._detector.detect(frame))
        return self._found[id(frame)][1]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    """More threads are slower on pictures of this size."""
    cv2.setNumThreads(1)


@pytest.fixture(scope="module")
def clips() -> list[list[Frame]]:
    """Six people, 75 frames each, at similar places before similar walls."""
    found = []
    for name in GRID:
        with av.open(str(real("talking_head_video", f"grid_{name}.mpg"))) as container:
            found.append([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return found


@pytest.fixture(scope="module")
def wall(clips: list[list[Frame]]) -> Frame:
    """A picture with nobody in it."""
    return np.full_like(clips[0][0], clips[0][0][:40, :80].mean(axis=(0, 1)))


@pytest.fixture(scope="module")
def detectors() -> dict[str, Remembering]:
    yunet = real("face_detector", "yunet_n_640_640.onnx")
    return {"haar": Remembering(open_face_detector()), "yunet": Remembering(open_face_detector(yunet))}


def photo(name: str) -> Frame:
    picture = cv2.imread(str(real("face_photos", name)))
    return np.asarray(cv2.cvtColor(np.asarray(picture), cv2.COLOR_BGR2RGB), np.uint8)


def sampled(clip: list[Frame], hz: float) -> list[Frame]:
    return [clip[round(i * GRID_HZ / hz)] for i in range(int(len(clip) * hz / GRID_HZ))]


def timeline(frames: list[Frame], hz: float) -> Timeline:
    return [(frame, int(i * NS_PER_S / hz)) for i, frame in enumerate(frames)]


def followed(detector: FaceDetector, frames: Timeline) -> list[Face | None]:
    tracker = FaceTracker(detector, FaceAlignment())
    return [tracker.track(frame, t_ns) for frame, t_ns in frames]


def newcomers(faces: list[Face | None]) -> list[int]:
    """Frames in which another person is seen than before."""
    seen = [(index, face.person) for index, face in enumerate(faces) if face is not None]
    assert all(after - before in (0, 1) for (_, before), (_, after) in itertools.pairwise(seen))
    return [index for (_, before), (index, after) in itertools.pairwise(seen) if after != before]


def distance_of_eyes(eyes: Eyes) -> float:
    return float(np.hypot(*np.subtract(eyes[1], eyes[0])))


class TestOnRealPeople:
    """Recorded people, frontal, who speak."""

    @pytest.mark.parametrize("name", DETECTORS)
    @pytest.mark.parametrize(("hz", "n_frames"), [(15, 6), (7.5, 8)])
    def test_six_people_one_after_the_other_are_six_persons(
        self,
        clips: list[list[Frame]],
        detectors: dict[str, Remembering],
        name: str,
        hz: float,
        n_frames: int,
    ) -> None:
        pieces = [sampled(clip, hz)[:n_frames] for clip in clips]
        cuts = list(itertools.accumulate(len(piece) for piece in pieces[:-1]))
        faces = followed(detectors[name], timeline(list(itertools.chain(*pieces)), hz))
        found = [face for face in faces if face is not None]
        assert len(found) >= 0.99 * len(faces)
        assert sum(face.aligned for face in found) >= 0.97 * len(faces)
        assert newcomers(faces) == cuts

    @pytest.mark.parametrize("away_s", [1, 20])
    def test_who_comes_back_is_the_same_person(
        self, clips: list[list[Frame]], wall: Frame, detectors: dict[str, Remembering], away_s: int
    ) -> None:
        for clip in clips:
            frames = sampled(clip, 7.5)
            away = [wall] * round(7.5 * away_s)
            faces = followed(detectors["yunet"], timeline(frames[:6] + away + frames[-6:], 7.5))
            assert [face is None for face in faces] == [False] * 6 + [True] * len(away) + [False] * 6
            assert newcomers(faces) == []

    def test_who_comes_instead_is_another_person(
        self, clips: list[list[Frame]], wall: Frame, detectors: dict[str, Remembering]
    ) -> None:
        for clip, other in itertools.permutations(clips, 2):
            frames = sampled(clip, 7.5)[:4] + [wall] * 20 + sampled(other, 7.5)[:4]
            assert newcomers(followed(detectors["yunet"], timeline(frames, 7.5))) == [24]

    @pytest.mark.parametrize("name", DETECTORS)
    def test_light_and_motion_do_not_make_another_person(
        self, clips: list[list[Frame]], detectors: dict[str, Remembering], name: str
    ) -> None:
        rng = np.random.default_rng(1)
        frames: list[Frame] = []
        for i, frame in enumerate(sampled(clips[3], 7.5)):
            shift = np.array([[1, 0, 25 * np.sin(i)], [0, 1, 10 * np.cos(i)]])
            moved = cv2.warpAffine(frame, shift, frame.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
            light = 1 - 0.03 * i if i < 16 else 1.0
            noisy = moved * light + rng.normal(0, 5, frame.shape)
            frames.append(np.clip(noisy, 0, 255).astype(np.uint8))
        faces = followed(detectors[name], timeline(frames, 7.5))
        assert all(face is not None and face.aligned and face.person == 0 for face in faces)

    @pytest.mark.parametrize("name", DETECTORS)
    def test_eyes_are_smoother_than_the_detectors(
        self, clips: list[list[Frame]], detectors: dict[str, Remembering], name: str
    ) -> None:
        frames = sampled(clips[5], 7.5)
        raw = [detectors[name].detect(frame)[0].eyes_px for frame in frames]
        faces = followed(detectors[name], timeline(frames, 7.5))
        eyes = [(face.left_eye_px, face.right_eye_px) for face in faces if face is not None]
        pairs = [(before, after) for before, after in zip(raw, eyes, strict=True) if before is not None]
        jitter = np.diff(np.array(pairs, np.float64), axis=0).std(axis=(0, 2, 3))
        assert jitter[1] < 0.8 * jitter[0]
        offset = np.array([np.subtract(after, before) for before, after in pairs])
        assert np.abs(offset).max() < 0.1 * distance_of_eyes(eyes[0])

    @pytest.mark.parametrize("name", DETECTORS)
    def test_photos(self, detectors: dict[str, Remembering], name: str) -> None:
        astronaut, cup = photo("astronaut_512.png"), photo("coffee_noface_600x400.png")
        (face,) = followed(detectors[name], [(astronaut, 0)])
        assert face is not None
        assert face.aligned
        assert face.left_eye_px == pytest.approx((203, 103), abs=5)
        assert face.right_eye_px == pytest.approx((248, 105), abs=5)
        assert followed(detectors[name], [(cup, 0)]) == [None]

    def test_a_profile_is_not_aligned_by_eyes_that_lie_behind_each_other(
        self, detectors: dict[str, Remembering]
    ) -> None:
        profile = photo("camera_gray_512.png")
        (face,) = followed(detectors["yunet"], [(profile, 0)])
        assert face is not None
        assert not face.aligned
        assert detectors["haar"].detect(profile) == []

    @pytest.mark.parametrize("name", DETECTORS)
    def test_a_large_frame_gives_the_same_eyes(
        self, clips: list[list[Frame]], detectors: dict[str, Remembering], name: str
    ) -> None:
        small = clips[1][0]
        large = cv2.resize(small, None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
        (expected,), (found,) = (detectors[name].detect(f) for f in (small, large))
        assert expected.eyes_px is not None
        assert found.eyes_px is not None
        offset = (np.array(found.eyes_px) + 0.5) / 5 - 0.5 - np.array(expected.eyes_px)
        assert np.abs(offset).max() < 0.08 * distance_of_eyes(expected.eyes_px)

    def test_cascades_see_a_dark_face_too(
        self, clips: list[list[Frame]], detectors: dict[str, Remembering]
    ) -> None:
        dark = clips[0][0] // 5
        backlit = cv2.copyMakeBorder(dark, 0, 0, 60, 60, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        for frame in (dark, np.asarray(backlit, np.uint8)):
            (face,) = detectors["haar"].detect(frame)
            assert face.eyes_px is not None

    @pytest.mark.parametrize("name", DETECTORS)
    def test_threads_may_share_a_detector(self, clips: list[list[Frame]], name: str) -> None:
        yunet = real("face_detector", "yunet_n_640_640.onnx") if name == "yunet" else None
        detector = open_face_detector(yunet)
        frames = [clip[0][: 288 - 8 * i] for i, clip in enumerate(clips)]
        alone = [detector.detect(frame) for frame in frames]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(detector.detect, frames)) == alone


class Looks:
    """Counts the looks that are made, and may forbid that any is spared."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch, self.n = monkeypatch, 0
        likest = LookMaker.likest

        def counted(*args: Any) -> Any:
            self.n += 1
            return likest(*args)

        monkeypatch.setattr(LookMaker, "likest", counted)

    def at_every_frame(self, detector: FaceDetector, frames: Timeline) -> list[Face | None]:
        with self._monkeypatch.context() as patch:
            patch.setattr(Glance, "still_shows", lambda *_: False)
            return followed(detector, frames)


class Shown:
    """Finds what was found in each frame before."""

    name = "shown"

    def __init__(self, found: list[tuple[Frame, Detection]]) -> None:
        self._found = {id(frame): (frame, face) for frame, face in found}

    def detect(self, frame: Frame) -> list[Detection]:
        return [self._found[id(frame)][1]]


def moved(frame: Frame, face: Detection, onto: Box) -> tuple[Frame, Detection]:
    """A picture resized and shifted so that a face comes to lie in a box."""
    (x, y, side, _), (to_x, to_y, to_side, _) = face.box_px, onto
    scale = to_side / side
    shift = np.array([[scale, 0, to_x - scale * x], [0, scale, to_y - scale * y]])
    picture = cv2.warpAffine(frame, shift, frame.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    assert face.eyes_px is not None
    left, right = ((to_x + scale * (a - x), to_y + scale * (b - y)) for a, b in face.eyes_px)
    return np.asarray(picture, np.uint8), Detection(onto, face.score, (left, right))


def head_mask(frame: Frame, box: Box) -> NDArray[np.bool_]:
    """(height, width, 1): where a head is, by its face's box."""
    x, y, width, height = box
    mask = np.zeros(frame.shape[:2], np.uint8)
    middle, axes = (
        (round(x + width / 2), round(y + 0.42 * height)),
        (round(0.5 * width), round(0.75 * height)),
    )
    cv2.ellipse(mask, middle, axes, 0, 0, 360, (1,), -1)
    return mask[..., np.newaxis] > 0


class TestGlances:
    """Looks that are spared, on recorded people; what would have been seen is seen all the same."""

    @staticmethod
    def shown(clip: list[Frame], detector: FaceDetector) -> list[tuple[Frame, Detection]]:
        return [(frame, detector.detect(frame)[0]) for frame in clip]

    @pytest.mark.parametrize("name", DETECTORS)
    def test_people_who_speak_are_looked_at_once_a_second(
        self,
        clips: list[list[Frame]],
        detectors: dict[str, Remembering],
        monkeypatch: pytest.MonkeyPatch,
        name: str,
    ) -> None:
        looks = Looks(monkeypatch)
        for clip in clips:
            frames = timeline([*clip, *clip[-2::-1], *clip[1:]], GRID_HZ)
            looks.n = 0
            faces = followed(detectors[name], frames)
            assert frames[-1][1] / (1.1 * LOOK_AGAIN_NS) <= looks.n <= 0.07 * len(frames)
            assert faces == looks.at_every_frame(detectors[name], frames)

    @pytest.mark.parametrize("hz", [25, 12.5])
    @pytest.mark.parametrize("is_backlit", [False, True])
    def test_a_cut_at_the_same_place_before_the_same_wall(
        self,
        clips: list[list[Frame]],
        detectors: dict[str, Remembering],
        monkeypatch: pytest.MonkeyPatch,
        hz: float,
        is_backlit: bool,
    ) -> None:
        """Only the head is another one; that may not wait until looks are made anyway."""
        looks, n_noticed = Looks(monkeypatch), 0
        for clip, other in itertools.permutations(clips, 2):
            before = self.shown(sampled(clip, hz)[:6], detectors["yunet"])
            wall, box = before[-1][0], before[-1][1].box_px
            mask = head_mask(wall, box)
            if is_backlit:
                wall = np.full_like(wall, 255)
                before = [(np.where(mask, frame // 5, wall), face) for frame, face in before]
            after = []
            for frame, face in self.shown(sampled(other, hz)[:4], detectors["yunet"]):
                picture, placed = moved(frame, face, box)
                after.append((np.where(mask, picture // (5 if is_backlit else 1), wall), placed))
            found = before + after
            frames = timeline([frame for frame, _ in found], hz)
            looks.n = 0
            faces = followed(Shown(found), frames)
            assert looks.n >= 2  # at the first one, and at the other one
            assert faces == looks.at_every_frame(Shown(found), frames)
            n_noticed += newcomers(faces) == [len(before) + 1]
        assert is_backlit or n_noticed >= 25

    @pytest.mark.parametrize("fade_s", [1, 2])
    def test_people_who_fade_into_each_other_are_told_apart_as_well_as_by_looks_at_all_frames(
        self,
        clips: list[list[Frame]],
        detectors: dict[str, Remembering],
        monkeypatch: pytest.MonkeyPatch,
        fade_s: int,
    ) -> None:
        looks, n_noticed, n_noticed_by_all = Looks(monkeypatch), 0, 0
        hz, n_steady = 15, 5
        for clip, other in itertools.permutations(clips, 2):
            own = self.shown(sampled(clip, hz), detectors["yunet"])
            place = own[0][1].box_px
            found = []
            for index in range(2 * n_steady + fade_s * hz):
                share = min(1.0, max(0.0, (index - n_steady) / (fade_s * hz)))
                frame, face = own[index]
                picture, placed = moved(
                    *self.shown(sampled(other, hz)[index:][:1], detectors["yunet"])[0], place
                )
                mixed = np.rint((1 - share) * frame + share * picture).astype(np.uint8)
                found.append((mixed, face if share < 0.5 else placed))
            frames = timeline([frame for frame, _ in found], hz)
            n_noticed += bool(newcomers(followed(Shown(found), frames)))
            n_noticed_by_all += bool(newcomers(looks.at_every_frame(Shown(found), frames)))
        assert n_noticed >= max(1, n_noticed_by_all)


class TestOnSimulatedPeople:
    """Drawn faces with expressions."""

    @staticmethod
    def frames(uri: str) -> Timeline:
        source = SimSource(uri)
        source.ensure_ready()
        source.start()
        frames: Timeline = []
        while not source.ended:
            chunk = source.read(1000)
            if chunk is not None and chunk.modality == "visual" and chunk.seq % 4 == 0:
                frames.append((np.asarray(chunk.data, np.uint8), chunk.t_ns))
        return frames

    @pytest.mark.parametrize("person", [2, 6])
    def test_the_same_person_stays_the_same(self, person: int) -> None:
        faces = followed(open_face_detector(), self.frames(f"seed=1&person={person}&duration_s=3"))
        assert all(face is not None and face.aligned and face.person == 0 for face in faces)

    @pytest.mark.parametrize(("person", "other"), [(2, 4), (5, 0)])
    def test_another_person_is_noticed_at_once(self, person: int, other: int) -> None:
        uri = f"seed=1&person={person}&duration_s=2&switch_s=1.5&switch_person={other}"
        frames = self.frames(uri)
        switch = next(index for index, (_, t_ns) in enumerate(frames) if 2 * t_ns >= 3 * NS_PER_S)
        assert newcomers(followed(open_face_detector(), frames)) == [switch]

    @pytest.mark.parametrize("times", [1, 5])
    def test_pictures_are_scaled_alike_on_every_processor(
        self, monkeypatch: pytest.MonkeyPatch, times: int
    ) -> None:
        """Of a small picture the strip with the eyes is enlarged, a large one is halved first."""
        frame = self.frames("seed=3&person=3&duration_s=1")[0][0]
        frame = np.repeat(np.repeat(frame, times, axis=0), times, axis=1)
        resize, ways = cv2.resize, []

        def noted(picture: Frame, size: tuple[int, int], *, interpolation: int) -> Frame:
            ways.append(interpolation)
            return np.asarray(resize(picture, size, interpolation=interpolation), np.uint8)

        monkeypatch.setattr(cv2, "resize", noted)
        assert open_face_detector().detect(frame)[0].eyes_px is not None
        assert cv2.INTER_LINEAR_EXACT in ways
        assert set(ways) <= {cv2.INTER_AREA, cv2.INTER_LINEAR_EXACT}


WIDTH, HEIGHT = 320, 240
STEP_NS = NS_PER_S // 8


class Scripted:
    """Finds what it is told to."""

    name = "scripted"

    def __init__(self) -> None:
        self.found: list[Detection] = []

    def detect(self, frame: Frame) -> list[Detection]:
        return list(self.found)


def detection(x: float, y: float, side: float = 80, score: float = 0.9, eyes: bool = True) -> Detection:
    level = y + 0.378 * side
    pair = ((x + 0.324 * side, level), (x + 0.68 * side, level))
    return Detection((x, y, side, side), score, pair if eyes else None)


def blotches(seed: int, cells: tuple[int, int], width: int, height: int) -> Frame:
    """A smooth pattern of (down, across) cells, stretched to a size in pixels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (*cells, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def scene(*people: tuple[int, Detection], wall: int = 1000) -> Frame:
    """People, each of a pattern of its own, before a wall."""
    frame = blotches(wall, (6, 8), WIDTH, HEIGHT)
    for seed, face in people:
        x, y, side = (round(value) for value in face.box_px[:3])
        top = max(0, y - side // 4)
        head = blotches(seed, (12, 10), side, side + side // 4)[top - y + side // 4 :]
        frame[top : y + side, x : x + side] = head[:, : WIDTH - x]
    return frame


class Session:
    """A tracker, eight frames a second."""

    def __init__(self, **alignment: float) -> None:
        self.detector = Scripted()
        self.tracker = FaceTracker(self.detector, FaceAlignment.model_validate(alignment))
        self.t_ns = 0

    def see(self, frame: Frame, *found: Detection, after_s: float = 0.125) -> Face | None:
        self.t_ns += round(after_s * NS_PER_S)
        self.detector.found = list(found)
        return self.tracker.track(frame, self.t_ns)

    def person(self, frame: Frame, *found: Detection, after_s: float = 0.125) -> int | None:
        face = self.see(frame, *found, after_s=after_s)
        return face.person if face else None


class TestWhoIsFollowed:
    """Which of several faces is the followed one, and when it is another person's."""

    def test_the_largest_face_first_and_then_that_one(self) -> None:
        session = Session()
        left, right, nearer = detection(30, 90), detection(200, 100, 60), detection(190, 90, 120)
        assert session.see(scene((1, left), (2, right)), right, left).box_px == left.box_px  # type: ignore[union-attr]
        frame = scene((1, left), (2, nearer))
        faces = [session.see(frame, nearer, left) for _ in range(3)]
        assert [(f.box_px, f.person) for f in faces if f] == [(left.box_px, 0)] * 3

    def test_the_first_face_has_eyes_if_any_has(self) -> None:
        without, face = detection(10, 60, 120, eyes=False), detection(200, 90, 60)
        found = Session().see(scene((1, face)), without, face)
        assert found is not None
        assert found.box_px == face.box_px

    def test_nobody_is_followed_on_a_weak_suspicion(self) -> None:
        session = Session()
        face, weak = detection(100, 90, eyes=False), detection(100, 90, score=0.4, eyes=False)
        frame = scene((1, face))
        assert session.see(frame, weak) is None
        assert session.person(frame, face) == 0
        assert session.person(frame, weak) == 0

    def test_a_face_that_jumps_is_known_by_its_look(self) -> None:
        session = Session()
        here, there, stranger = detection(30, 90), detection(200, 90), detection(30, 80, 100)
        session.see(scene((1, here)), here)
        face = session.see(scene((2, stranger), (1, there)), stranger, there)
        assert face is not None
        assert (face.box_px, face.person) == (there.box_px, 0)

    def test_somebody_else_must_wait_while_the_followed_person_is_missed_for_a_moment(self) -> None:
        session = Session()
        here, other = detection(30, 90), detection(200, 90)
        frame = scene((1, here), (2, other))
        assert session.person(frame, here, other) == 0
        assert [session.person(frame, other) for _ in range(4)] == [None] * 4
        assert session.person(frame, here, other) == 0
        assert [session.person(frame, other) for _ in range(5)] == [None, None, None, None, 1]

    def test_a_false_face_without_eyes_waits_longer(self) -> None:
        session = Session()
        here, shirt = detection(30, 60), detection(40, 150, 60, eyes=False)
        frame = scene((1, here))
        assert session.person(frame, here) == 0
        assert {session.person(frame, shirt) for _ in range(16)} == {None}
        assert session.person(frame, here) == 0

    def test_a_cut_to_another_person_at_the_same_place(self) -> None:
        session = Session()
        face = detection(100, 90)
        assert [session.person(scene((1, face)), face) for _ in range(3)] == [0] * 3
        assert session.person(scene((2, face), wall=1001), face) == 1
        assert session.person(scene((2, face), wall=1001), face) == 1
        assert session.person(scene((1, face)), face) == 2

    def test_a_cut_to_the_same_person(self) -> None:
        session = Session()
        here, there = detection(100, 90), detection(150, 60)
        assert session.person(scene((1, here)), here) == 0
        assert session.person(scene((1, there), wall=1001), there) == 0

    def test_a_hand_before_the_face_for_one_frame_is_no_other_person(self) -> None:
        session = Session()
        face = detection(100, 90)
        frames = [scene((person, face)) for person in (1, 1, 7, 1, 8, 1, 1)]
        assert [session.person(frame, face) for frame in frames] == [0] * 7

    def test_another_person_before_the_same_wall_is_noticed_in_the_second_frame(self) -> None:
        session = Session()
        face = detection(100, 90)
        frames = [scene((person, face)) for person in (1, 1, 2, 2, 2)]
        assert [session.person(frame, face) for frame in frames] == [0, 0, 0, 1, 1]

    def test_after_an_absence_the_look_decides(self) -> None:
        session = Session()
        face, elsewhere = detection(100, 90), detection(180, 60, 100)
        assert session.person(scene((1, face)), face) == 0
        assert session.see(scene()) is None
        assert session.person(scene((1, elsewhere)), elsewhere, after_s=30) == 0
        assert session.person(scene((2, face)), face, after_s=30) == 1

    def test_small_faces_are_nobody(self) -> None:
        face = detection(100, 90, MIN_FACE_PX - 1)
        assert Session().see(scene((1, face)), face) is None

    def test_a_frame_of_another_size_is_a_cut(self) -> None:
        session = Session()
        face = detection(100, 90)
        assert session.person(scene((1, face)), face) == 0
        assert session.person(scene((2, face))[:200, :300].copy(), face) == 1

    def test_a_face_at_the_edge_of_the_frame(self) -> None:
        session = Session()
        face = Detection((-30, -20, 80, 80), 0.9, ((-4, 11), (25, 11)))
        inside = detection(0, 0)
        assert session.person(scene((1, inside)), face) == 0
        outside = Detection((300, 220, 80, 80), 0.9, ((326, 250), (354, 250)))
        assert session.person(scene(), outside, after_s=9) is not None

    def test_reset_forgets_everybody(self) -> None:
        session = Session()
        face = detection(100, 90)
        session.see(scene((1, face)), face)
        assert session.person(scene((2, face), wall=1001), face) == 1
        session.tracker.reset()
        assert session.person(scene((3, face)), face) == 0

    def test_the_same_frames_give_the_same_faces(self) -> None:
        def run() -> list[Face | None]:
            session = Session()
            faces = []
            for i in range(20):
                face = detection(60 + 3 * i, 90 + (i % 3), 80 - i % 2, eyes=i % 4 > 0)
                faces.append(session.see(scene((i // 8, face)), face))
            return faces

        assert run() == run()


class TestEyes:
    """Eyes that are found, carried, estimated, smoothed."""

    def test_eyes_that_were_not_found_move_with_the_box_until_they_are_too_old(self) -> None:
        session = Session(eyes_max_age_s=0.5)
        face, moved = detection(100, 90), detection(120, 90, 100, eyes=False)
        eyes = ((128.0, 118.0), (152.0, 124.0))
        session.see(scene((1, face)), Detection(face.box_px, 0.9, eyes))
        frame = scene((1, moved))
        faces = [session.see(frame, moved) for _ in range(5)]
        assert all(f is not None and f.person == 0 for f in faces)
        assert [f.aligned for f in faces if f] == [True] * 4 + [False]
        assert faces[0] is not None
        assert faces[0].left_eye_px == pytest.approx((120 + 28 * 1.25, 90 + 28 * 1.25))
        assert faces[0].right_eye_px == pytest.approx((120 + 52 * 1.25, 90 + 34 * 1.25))
        assert faces[4] is not None
        assert faces[4].left_eye_px == pytest.approx((152.4, 128.2))

    def test_no_eyes_from_the_start_are_typical_ones(self) -> None:
        face = detection(100, 90, eyes=False)
        found = Session().see(scene((1, face)), face)
        assert found is not None
        assert not found.aligned
        assert found.left_eye_px == pytest.approx((100 + 0.324 * 80, 90 + 0.382 * 80))

    def test_nobody_gets_the_eyes_of_the_person_before(self) -> None:
        session = Session()
        face = detection(100, 90)
        session.see(scene((1, face)), face)
        stranger = scene((2, face), wall=1001)
        assert session.see(stranger, detection(100, 90, eyes=False)) is None
        found = session.see(stranger, face)
        assert found is not None
        assert (found.person, found.aligned) == (1, True)

    def test_a_step_is_followed_at_once_and_a_tremble_slowly(self) -> None:
        session = Session()
        face = detection(100, 90)
        session.see(scene((1, face)), face)
        trembling, stepping = detection(101, 90), detection(110, 90)
        near = session.see(scene((1, trembling)), trembling)
        assert near is not None
        assert near.left_eye_px[0] == pytest.approx(100.5 + 0.324 * 80)
        far = session.see(scene((1, stepping)), stepping)
        assert far is not None
        assert stepping.eyes_px is not None
        assert far.left_eye_px == pytest.approx(stepping.eyes_px[0])


points = st.tuples(st.floats(-200, 4000), st.floats(-200, 4000))
fractions = st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95))


class TestCropTransform:
    """Where the eyes come to lie."""

    @given(points, points, fractions, fractions, st.integers(8, 512))
    def test_eyes_land_where_they_are_declared(
        self,
        left: tuple[float, float],
        right: tuple[float, float],
        left_eye: tuple[float, float],
        right_eye: tuple[float, float],
        size_px: int,
    ) -> None:
        apart = min(
            np.hypot(*np.subtract(left, right)) / 10, np.hypot(*np.subtract(left_eye, right_eye)) * 10
        )
        if apart < 1:
            return
        face = Face((0, 0, 9, 9), left, right, aligned=True, person=0)
        alignment = FaceAlignment(left_eye=left_eye, right_eye=right_eye)
        transform = crop_transform(face, alignment, size_px)
        assert transform.shape == (2, 3)
        assert transform.dtype == np.float64
        for fraction, eye in ((left_eye, left), (right_eye, right)):
            placed = transform @ [fraction[0] * size_px, fraction[1] * size_px, 1]
            np.testing.assert_allclose(placed, eye, rtol=0, atol=1e-9)

    @given(points, points)
    def test_it_neither_stretches_nor_mirrors(
        self, left: tuple[float, float], right: tuple[float, float]
    ) -> None:
        if np.hypot(*np.subtract(left, right)) < 1:
            return
        linear = crop_transform(Face((0, 0, 9, 9), left, right, True, 0), FaceAlignment(), 112)[:, :2]
        scale = np.linalg.det(linear)
        assert scale > 0
        np.testing.assert_allclose(linear.T @ linear, scale * np.eye(2), rtol=1e-9, atol=1e-9 * scale)

    def test_a_face_upright_and_of_the_declared_size_is_only_shifted(self) -> None:
        alignment = FaceAlignment(left_eye=(0.25, 0.5), right_eye=(0.75, 0.5))
        face = Face((0, 0, 9, 9), (110.0, 220.0), (130.0, 220.0), aligned=True, person=0)
        np.testing.assert_allclose(
            crop_transform(face, alignment, 40), [[1, 0, 100], [0, 1, 200]], atol=1e-12
        )

    def test_eyes_at_one_point_are_refused(self) -> None:
        with pytest.raises(DataError, match="cannot be aligned"):
            crop_transform(Face((0, 0, 9, 9), (5, 5), (5, 5), True, 0), FaceAlignment(), 112)


class TestOpening:
    """Detectors and what keeps them from being opened."""

    def test_without_a_file_the_cascades(self) -> None:
        assert open_face_detector().name == "haar"

    def test_with_its_file_yunet(self) -> None:
        assert open_face_detector(real("face_detector", "yunet_n_640_640.onnx")).name == "yunet"

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(MissingError, match="no face detector") as caught:
            open_face_detector(tmp_path / "yunet.onnx")
        assert caught.value.hint

    def test_a_file_that_is_no_network(self, tmp_path: Path) -> None:
        path = tmp_path / "yunet.onnx"
        path.write_bytes(b"not a network" * 50)
        with pytest.raises(DataError, match="no face detector that OpenCV can run") as caught:
            open_face_detector(path)
        assert caught.value.hint

    def test_a_file_cut_short(self, tmp_path: Path) -> None:
        whole = real("face_detector", "yunet_n_640_640.onnx").read_bytes()
        path = tmp_path / "yunet.onnx"
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match="no face detector that OpenCV can run"):
            open_face_detector(path)

    def test_a_file_too_large_to_be_read(self, tmp_path: Path) -> None:
        path = tmp_path / "yunet.onnx"
        with path.open("wb") as file:
            file.truncate(1 << 30)
        with pytest.raises(DataError, match="1073741824 bytes"):
            open_face_detector(path)

    def test_an_opencv_without_cascades(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(cv2, "CascadeClassifier")
        with pytest.raises(MissingError, match="cascades are missing") as caught:
            open_face_detector()
        assert "opencv-python-headless" in str(caught.value)

    def test_an_opencv_that_cannot_tell_faces_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(cv2, "HOGDescriptor")
        with pytest.raises(MissingError, match="OpenCV 4"):
            FaceTracker(Scripted(), FaceAlignment())

    def test_an_opencv_without_cascade_files(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(cv2.data, "haarcascades", str(tmp_path))
        monkeypatch.setattr(face_detectors, "_SYSTEM_CASCADES", ())
        with pytest.raises(MissingError, match="cascades are missing"):
            open_face_detector()

    def test_the_cascades_of_the_system(self, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = Path(cv2.data.haarcascades)
        monkeypatch.delattr(cv2, "data")
        monkeypatch.setattr(face_detectors, "_SYSTEM_CASCADES", (folder,))
        assert open_face_detector().name == "haar"

    def test_cascade_files_that_are_none(self, tmp_path: Path) -> None:
        for name in ("haarcascade_frontalface_alt2.xml", "haarcascade_eye.xml"):
            (tmp_path / name).write_text("<opencv_storage></opencv_storage>")
        with pytest.raises(DataError, match="cannot read the cascade"):
            CascadeDetector(tmp_path)

    @pytest.mark.parametrize("shape", [(20, 30), (20, 30, 4), (0, 30, 3)])
    def test_what_is_no_frame_is_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(DataError, match="cannot be searched"):
            open_face_detector().detect(np.zeros(shape, np.uint8))

    @pytest.mark.parametrize("size", [(1, 1), (3, 400), (25, 25)])
    def test_tiny_frames_hold_nobody(self, size: tuple[int, int]) -> None:
        assert open_face_detector().detect(np.full((*size, 3), 128, np.uint8)) == []
