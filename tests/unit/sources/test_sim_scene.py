"""Words, company, things before the face, noise and gaps of a simulated session."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.sources.sim import EMOTIONS, SimSource
from edge_mer.sources.sim_course import CONTAGION, generator
from edge_mer.sources.sim_cover import KINDS, Cover, Covering
from edge_mer.sources.sim_face import Expression, FacePainter, Light, Pose
from edge_mer.sources.sim_look import Look
from edge_mer.sources.sim_person import Actor, Conditions
from edge_mer.sources.sim_scene import Scene
from edge_mer.sources.sim_voice import RATE_HZ
from edge_mer.sources.sim_words import VOCABULARY, draw_words
from edge_mer.types.signals import Chunk


def read_all(rest: str) -> list[Chunk]:
    source, chunks = SimSource(rest), []
    source.start()
    while chunk := source.read(0):
        chunks.append(chunk)
    return chunks


def sound(rest: str) -> NDArray[np.float64]:
    return np.concatenate([c.data[:, 0] for c in read_all(f"{rest}&streams=audio")]).astype(np.float64)


def n_faces(picture: NDArray[np.generic]) -> int:
    path = Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"
    grey = cv2.cvtColor(picture.astype(np.uint8), cv2.COLOR_RGB2GRAY)
    return len(cv2.CascadeClassifier(str(path)).detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5))


@pytest.fixture(scope="module")
def painter() -> FacePainter:
    return FacePainter(Look.draw(np.random.Generator(np.random.Philox(1))), 192, 160)


# -- words


def test_words_come_when_they_have_been_said() -> None:
    source = SimSource("seed=2&person=3&duration_s=9&streams=text")
    (spec,) = source.specs
    assert (spec.modality, spec.rate_hz, spec.unit, spec.dtype) == ("text", None, "word", "str")
    chunks, words = read_all("seed=2&person=3&duration_s=9&streams=text"), source.words()
    assert [chunk.seq for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.t_ns for chunk in chunks] == [int(chunk.data[-1, 2]) for chunk in chunks]
    assert all(chunk.data.dtype.kind == "U" for chunk in chunks)
    rows = [row for chunk in chunks for row in chunk.data.tolist()]
    assert rows == [[text, str(start_ns), str(end_ns)] for start_ns, end_ns, text in words]
    assert len(chunks) < len(words), "an utterance has several words"
    times_ns = [time_ns for start_ns, end_ns, _ in words for time_ns in (start_ns, end_ns)]
    assert times_ns == sorted(times_ns)
    assert all(0.1 < (end_ns - start_ns) / NS_PER_S < 1.5 for start_ns, end_ns, _ in words)
    assert times_ns[-1] <= 9 * NS_PER_S
    assert {text for _, _, text in words} <= {word.text for word in VOCABULARY}
    assert len({text for _, _, text in words}) > 5


def test_words_are_heard_where_they_are_said() -> None:
    rest = "seed=2&person=3&duration_s=12&noise=0"
    level, said = np.abs(sound(rest)), np.zeros(12 * RATE_HZ, bool)
    for start_ns, end_ns, _ in SimSource(rest).words():
        said[start_ns * RATE_HZ // NS_PER_S : end_ns * RATE_HZ // NS_PER_S] = True
    # the last words of the session may be cut off
    said, level = said[: 11 * RATE_HZ], level[: 11 * RATE_HZ]
    assert 0.5 < said.mean() < 0.95
    assert level[said].mean() > 8 * level[~said].mean()


def test_a_word_sounds_like_itself() -> None:
    """The consonants that are written are heard: hiss above 4 kHz at the syllables that have it."""
    rest = "seed=4&person=1&duration_s=20&noise=0"
    samples = np.append(sound(rest), np.zeros(RATE_HZ))
    hissing: dict[str, list[float]] = {"m": [], "s": []}
    for start_ns, _, text in SimSource(rest).words():
        if text[0] in hissing:
            begin = start_ns * RATE_HZ // NS_PER_S
            piece = samples[max(0, begin - 1500) : begin + 1500]
            spectrum = np.abs(np.fft.rfft(piece * np.hanning(len(piece)))) ** 2
            share = spectrum[np.fft.rfftfreq(len(piece), 1 / RATE_HZ) > 4000].sum()
            hissing[text[0]].append(float(share))
    assert np.median(hissing["s"]) > 5 * np.median(hissing["m"])


def test_pleasant_words_are_said_in_a_pleasant_voice() -> None:
    rng = generator("test")
    tones = [np.mean([word.tone for word in draw_words(rng, 400, valence)]) for valence in (-1.0, 0.0, 1.0)]
    assert tones[0] < -0.35 < -0.15 < tones[1] < 0.15 < 0.35 < tones[2]


def test_words_stop_where_another_person_takes_the_seat() -> None:
    rest = "person=1&duration_s=6&streams=text"
    alone, switched = SimSource(rest).words(), SimSource(f"{rest}&switch_s=3.1&switch_person=4").words()
    before = [word for word in alone if word[1] <= 3_100_000_000]
    assert switched[: len(before)] == before
    # the other person's first word begins with the other person, to the sample
    assert 0 <= switched[len(before)][0] - 3_100_000_000 < NS_PER_S // RATE_HZ


# -- company


def test_every_face_of_a_company_is_found() -> None:
    for person in (0, 10):
        rest = f"people=3&person={person}&seed=1&width=576&height=192&fps=1&duration_s=4&streams=visual"
        for chunk in read_all(rest):
            assert chunk.data.shape == (192, 576, 3)
            assert n_faces(chunk.data) == 3


def test_the_people_of_a_company_look_as_they_do_alone() -> None:
    company = Scene(3, range(4, 7), Conditions(20.0), range(1), range(1))
    for actor, person in zip(company._actors, range(4, 7), strict=True):
        alone = Actor(3, person, Conditions(20.0))
        assert actor.look == alone.look
        assert actor.voice._speaker == alone.voice._speaker


def test_the_truth_of_a_company_is_the_mean_of_its_people_s() -> None:
    t_ns = np.arange(0, 20 * NS_PER_S, NS_PER_S)
    company = SimSource("seed=3&pain=1&duration_s=20&person=4&people=3")
    for name, course in company.truth(t_ns).items():
        if name != "emotion":  # a class of the mean, and no mean of classes
            each = [company.truth_of(which, t_ns)[name] for which in range(3)]
            np.testing.assert_allclose(course, np.mean(each, axis=0), atol=1e-6)
    with pytest.raises(ValueError, match="the people are 0 to 2"):
        company.truth_of(3, 0)


def test_the_people_of_a_company_share_a_mood() -> None:
    """Gaussian courses of correlation r are as erf of them correlated by about 6 / pi asin(r / 2)."""
    t_ns, felt = np.arange(0, 60 * NS_PER_S, 10 * NS_PER_S), []
    for k in range(150):
        source = SimSource(f"seed={k}&person={3 * k}&people=3&duration_s=60")
        felt.append([source.truth_of(which, t_ns)["valence"] for which in range(3)])
    alike = CONTAGION**2 / (1 + CONTAGION**2)
    found = np.corrcoef(np.concatenate(felt, axis=1))[np.triu_indices(3, 1)]
    np.testing.assert_allclose(found, 6 / np.pi * np.arcsin(alike / 2), atol=0.08)
    alone = [SimSource(f"seed={k}&person={k}&duration_s=60").truth(t_ns)["valence"] for k in range(150)]
    others = [SimSource(f"seed={k}&person={k + 1}&duration_s=60").truth(t_ns)["valence"] for k in range(150)]
    assert abs(np.corrcoef(np.concatenate(alone), np.concatenate(others))[0, 1]) < 0.12


def test_the_emotion_of_a_company_is_that_of_its_mean_valence() -> None:
    truth = SimSource("seed=3&person=4&people=3&duration_s=120").truth(np.arange(0, 120 * NS_PER_S, NS_PER_S))
    names = [EMOTIONS[int(number)] for number in truth["emotion"]]
    for valence, name in zip(truth["valence"].tolist(), names, strict=True):
        assert name == ("positive" if valence >= 0.3 else "negative" if valence <= -0.3 else "neutral")
    assert truth["emotion"].dtype == np.float32


def test_emotions_of_companies_are_about_as_frequent() -> None:
    t_ns = np.arange(0, 30 * NS_PER_S, 2 * NS_PER_S)
    found = [
        SimSource(f"seed=2&person={3 * k}&people=3&duration_s=30").truth(t_ns)["emotion"] for k in range(100)
    ]
    shares = np.bincount(np.concatenate(found).astype(int), minlength=3) / (100 * t_ns.size)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.06)


def test_people_take_turns() -> None:
    scene = Scene(1, range(2, 5), Conditions(60.0), range(1800), range(60 * RATE_HZ))
    turns = scene.turns()
    heard = [next(turns) for _ in range(30)]
    speakers = [turn.speaker for turn in heard]
    assert set(speakers) == {0, 1, 2}
    assert all(one != other for one, other in pairwise(speakers))
    assert all(a.utterance.end == b.utterance.start for a, b in pairwise(heard))
    assert len(sound("people=3&duration_s=1.5")) == 1.5 * RATE_HZ


def test_a_company_gives_the_same_chunks_again() -> None:
    rest = "people=2&width=300&duration_s=0.5&fps=4&occlusion=0.5&gaps=0.3&streams=visual+audio+text"
    for one, other in zip(read_all(rest), read_all(rest), strict=True):
        assert (one.stream, one.seq, one.t_ns) == (other.stream, other.seq, other.t_ns)
        np.testing.assert_array_equal(one.data, other.data)


# -- head, light and what is held before the face


@pytest.mark.parametrize(("yaw_rad", "pitch_rad", "axis"), [(0.2, 0.0, 1), (0.0, 0.12, 0)])
def test_a_turn_moves_the_features_within_the_head(
    painter: FacePainter, yaw_rad: float, pitch_rad: float, axis: int
) -> None:
    def centre_of_the_mouth(yaw: float, pitch: float) -> NDArray[np.float64]:
        pose, light = Pose(yaw_rad=yaw, pitch_rad=pitch), Light(noise=0.0)
        shut = painter.paint(Expression(), pose, 0, light).astype(np.float64)
        opened = painter.paint(Expression(mouth_open=1.0), pose, 0, light).astype(np.float64)
        change = np.abs(opened - shut).sum(axis=2)
        return np.array([np.average(index, weights=change) for index in np.indices(change.shape)])

    moved = centre_of_the_mouth(yaw_rad, pitch_rad) - centre_of_the_mouth(0, 0)
    back = centre_of_the_mouth(-yaw_rad, -pitch_rad) - centre_of_the_mouth(0, 0)
    assert moved[axis] > 2
    assert back[axis] < -2
    assert abs(moved[1 - axis]) < 1
    outline = [painter.paint(Expression(), Pose(yaw_rad=yaw), 0, Light(noise=0.0)) for yaw in (0, yaw_rad)]
    np.testing.assert_array_equal(outline[0][:, :40], outline[1][:, :40])


def test_light_comes_from_where_it_should(painter: FacePainter) -> None:
    def balance(turn: float) -> float:
        picture = painter.paint(Expression(), Pose(), 0, Light(turn=turn)).astype(np.float64)
        return float(picture[60:130, 100:130].mean() - picture[60:130, 62:92].mean())

    assert balance(-1) + 5 < balance(0) < balance(1) - 5
    bright, usual = (painter.paint(Expression(), Pose(), 0, Light(gain=gain)).mean() for gain in (1.1, 1.0))
    assert abs(bright / usual - 1.1) < 0.02


def test_the_camera_s_noise_scales(painter: FacePainter) -> None:
    clean, usual, strong = (
        painter.paint(Expression(), Pose(), 3, Light(noise=noise)).astype(np.float64) for noise in (0, 1, 5)
    )
    assert 1.7 < (usual - clean).std() < 2.3
    assert 8 < (strong - clean).std() < 11
    again = painter.paint(Expression(), Pose(), 4, Light(noise=0))
    np.testing.assert_array_equal(clean, again)


def test_the_room_s_noise_scales() -> None:
    clean, usual, strong = (sound(f"duration_s=1.5&noise={noise}") for noise in (0, 1, 8))
    assert 2e-4 < (usual - clean).std() < 6e-4
    assert 7 < (strong - clean).std() / (usual - clean).std() < 9


@pytest.mark.parametrize("kind", KINDS)
def test_a_cover_hides_a_part_of_the_face(painter: FacePainter, kind: str) -> None:
    light = Light(noise=0.0)
    bare = painter.paint(Expression(), Pose(), 0, light).astype(np.float64)
    covered = painter.paint(Expression(), Pose(), 0, light, Cover(kind)).astype(np.float64)
    hidden = np.abs(covered - bare).max(axis=2) > 3
    assert 0.03 < hidden.mean() < 0.25
    opened = painter.paint(Expression(mouth_open=0.8), Pose(), 0, light, Cover(kind)).astype(np.float64)
    unseen = (
        np.abs(opened - covered).mean()
        / np.abs(painter.paint(Expression(mouth_open=0.8), Pose(), 0, light) - bare).mean()
    )
    assert unseen < 0.5
    lowered = painter.paint(Expression(), Pose(), 0, light, Cover(kind, raised=0.0))
    np.testing.assert_array_equal(lowered, bare)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_face_is_covered_for_the_share_that_was_asked_for(share: float) -> None:
    covers = [
        cover
        for k in range(3)
        for cover in Covering(generator("test", k), 600.0, share).at(np.arange(0, 600, 0.2))
    ]
    covered = np.mean([cover is not None and cover.raised == 1 for cover in covers])
    assert abs(covered - share) < 0.06
    if share:
        assert {cover.kind for cover in covers if cover is not None} == set(KINDS)


def test_a_session_without_a_cover_is_the_same_but_for_the_cover() -> None:
    rest = "person=2&seed=6&duration_s=30&fps=1&streams=visual"
    bare, covered = read_all(rest), read_all(f"{rest}&occlusion=0.4")
    same = [np.array_equal(one.data, other.data) for one, other in zip(bare, covered, strict=True)]
    assert 0.3 < np.mean(same) < 0.9


# -- gaps


def test_streams_drop_out_for_the_share_that_was_asked_for() -> None:
    rest = "seed=1&duration_s=60&fps=4&width=128&height=128&streams=visual+eda+ecg+text"
    whole, gapped = read_all(rest), read_all(f"{rest}&gaps=0.4")
    present: dict[str, NDArray[np.bool_]] = {}
    for modality in ("visual", "eda", "ecg", "text"):
        all_of = {chunk.t_ns: chunk for chunk in whole if chunk.modality == modality}
        left = {chunk.t_ns: chunk for chunk in gapped if chunk.modality == modality}
        assert left.keys() <= all_of.keys()
        for t_ns, chunk in left.items():
            np.testing.assert_array_equal(chunk.data, all_of[t_ns].data)
        assert [chunk.seq for chunk in left.values()] == list(range(len(left)))
        present[modality] = np.array([t_ns in left for t_ns in all_of])
        assert 0.45 < present[modality].mean() < 0.75
    assert abs(np.corrcoef(present["eda"], present["ecg"][: len(present["eda"])])[0, 1]) < 0.3
    edges = np.flatnonzero(np.diff(present["eda"].astype(int))) / 8
    starts = 0 if present["eda"][0] else 1
    gaps_s = np.array([b - a for a, b in zip(edges[starts:-1:2], edges[starts + 1 :: 2], strict=False)])
    assert 0.25 < gaps_s.min() < gaps_s.max() < 3.2


def test_gaps_fall_elsewhere_with_another_seed() -> None:
    times = [
        tuple(chunk.t_ns for chunk in read_all(f"seed={seed}&duration_s=20&streams=eda&gaps=0.5"))
        for seed in (1, 2, 1)
    ]
    assert times[0] == times[2] != times[1]


def test_a_session_of_gaps_only_ends() -> None:
    source = SimSource("duration_s=0.1&streams=text")
    source.start()
    assert source.ended
    assert source.read(0) is None
