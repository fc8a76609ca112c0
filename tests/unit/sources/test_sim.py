"""A simulated person is deterministic, exactly timed, and found by real face detectors."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.errors import UsageError
from edge_mer.sources.registry import open_source
from edge_mer.sources.sim import SimSource
from edge_mer.sources.sim_course import Course
from edge_mer.sources.sim_face import Expression, FacePainter, Light, Pose
from edge_mer.sources.sim_look import Look
from edge_mer.sources.sim_person import Actor, Conditions
from edge_mer.sources.sim_settings import STREAMS, SimSettings
from edge_mer.sources.sim_voice import RATE_HZ, Voice
from edge_mer.types.signals import Chunk

DATA = Path(os.environ.get("EDGE_MER_TEST_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
YUNET = DATA / "face_detector" / "yunet_n_640_640.onnx"


def started(rest: str) -> SimSource:
    source = SimSource(rest)
    source.ensure_ready()
    source.start()
    return source


def read_all(rest: str) -> list[Chunk]:
    source, chunks = started(rest), []
    while not source.ended:
        chunk = source.read(0)
        assert chunk is not None
        chunks.append(chunk)
    assert source.read(0) is None
    return chunks


def of(modality: str, chunks: list[Chunk]) -> list[Chunk]:
    return [chunk for chunk in chunks if chunk.modality == modality]


def sound(rest: str) -> NDArray[np.generic]:
    return np.concatenate([chunk.data[:, 0] for chunk in read_all(f"{rest}&streams=audio")])


def pictures(rest: str) -> list[NDArray[np.generic]]:
    return [chunk.data for chunk in read_all(f"{rest}&streams=visual")]


def assert_same(chunks: list[Chunk], others: list[Chunk]) -> None:
    assert len(chunks) == len(others)
    for one, other in zip(chunks, others, strict=True):
        assert (one.stream, one.seq, one.t_ns) == (other.stream, other.seq, other.t_ns)
        np.testing.assert_array_equal(one.data, other.data, strict=True)


# -- determinism


def test_the_same_uri_gives_the_same_chunks() -> None:
    assert_same(read_all("seed=4&person=2&duration_s=1.2"), read_all("seed=4&person=2&duration_s=1.2"))


def test_a_stream_does_not_depend_on_how_the_other_is_read() -> None:
    both = read_all("person=5&duration_s=0.7")
    assert_same(of("visual", both), read_all("person=5&duration_s=0.7&streams=visual"))
    assert_same(of("audio", both), read_all("person=5&duration_s=0.7&streams=audio"))


def test_a_longer_session_begins_like_a_shorter_one() -> None:
    short, long = sound("duration_s=2.5"), sound("duration_s=4")
    np.testing.assert_array_equal(short, long[: len(short)])


def test_persons_and_seeds_differ() -> None:
    first = {rest: pictures(f"{rest}&duration_s=0.1")[0] for rest in ("seed=0", "seed=1", "person=1")}
    assert not np.array_equal(first["seed=0"], first["seed=1"])
    assert not np.array_equal(first["seed=0"], first["person=1"])
    assert not np.array_equal(sound("seed=0&duration_s=1"), sound("seed=1&duration_s=1"))


def test_it_can_be_read_again_after_a_stop() -> None:
    source = SimSource("duration_s=0.1")
    assert source.read(0) is None
    source.ensure_stopped()
    assert source.ended
    source.start()
    first = source.read(0)
    source.ensure_stopped()
    source.ensure_stopped()
    assert source.ended
    assert source.read(0) is None
    source.start()
    again = source.read(0)
    assert first is not None
    assert again is not None
    assert_same([first], [again])


def test_a_day_long_session_starts_at_once() -> None:
    source = started("duration_s=86400")
    assert [chunk.t_ns for _ in range(3) if (chunk := source.read(0))] == [0, 0, 1024 * NS_PER_S // RATE_HZ]
    assert not source.ended


# -- what is delivered


@pytest.mark.parametrize("fps", ["30", "25", "29.97", "30000/1001"])
def test_times_are_exact(fps: str) -> None:
    chunks = read_all(f"fps={fps}&duration_s=0.5")
    frames, pieces = of("visual", chunks), of("audio", chunks)
    assert [frame.t_ns for frame in frames] == [
        int(index * NS_PER_S / Fraction(fps)) for index in range(len(frames))
    ]
    assert len(frames) == math.ceil(Fraction(fps) / 2)
    assert [piece.t_ns for piece in pieces] == [
        index * 1024 * NS_PER_S // RATE_HZ for index in range(len(pieces))
    ]
    assert [piece.n_samples for piece in pieces] == [1024] * 21 + [RATE_HZ // 2 - 21 * 1024]


def test_chunks_come_in_order_of_time_and_are_counted() -> None:
    chunks = read_all("duration_s=0.6")
    times_ns = [chunk.t_ns for chunk in chunks]
    assert times_ns == sorted(times_ns)
    for modality in ("visual", "audio"):
        stream = of(modality, chunks)
        assert [chunk.seq for chunk in stream] == list(range(len(stream)))


def test_chunks_are_as_their_specs_say() -> None:
    source = started("duration_s=0.2&width=160&height=144")
    specs = {spec.name: spec for spec in source.specs}
    assert list(specs) == ["sim/visual", "sim/audio"]
    assert specs["sim/visual"].shape == (144, 160, 3)
    assert not source.is_live
    while chunk := source.read(0):
        spec = specs[chunk.stream]
        assert chunk.modality == spec.modality
        assert chunk.data.dtype == spec.dtype
        assert all(size in (None, found) for size, found in zip(spec.shape, chunk.data.shape, strict=True))


@pytest.mark.parametrize("streams", ["visual", "audio", "eda", "text", "visual+eda", "rsp+skt+audio+ecg+ppg"])
def test_the_streams_that_were_asked_for_are_there(streams: str) -> None:
    rest = f"duration_s=1.5&fps=2&streams={streams}"
    assert {spec.modality for spec in SimSource(rest).specs} == set(streams.split("+"))
    assert {chunk.modality for chunk in read_all(rest)} == set(streams.split("+"))


def test_no_sound_is_made_for_those_who_do_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*_: object) -> None:
        raise AssertionError("sound was made")

    monkeypatch.setattr(Voice, "render", made)
    assert read_all("duration_s=0.5&streams=visual+eda+text&people=1")
    with pytest.raises(AssertionError, match="sound was made"):
        read_all("duration_s=0.5&streams=audio")


def test_another_person_takes_the_seat() -> None:
    rest = "seed=2&person=1&duration_s=1"
    alone, switched = read_all(rest), read_all(f"{rest}&switch_s=0.5&switch_person=3")
    before = [chunk for chunk in alone if chunk.t_ns + NS_PER_S // 40 < NS_PER_S // 2]
    assert_same(before, switched[: len(before)])
    frames = [frame.data.astype(np.int64) for frame in of("visual", switched)]
    jumps = [np.abs(after - frame).mean() for frame, after in pairwise(frames)]
    assert int(np.argmax(jumps)) == 14
    heard = np.concatenate([chunk.data for chunk in of("audio", switched)])
    heard_alone = np.concatenate([chunk.data for chunk in of("audio", alone)])
    np.testing.assert_array_equal(heard[: RATE_HZ // 2], heard_alone[: RATE_HZ // 2])
    assert not np.array_equal(heard[RATE_HZ // 2 :], heard_alone[RATE_HZ // 2 :])


# -- truth


def test_truth_is_smooth_and_wide() -> None:
    t_ns = np.arange(0, 60 * NS_PER_S, NS_PER_S // 30)
    truth = SimSource("seed=7&person=4&duration_s=60").truth(t_ns)
    assert list(truth) == ["valence", "arousal", "pain", "emotion"]
    assert not truth.pop("pain").any()
    assert set(truth.pop("emotion").tolist()) <= {0.0, 1.0, 2.0}
    for course in truth.values():
        assert course.dtype == np.float32
        assert course.shape == t_ns.shape
        assert np.abs(course).max() <= 1
        assert np.ptp(course) > 1.2
        assert np.abs(np.diff(course)).max() * 30 < 1.5


def test_truth_does_not_depend_on_what_was_read() -> None:
    source, t_ns = started("duration_s=0.5"), np.array([[0, 10**8], [3 * 10**8, NS_PER_S // 2]])
    before = source.truth(t_ns)
    while source.read(0):
        pass
    for name, course in source.truth(t_ns).items():
        np.testing.assert_array_equal(course, before[name])


def test_every_seed_and_person_has_its_own_course() -> None:
    t_ns = np.arange(0, 20 * NS_PER_S, NS_PER_S)
    courses = {
        SimSource(f"seed={seed}&person={person}").truth(t_ns)[name].tobytes()
        for seed in range(4)
        for person in range(4)
        for name in ("valence", "arousal")
    }
    assert len(courses) == 32


def test_truth_follows_the_person_in_the_seat() -> None:
    t_ns = np.array([0, NS_PER_S, 2 * NS_PER_S - 1, 2 * NS_PER_S, 4 * NS_PER_S])
    switched = SimSource("person=1&duration_s=4&switch_s=2&switch_person=9").truth(t_ns)
    first = SimSource("person=1&duration_s=4").truth(t_ns)
    second = SimSource("person=9&duration_s=4").truth(t_ns)
    for name in ("valence", "arousal"):
        np.testing.assert_array_equal(switched[name], np.append(first[name][:3], second[name][3:]))


@pytest.mark.parametrize("t_ns", [-1, 2 * NS_PER_S + 1])
def test_truth_ends_with_the_session(t_ns: int) -> None:
    with pytest.raises(ValueError, match="session lasts from 0 to 2000000000 ns"):
        SimSource("duration_s=2").truth(t_ns)


def test_nothing_but_the_data_depends_on_the_truth() -> None:
    one, other = SimSource("seed=1&duration_s=0.3"), SimSource("seed=2&person=8&duration_s=0.3")
    assert one.specs == other.specs
    labels = [
        [(chunk.stream, chunk.modality, chunk.seq, chunk.t_ns, chunk.time_basis) for chunk in read_all(rest)]
        for rest in ("seed=1&duration_s=0.3", "seed=2&person=8&duration_s=0.3")
    ]
    assert labels[0] == labels[1]


# -- face and voice


def test_haar_cascades_find_face_and_eyes() -> None:
    folder = Path(cv2.__file__).parent / "data"
    face_cascade = cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_default.xml"))
    eye_cascade = cv2.CascadeClassifier(str(folder / "haarcascade_eye.xml"))
    found, with_eyes, n_frames = 0, 0, 0
    for person in range(6):
        for picture in pictures(f"person={person}&seed={person}&duration_s=10&fps=1"):
            grey = cv2.cvtColor(picture.astype(np.uint8), cv2.COLOR_RGB2GRAY)
            faces = face_cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5)
            n_frames += 1
            if len(faces) != 1:
                continue
            found += 1
            x, y, width, height = faces[0]
            eyes = eye_cascade.detectMultiScale(grey[y : y + height * 6 // 10, x : x + width], 1.1, 3)
            sides = {eye_x + eye_width / 2 > width / 2 for eye_x, _, eye_width, _ in eyes}
            with_eyes += len(sides) == 2
    assert found >= 0.98 * n_frames
    assert with_eyes >= 0.8 * n_frames


@pytest.mark.skipif(not YUNET.exists(), reason=f"needs YuNet's weights at {YUNET}")
def test_yunet_finds_the_face() -> None:
    detector = cv2.FaceDetectorYN.create(str(YUNET), "", (192, 160), score_threshold=0.6)
    for person in range(4):
        for picture in pictures(f"person={person}&duration_s=3&fps=1"):
            _, faces = detector.detect(cv2.cvtColor(picture.astype(np.uint8), cv2.COLOR_RGB2BGR))
            assert faces is not None
            assert len(faces) == 1


@pytest.mark.parametrize("part", ["smile", "mouth_open", "brow_raise", "brow_tilt", "eye_open", "grimace"])
def test_expressions_are_graded(part: str) -> None:
    painter = FacePainter(Look.draw(np.random.Generator(np.random.Philox(1))), 192, 160)

    def painted(strength: float) -> NDArray[np.float64]:
        parts: dict[str, Any] = {part: strength}
        return painter.paint(Expression(**parts), Pose(), 0).astype(np.float64)

    def change(strength: float) -> float:
        return float(np.abs(painted(strength) - painted(0.0)).mean())

    assert 0.03 < change(0.3) < change(0.6) < change(0.9)


def test_the_voice_is_louder_when_it_shows_arousal() -> None:
    correlations = []
    for person in range(3):
        rest = f"seed={person}&person={person}&duration_s=20"
        blocks = sound(rest).astype(np.float64).reshape(20, -1)
        arousal = Course(person, person, 20.0, with_pain=False).voice(np.arange(0.5, 20.0))[1]
        correlations.append(np.corrcoef(np.log(blocks.std(axis=1)), arousal)[0, 1])
    assert min(correlations) > 0.6


def test_the_voice_never_pauses_long_and_never_clips() -> None:
    samples = sound("seed=3&person=3&duration_s=20").astype(np.float64)
    assert np.abs(samples).max() < 1
    level = samples[: len(samples) // 441 * 441].reshape(-1, 441).std(axis=1)
    quiet = level < 0.05 * np.percentile(level, 95)
    longest_s = max(len(run) for run in "".join("q" if q else " " for q in quiet).split(" ")) / 100
    assert 0.05 < longest_s < 0.6


def test_pain_wrinkles_the_bridge_of_the_nose() -> None:
    painter = FacePainter(Look.draw(np.random.Generator(np.random.Philox(1))), 192, 160)
    calm, hurt = (
        painter.paint(Expression(grimace=strength), Pose(), 0, Light(noise=0)).astype(np.float64)
        for strength in (0.0, 0.8)
    )
    # between the brows, where nothing is drawn but skin
    assert (hurt - calm)[70:80, 92:101].mean() < -3
    assert hurt[76:92, 93:100].std(axis=0).mean() > 1.3 * calm[76:92, 93:100].std(axis=0).mean()


def test_a_person_looks_the_same_in_every_session() -> None:
    looks = [Actor(seed, person, Conditions(1.0)).look for seed, person in ((1, 4), (2, 4), (1, 5))]
    assert looks[0] == looks[1] != looks[2]


def test_lips_move_with_the_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[float] = []
    paint = FacePainter.paint

    def seen(painter: FacePainter, expression: Expression, *rest: Any) -> NDArray[np.uint8]:
        opened.append(expression.mouth_open)
        return paint(painter, expression, *rest)

    monkeypatch.setattr(FacePainter, "paint", seen)
    rest = "seed=5&person=2&duration_s=8"
    pictures(rest)
    level = np.abs(sound(rest).astype(np.float64)).reshape(240, -1).mean(axis=1)
    assert np.corrcoef(level, opened)[0, 1] > 0.4


def test_pain_is_seen_in_a_small_crop_and_the_face_is_still_found() -> None:
    folder = Path(cv2.__file__).parent / "data"
    cascade = cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_default.xml"))
    changes, n_found, n_frames = [], 0, 0
    for person in range(4):
        rest = f"person={person}&seed={person}&duration_s=16&fps=2"
        t_ns = np.arange(32) * (NS_PER_S // 2)
        pain = SimSource(f"{rest}&pain=1").truth(t_ns)["pain"]
        for hurt, calm, felt in zip(pictures(f"{rest}&pain=1"), pictures(rest), pain, strict=True):
            grey = cv2.cvtColor(hurt.astype(np.uint8), cv2.COLOR_RGB2GRAY)
            n_found += len(cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5)) == 1
            n_frames += 1
            small, usual = (
                cv2.resize(picture.astype(np.float32)[24:152, 32:160], (48, 48), interpolation=cv2.INTER_AREA)
                for picture in (hurt, calm)
            )
            changes.append((float(felt), float(np.abs(small - usual).mean())))
    assert n_found >= 0.98 * n_frames
    none, strong = (
        [change for felt, change in changes if low <= felt <= high] for low, high in ((0, 0), (1, 1))
    )
    assert np.median(none) < 0.3
    assert np.median(strong) > 1.0


# -- the URI


def test_the_uri_names_everything() -> None:
    rest = "streams=visual+audio&eda_hz=32&ecg_hz=250&ppg_hz=64&rsp_hz=32&skt_hz=4&pain=0"
    rest += "&occlusion=0&noise=1&gaps=0&people=1"
    uri = "sim:seed=0&person=0&duration_s=20&fps=30&width=192&height=160"
    assert SimSource("").uri == f"{uri}&{rest}"
    uri = open_source(
        "sim:eda_hz=32.5&fps=2997/100&pain=1&streams=eda+visual&seed=3&switch_person=4&switch_s=0.5"
    ).uri
    rest = rest.replace("visual+audio", "visual+eda").replace("eda_hz=32", "eda_hz=32.5")
    assert uri == (
        "sim:seed=3&person=0&duration_s=20&fps=29.97&width=192&height=160"
        f"&switch_s=0.5&switch_person=4&{rest.replace('pain=0', 'pain=1')}"
    )
    assert open_source(uri).uri == uri


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    duration_s=st.fractions(Fraction(1, 10), 86_400, max_denominator=2000),
    fps=st.fractions(1, 240, max_denominator=2000),
    rate_hz=st.fractions(1, 2048, max_denominator=2000),
    streams=st.sets(st.sampled_from(STREAMS), min_size=1),
    gaps=st.fractions(0, Fraction(9, 10), max_denominator=2000),
)
def test_settings_survive_their_uri(
    seed: int, duration_s: Fraction, fps: Fraction, rate_hz: Fraction, streams: set[str], gaps: Fraction
) -> None:
    asked = SimSettings(
        seed=seed,
        duration_s=duration_s,
        fps=fps,
        eda_hz=rate_hz,
        streams=tuple(name for name in STREAMS if name in streams),
        gaps=gaps,
    )
    assert SimSettings.parse(str(asked).removeprefix("sim:")) == asked


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("sed=3", ["unknown key 'sed'", "one of seed, person, duration_s", "did you mean seed"]),
        ("duration=3", ["unknown key 'duration'", "did you mean duration_s"]),
        ("seed=-1", ["seed=-1", "a whole number from 0 to 9223372036854775807"]),
        ("person=1.5", ["person=1.5", "a whole number"]),
        ("duration_s=0", ["duration_s=0", "from 0.1 to 86400"]),
        ("fps=nan", ["fps=nan", "from 1 to 240"]),
        ("fps=30/0", ["fps=30/0", "from 1 to 240"]),
        ("width=20", ["width=20", "from 128 to 1280"]),
        (
            "streams=voice",
            ["streams=voice", "some of visual, audio, eda, ecg, ppg, rsp, skt, text, joined by +"],
        ),
        ("streams=", ["cannot use streams=", "some of visual"]),
        ("streams=eda+eda", ["streams=eda+eda", "some of visual"]),
        ("drop=audio", ["unknown key 'drop'"]),
        ("eda_hz=0.5", ["eda_hz=0.5", "from 1 to 2048"]),
        ("ecg_hz=2049", ["ecg_hz=2049", "from 1 to 2048"]),
        ("rsp_hz=fast", ["rsp_hz=fast", "from 1 to 2048"]),
        ("skt_hz=0", ["skt_hz=0", "from 1 to 2048"]),
        ("pain=2", ["pain=2", "a whole number from 0 to 1"]),
        ("occlusion=1.1", ["occlusion=1.1", "from 0 to 1"]),
        ("noise=11", ["noise=11", "from 0 to 10"]),
        ("gaps=1", ["gaps=1", "from 0 to 0.9"]),
        ("people=7", ["people=7", "a whole number from 1 to 6"]),
        ("people=2&streams=visual+eda", ["worn by one person, here are 2", "Found: eda"]),
        ("seed", ["seed has no value"]),
        ("seed=1&seed=2", ["seed is given twice"]),
        ("seed=1&", ["unknown key ''"]),
        ("switch_s=3", ["needs both switch_s and switch_person"]),
        ("switch_s=20&switch_person=1", ["switch_s lies outside the session", "less than duration_s=20"]),
        ("switch_s=2&switch_person=0", ["switch_person is the person already there"]),
    ],
)
def test_a_bad_uri_says_what_is_wrong(rest: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        SimSource(rest)
    assert error.value.exit_code == 2
    for word in words:
        assert word in str(error.value)
