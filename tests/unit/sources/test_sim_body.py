"""The simulated body's signals are one curve each, at any rate, and follow what is felt as bodies do."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.preprocess.pulse import pulse_of
from edge_mer.sources.sim import SimSource
from edge_mer.sources.sim_body import BODY_SIGNALS, Body
from edge_mer.sources.sim_course import Course
from edge_mer.types.signals import Chunk

SIGNALS = tuple(BODY_SIGNALS)
ALL = "streams=eda+ecg+ppg+rsp+skt"


def chunks_of(rest: str) -> dict[str, list[Chunk]]:
    source = SimSource(rest)
    source.start()
    chunks: dict[str, list[Chunk]] = {spec.modality: [] for spec in source.specs}
    while chunk := source.read(0):
        chunks[chunk.modality].append(chunk)
    return chunks


def samples(rest: str) -> dict[str, NDArray[np.float32]]:
    return {
        name: np.concatenate([c.data[:, 0] for c in chunks]).astype(np.float32)
        for name, chunks in chunks_of(rest).items()
    }


def body(seed: int, person: int, with_pain: bool = False, noise: float = 0.0) -> tuple[Body, Course]:
    course = Course(seed, person, 600.0, with_pain)
    return Body(seed, person, course, noise), course


def beats_s(ecg: NDArray[np.float64], t_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times of the R waves."""
    middle = ecg[1:-1]
    peaks = (middle > ecg[:-2]) & (middle >= ecg[2:]) & (middle > 0.5 * ecg.max())
    times_s: NDArray[np.float64] = t_s[1:-1][peaks]
    return times_s


# -- how it is delivered


def test_signals_are_as_their_specs_say() -> None:
    source = SimSource(f"{ALL}&eda_hz=31.25&ecg_hz=500&duration_s=1")
    specs = {spec.modality: spec for spec in source.specs}
    assert [(spec.name, spec.unit, spec.rate_hz) for spec in source.specs] == [
        ("sim/eda", "uS", 31.25),
        ("sim/ecg", "mV", 500.0),
        ("sim/ppg", "1", 64.0),
        ("sim/rsp", "1", 32.0),
        ("sim/skt", "degC", 4.0),
    ]
    for modality, chunks in chunks_of(source.uri.removeprefix("sim:")).items():
        spec = next(spec for name, spec in specs.items() if name == modality)
        assert (spec.axes, spec.shape, spec.channels) == (("sample", "channel"), (None, 1), (modality,))
        assert all(chunk.data.dtype == np.float32 and chunk.data.shape[1] == 1 for chunk in chunks)


@pytest.mark.parametrize("rate", ["1", "7", "31.25", "250", "1000/3", "2048"])
def test_times_are_exact(rate: str) -> None:
    rate_hz = Fraction(rate)
    chunks = chunks_of(f"streams=eda&eda_hz={rate}&duration_s=2.5")["eda"]
    size, n = max(1, round(rate_hz / 8)), math.ceil(rate_hz * 5 / 2)
    assert [chunk.t_ns for chunk in chunks] == [int(k * NS_PER_S / rate_hz) for k in range(0, n, size)]
    assert sum(chunk.n_samples for chunk in chunks) == n
    assert {chunk.n_samples for chunk in chunks[:-1]} == {size}
    assert [chunk.seq for chunk in chunks] == list(range(len(chunks)))


@pytest.mark.parametrize("signal", SIGNALS)
def test_two_rates_sample_the_same_curve(signal: str) -> None:
    rest = f"seed=2&person=3&pain=1&noise=0&duration_s=12&streams={signal}"
    slow, fast = (samples(f"{rest}&{signal}_hz={rate}")[signal] for rate in (50, 400))
    np.testing.assert_allclose(slow, fast[::8], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_curve_does_not_depend_on_how_it_is_asked_for(signal: str) -> None:
    t_s = np.arange(0, 150, 0.05)
    whole = body(1, 4, with_pain=True, noise=3.0)[0].curve(signal, t_s)
    other = body(1, 4, with_pain=True, noise=3.0)[0]
    pieces = [other.curve(signal, part) for part in np.array_split(t_s, 37)]
    np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=1e-9, atol=1e-9)


def test_a_longer_session_begins_like_a_shorter_one() -> None:
    # the last piece has a single sample, where sums are in another order than in a whole one
    rest = f"{ALL}&pain=1&noise=0&eda_hz=40&ecg_hz=40&ppg_hz=40&rsp_hz=40&skt_hz=40"
    long = samples(f"{rest}&duration_s=11")
    for duration in ("2.52", "4.02", "7.27", "9.52", "10.77"):
        short = samples(f"{rest}&duration_s={duration}")
        for name, values in short.items():
            assert len(values) % 5 == 1
            np.testing.assert_array_equal(values, long[name][: len(values)])


def test_a_stream_does_not_depend_on_the_others() -> None:
    rest = "person=5&seed=3&pain=1&duration_s=1.2&fps=5"
    together = chunks_of(f"{rest}&streams=visual+audio+eda+ecg+ppg+rsp+skt+text")
    for modality, chunks in together.items():
        alone = chunks_of(f"{rest}&streams={modality}")[modality]
        assert [(c.seq, c.t_ns) for c in alone] == [(c.seq, c.t_ns) for c in chunks]
        for one, other in zip(alone, chunks, strict=True):
            np.testing.assert_array_equal(one.data, other.data)


def test_another_body_takes_the_seat() -> None:
    rest = f"{ALL}&seed=2&duration_s=3&skt_hz=32"
    first, second = samples(f"{rest}&person=1"), samples(f"{rest}&person=9")
    for name, values in samples(f"{rest}&person=1&switch_s=1.3&switch_person=9").items():
        cut = math.ceil(1.3 * len(values) / 3)
        np.testing.assert_array_equal(values[:cut], first[name][:cut])
        np.testing.assert_array_equal(values[cut:], second[name][cut:])


def test_noise_is_the_sensors_and_scales() -> None:
    t_s = np.arange(0, 8, 1 / 250)
    for signal in SIGNALS:
        clean = body(1, 1)[0].sensed(signal, t_s, 0)
        np.testing.assert_array_equal(clean, body(1, 1)[0].curve(signal, t_s))
        spreads = [
            np.std(
                body(1, 1, noise=factor)[0].sensed(signal, t_s, 0)
                - body(1, 1, noise=factor)[0].curve(signal, t_s)
            )
            for factor in (1.0, 5.0)
        ]
        assert 0 < spreads[0] < 0.05
        assert math.isclose(5 * spreads[0], spreads[1], rel_tol=1e-6)


def test_movements_are_rare_and_come_with_the_noise() -> None:
    t_s = np.arange(0, 600, 0.05)
    moved = np.abs(body(1, 1, noise=1.0)[0].curve("eda", t_s) - body(1, 1)[0].curve("eda", t_s)) > 0.01
    assert 0.002 < moved.mean() < 0.05


# -- skin conductance


def test_levels_differ_between_people_and_little_within_one() -> None:
    levels = np.array(
        [[body(s, p)[0].curve("eda", np.arange(0, 60, 0.5)).mean() for s in range(4)] for p in range(40)]
    )
    assert 1.8 < levels.min() < 4
    assert 9 < levels.max() < 18
    within = np.log(levels).std(axis=1).mean()
    assert 0.03 < within < 0.3 * np.log(levels.mean(axis=1)).std()


def test_the_skin_answers_pain_after_the_person_s_own_delay() -> None:
    grid_s = np.arange(0, 8, 0.05)
    delays_s = []
    for person in range(8):
        answers = []
        for seed in range(6):
            hurt, course = body(seed, person, with_pain=True)
            calm, _ = body(seed, person)
            assert course.pain is not None
            for onset_s in course.pain.onset_s[(course.pain.onset_s > 0) & (course.pain.onset_s < 200)]:
                t_s = onset_s + grid_s
                answer = hurt.curve("eda", t_s) - calm.curve("eda", t_s)
                answers.append(answer - answer[0])
        slope = np.gradient(np.mean(answers, axis=0))
        delays_s.append(grid_s[np.argmax(slope > 0.25 * slope.max())])
    assert min(delays_s) >= 0.95
    assert max(delays_s) <= 2.7
    assert np.ptp(delays_s) > 0.4


def test_stronger_pain_gives_a_greater_answer() -> None:
    answers: dict[float, list[float]] = {}
    for person in range(6):
        hurt, course = body(0, person, with_pain=True)
        calm, _ = body(0, person)
        assert course.pain is not None
        inside = (course.pain.onset_s > 0) & (course.pain.onset_s < 590)
        for onset_s, intensity in zip(
            course.pain.onset_s[inside], course.pain.intensity[inside], strict=True
        ):
            t_s = onset_s + np.array([0.9, 4.0])
            before, after = hurt.curve("eda", t_s) - calm.curve("eda", t_s)
            answers.setdefault(float(intensity), []).append(float(after - before))
    means = [np.mean(answers[intensity]) for intensity in sorted(answers)]
    assert means == sorted(means)
    assert means[-1] > 2 * means[0]


def test_arousal_brings_responses() -> None:
    correlations = []
    for person in range(8):
        it, course = body(0, person)
        t_s = np.arange(0, 300, 0.5)
        eda = it.curve("eda", t_s)
        # rises only: what begins, not what is left over
        rises = np.maximum(0, np.gradient(eda)).reshape(-1, 8).sum(axis=1)
        arousal = course.felt(t_s - 3.0)[1].reshape(-1, 8).mean(axis=1)
        correlations.append(np.corrcoef(rises, arousal)[0, 1])
    assert np.mean(correlations) > 0.25


# -- heart, breath and skin temperature


def test_a_beat_has_its_five_waves() -> None:
    it, _ = body(3, 3)
    t_s = np.arange(0, 60, 0.001)
    ecg = it.curve("ecg", t_s)
    beats = beats_s(ecg, t_s)[1:-1]
    period_s = float(np.median(np.diff(beats)))
    offsets_s = np.arange(-0.35, 0.45, 0.001) * period_s
    beat = np.mean([np.interp(beat_s + offsets_s, t_s, ecg) for beat_s in beats], axis=0)
    phase = offsets_s / period_s
    level = np.median(beat)

    def between(low: float, high: float) -> NDArray[np.float64]:
        part: NDArray[np.float64] = beat[(phase > low) & (phase < high)] - level
        return part

    r = beat.max() - level
    assert 0.05 * r < between(-0.25, -0.1).max() < 0.25 * r
    assert between(-0.05, -0.015).min() < -0.04 * r
    assert between(0.015, 0.05).min() < -0.1 * r
    assert 0.15 * r < between(0.18, 0.36).max() < 0.45 * r


def test_hearts_beat_as_hearts_do() -> None:
    rates, correlations, swings = [], [], []
    for person in range(10):
        it, course = body(1, person)
        t_s = np.arange(0, 200, 0.004)
        beats = beats_s(it.curve("ecg", t_s), t_s)
        per_min = 60 / np.diff(beats)
        middles_s = (beats[1:] + beats[:-1]) / 2
        rates.append(per_min.mean())
        assert 35 < per_min.min() < per_min.max() < 150
        correlations.append(np.corrcoef(per_min, course.felt(middles_s - 1.5)[1])[0, 1])
        breath = it.curve("rsp", middles_s)
        swings.append(np.corrcoef(per_min, breath)[0, 1])
    assert 50 < min(rates) < 65
    assert 75 < max(rates) < 95
    assert np.mean(correlations) > 0.5
    assert np.mean(swings) > 0.2


def test_the_pulse_wave_follows_the_heart_and_shrinks_under_arousal() -> None:
    correlations = []
    for person in range(6):
        it, course = body(3, person)
        t_s = np.arange(0, 120, 1 / 64)
        wave, ecg_s = it.curve("ppg", t_s), np.arange(0, 120, 0.004)
        rate_bpm = 60 / np.diff(beats_s(it.curve("ecg", ecg_s), ecg_s)).mean()
        pieces = np.split(wave, 12)
        assert np.median([pulse_of(piece, 64).rate_bpm for piece in pieces]) == pytest.approx(rate_bpm, abs=4)
        arousal = course.felt(t_s - 1.5)[1].reshape(60, -1).mean(axis=1)
        heights = np.ptp(wave.reshape(60, -1), axis=1)
        correlations.append(np.corrcoef(heights, arousal)[0, 1])
    assert np.mean(correlations) < -0.4


def test_pain_quickens_the_heart() -> None:
    differences = []
    for person in range(6):
        t_s = np.arange(0, 200, 0.004)
        counts = [len(beats_s(body(1, person, hurts)[0].curve("ecg", t_s), t_s)) for hurts in (False, True)]
        differences.append(counts[1] / counts[0] - 1)
    assert 0.005 < np.mean(differences) < 0.1


def test_breath_is_quicker_and_deeper_under_arousal() -> None:
    rates, depths = [], []
    for person in range(8):
        it, course = body(2, person)
        t_s = np.arange(0, 300, 0.05)
        breath = it.curve("rsp", t_s)
        up = np.flatnonzero((breath[:-1] < 0) & (breath[1:] >= 0))
        per_min = 60 / np.diff(t_s[up])
        arousal = course.felt((t_s[up][1:] + t_s[up][:-1]) / 2 - 1.2)[1]
        height = np.array([np.ptp(breath[a:b]) for a, b in pairwise(up)])
        rates.append(np.corrcoef(per_min, arousal)[0, 1])
        depths.append(np.corrcoef(height, arousal)[0, 1])
        assert 10 < per_min.mean() < 21
    assert np.mean(rates) > 0.4
    assert np.mean(depths) > 0.6


def test_skin_cools_slowly_under_arousal() -> None:
    t_s = np.arange(0, 500, 1.0)
    falls, levels = [], []
    for person in range(12):
        it, course = body(4, person)
        degc = it.curve("skt", t_s)
        levels.append(degc.mean())
        assert np.ptp(degc) < 2.5
        falls.append(np.corrcoef(np.gradient(degc), course.felt(t_s)[1])[0, 1])
    assert np.mean(falls) < -0.5
    assert 30 < min(levels) < 32.5 < 33.5 < max(levels) < 36
