"""What simulated people feel has the statistics it promises, and each channel hides what it should."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.sources.sim import SimSource
from edge_mer.sources.sim_course import INTENSITIES, Course, Episodes, Pain, Wander, generator


def sessions(n: int) -> NDArray[np.float64]:
    """Felt, face's and voice's valence and arousal of many sessions: (6, n times)."""
    t_s = np.arange(0, 60, 0.5)
    parts = []
    for seed in range(n):
        course = Course(seed, seed % 40, 60.0, with_pain=False)
        parts.append(np.stack((*course.felt(t_s), *course.face(t_s), *course.voice(t_s))))
    return np.concatenate(parts, axis=1)


def test_two_channels_know_more_than_one() -> None:
    courses = sessions(200)
    for k, (face_ideal, voice_ideal) in enumerate(((0.857, 0.80), (0.80, 0.857))):
        felt, channels = courses[k], courses[[2 + k, 4 + k]]
        alone = [np.corrcoef(felt, channel)[0, 1] for channel in channels]
        weights: NDArray[np.float64] = np.linalg.lstsq(channels.T, felt, rcond=None)[0]
        together = np.corrcoef(felt, weights @ channels)[0, 1]
        np.testing.assert_allclose(alone, (face_ideal, voice_ideal), atol=0.05)
        assert 0.87 < together < 0.93
        assert together > max(alone) + 0.03


def test_what_is_shown_is_spread_like_what_is_felt() -> None:
    spreads = sessions(200).std(axis=1)
    np.testing.assert_allclose(spreads, 0.63, atol=0.03)


def test_valence_says_nothing_about_arousal() -> None:
    correlations = np.array(np.corrcoef(sessions(200)))
    assert np.abs(correlations[::2, 1::2]).max() < 0.1


def test_a_wander_integrates_and_follows_itself() -> None:
    wander = Wander(np.random.Generator(np.random.Philox(1)), 3, 8.0, 32.0)
    t_s = np.arange(0, 400, 0.01)
    values, tau_s = wander.at(t_s), 12.0
    slopes = np.gradient(wander.integral(t_s), t_s, axis=1)
    np.testing.assert_allclose(slopes[:, 1:-1], values[:, 1:-1], atol=1e-4)
    follower = wander.smoothed(t_s, tau_s)
    np.testing.assert_allclose(
        (follower + tau_s * np.gradient(follower, t_s, axis=1))[:, 1:-1], values[:, 1:-1], atol=1e-4
    )


def test_episodes_take_the_share_they_should_at_every_time() -> None:
    active = [
        Episodes.draw(generator("test", k), 30.0, (0.4, 3.0), (0.4, 3.0)).active(np.arange(0, 30, 0.05))
        for k in range(300)
    ]
    shares = np.mean(active, axis=0)
    assert abs(shares.mean() - 0.5) < 0.02
    assert np.abs(shares - 0.5).max() < 0.12


# -- pain


def test_pain_is_there_only_when_asked_for() -> None:
    t_ns = np.arange(0, 20 * NS_PER_S, NS_PER_S // 10)
    without, asked = SimSource("seed=3").truth(t_ns), SimSource("seed=3&pain=1").truth(t_ns)
    assert not without["pain"].any()
    assert asked["pain"].max() in INTENSITIES
    painless = asked["pain"] == 0
    assert 0.2 < painless.mean() < 0.8
    for name in ("valence", "arousal"):
        np.testing.assert_array_equal(asked[name][painless], without[name][painless])
    assert (asked["valence"] <= without["valence"]).all()
    assert (asked["arousal"] >= without["arousal"]).all()
    assert (asked["valence"] - without["valence"]).min() < -0.1
    assert asked["valence"].min() >= -1
    assert asked["arousal"].max() <= 1


def test_stimuli_come_in_four_intensities_with_pauses_between() -> None:
    pain = Pain(generator("test"), 3600.0)
    values = pain.at(np.arange(0, 3600, 0.05))
    assert 0.45 < (values == 0).mean() < 0.58
    steady = values[1:][np.diff(values) == 0]
    assert set(steady) == {0.0, *INTENSITIES}
    edges = np.flatnonzero(np.diff((values > 0).astype(int)))
    runs_s = np.diff(edges) * 0.05
    first_is_pain = values[edges[0] + 1] > 0
    pains_s, pauses_s = runs_s[0 if first_is_pain else 1 :: 2], runs_s[1 if first_is_pain else 0 :: 2]
    assert 4.6 < pains_s.min() < pains_s.max() < 7.8
    assert 3.9 < pauses_s.min() < pauses_s.max() < 9.1


def test_the_time_since_the_start_says_nothing_about_pain() -> None:
    t_s = np.array([0.0, 0.5, 2.0, 10.0])
    hurts = np.mean([Pain(generator("test", k), 20.0).at(t_s) > 0 for k in range(400)], axis=0)
    np.testing.assert_allclose(hurts, 0.48, atol=0.08)


def test_a_longer_session_hurts_like_a_shorter_one() -> None:
    t_ns = np.arange(0, 20 * NS_PER_S, NS_PER_S // 10)
    short = SimSource("pain=1&duration_s=20").truth(t_ns)["pain"]
    np.testing.assert_array_equal(short, SimSource("pain=1&duration_s=900").truth(t_ns)["pain"])


def test_pain_integrates() -> None:
    pain, t_s = Pain(generator("test", 2), 100.0), np.arange(0, 100, 0.01)
    slopes = np.gradient(pain.integral(t_s), t_s)
    np.testing.assert_allclose(slopes[1:-1], pain.at(t_s)[1:-1], atol=2e-2)


def test_the_face_shows_pain_later_and_not_always_in_full() -> None:
    gains, delays_s = [], []
    t_s = np.arange(0, 600, 0.02)
    for person in range(4):
        pain = Pain(generator("test", person), 600.0)
        felt, shown = pain.at(t_s), pain.face(t_s)
        for onset_s, intensity in zip(pain.onset_s, pain.intensity, strict=True):
            if not 0 < onset_s < 592:
                continue
            part = slice(round(onset_s / 0.02), round((onset_s + 3) / 0.02))
            gain = shown[part].max() / intensity
            delays_s.append(
                0.02 * (np.argmax(shown[part] > gain * intensity / 2) - np.argmax(felt[part] > intensity / 2))
            )
            gains.append(gain)
    assert 0.0 <= min(gains) < 0.15
    assert 0.95 < max(gains) <= 1.1
    assert 0.17 < min(delays_s) < 0.3
    assert 0.5 < max(delays_s) < 0.63


@pytest.mark.parametrize("with_pain", [False, True])
def test_feelings_stay_in_their_range(with_pain: bool) -> None:
    course, t_s = Course(5, 5, 900.0, with_pain), np.arange(0, 900, 0.25)
    for values in (*course.felt(t_s), *course.face(t_s), *course.voice(t_s)):
        assert np.abs(values).max() <= 1
    assert 0 <= course.pain_at(t_s).min() <= course.pain_at(t_s).max() <= 1
