"""Heart rates: of made pulses, and of real recordings whose beats are counted another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import find_peaks

from edge_mer.preprocess.pulse import NO_PULSE, pulse_of
from tests.helpers.data import real

Floats = NDArray[np.float64]


def wave(bpm: float, rate_hz: int, seconds: float = 10.0) -> Floats:
    """A pulse with a second crest, on a slow drift twice its size."""
    t_s = np.arange(int(seconds * rate_hz)) / rate_hz
    beats = bpm / 60 * t_s
    crests = np.exp(-0.5 * (((beats % 1) - 0.3) / 0.09) ** 2)
    crests += 0.4 * np.exp(-0.5 * (((beats % 1) - 0.65) / 0.1) ** 2)
    return 50 * (crests + 2 * np.sin(2 * math.pi * 0.15 * t_s))


@pytest.mark.parametrize("rate_hz", [25, 64, 100, 117])
@pytest.mark.parametrize("bpm", [50, 62.5, 75, 96, 121, 150])
def test_the_rate_of_a_made_pulse(bpm: float, rate_hz: int) -> None:
    found = pulse_of(wave(bpm, rate_hz), rate_hz)
    assert found.rate_bpm == pytest.approx(bpm, abs=1.5)
    assert found.clarity > 0.7


def test_two_beats_are_not_taken_for_one() -> None:
    """Every second beat a little stronger, as real ones are."""
    pulse = wave(90, 64)
    t_s = np.arange(len(pulse)) / 64
    assert pulse_of(pulse * (1 + 0.1 * np.cos(math.pi * 1.5 * t_s)), 64).rate_bpm == pytest.approx(90, abs=2)


def test_noise_has_no_clear_pulse() -> None:
    clarities = [pulse_of(np.random.default_rng(i).normal(size=640), 64).clarity for i in range(20)]
    assert np.median(clarities) < 0.5


def test_nothing_has_no_pulse() -> None:
    assert pulse_of(np.zeros(640), 64) == NO_PULSE
    assert pulse_of(np.full(640, 3.7), 64).clarity == 0


def counted_bpm(samples: Floats, rate_hz: float) -> float:
    """From the median distance of crests."""
    smooth = np.convolve(samples, np.ones(int(rate_hz / 10)) / int(rate_hz / 10), "same")
    height = 0.5 * (np.percentile(smooth, 98) - np.median(smooth)) + np.median(smooth)
    crests = find_peaks(smooth, height=height, distance=int(0.4 * rate_hz))[0]
    return 60 * rate_hz / float(np.median(np.diff(crests)))


@pytest.mark.parametrize(
    ("parts", "column", "rate_hz"),
    [
        (("biosignal_heartpy", "heartpy_data2.csv"), "hr", 117),
        (("biosignal_neurokit", "bio_resting_5min_100hz.csv"), "PPG", 100),
    ],
)
def test_real_pulses_agree_with_counted_crests(parts: tuple[str, str], column: str, rate_hz: int) -> None:
    values = column_of(real(*parts).read_text(encoding="utf-8"), column)
    size, differences = 10 * rate_hz, []
    for first in range(0, len(values) - size, size):
        piece = values[first : first + size]
        found = pulse_of(piece, rate_hz)
        if found.clarity >= 0.7:
            differences.append(abs(found.rate_bpm - counted_bpm(piece, rate_hz)))
    assert differences
    assert np.median(differences) < 3


def column_of(text: str, column: str) -> Floats:
    """The numbers below a name."""
    rows = [line.split(",") for line in text.splitlines() if line]
    place = rows[0].index(column)
    return np.array([float(row[place]) for row in rows[1:]])
