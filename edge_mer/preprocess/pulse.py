"""What a photoplethysmogram of some seconds says of the pulse.

Successive beats resemble each other, so that the signal repeats itself after one beat: its
autocorrelation peaks there. Slow drift, which a wrist has plenty of, is weakened by looking at the
signal's slope instead of the signal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray

BAND_HZ = (0.7, 4.0)
"""Where a pulse and its first harmonics lie."""

BEAT_S = (1 / 3, 1.4)
"""Shortest and longest beat: 180 to 43 beats per minute."""

_FIRST_PEAK = 0.85
"""Two beats resemble each other as well as one does; the first peak that is nearly the highest is one."""

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Pulse:
    """What some seconds say.

    Attributes:
        rate_bpm: Beats per minute; NaN where nothing repeats itself.
        clarity: How well one beat resembles the next, 0 to 1.
    """

    rate_bpm: float
    clarity: float


NO_PULSE = Pulse(math.nan, 0.0)


def pulse_of(samples: Floats, rate_hz: int) -> Pulse:
    """Heart rate and clarity of a pulse.

    Args:
        samples: (n,) of a photoplethysmogram without gaps, some beats long.
        rate_hz: Samples per second.
    """
    n = len(samples)
    window, weight = _weights(n, rate_hz)
    quiet = (samples - samples.mean()) * window  # (n,)
    power = np.abs(scipy.fft.rfft(quiet, 2 * n)) ** 2 * weight  # (n + 1,)
    likeness = scipy.fft.irfft(power)[: n // 2]
    if not likeness[0] > 0:
        return NO_PULSE
    likeness /= likeness[0]
    lag = _first_peak(likeness, rate_hz)
    if lag is None:
        return NO_PULSE
    before, here, after = likeness[lag - 1 : lag + 2].tolist()
    shift = 0.5 * (before - after) / (before - 2 * here + after)  # of the parabola through the three
    return Pulse(60 * rate_hz / (lag + shift), here)


@lru_cache(maxsize=8)
def _weights(n: int, rate_hz: int) -> tuple[Floats, Floats]:
    """A window (n,), and per frequency (n + 1,) what a slope makes of it within a pulse's band, else 0."""
    hz = scipy.fft.rfftfreq(2 * n, 1 / rate_hz)
    in_band = (hz >= BAND_HZ[0]) & (hz <= BAND_HZ[1])
    return np.hanning(n), np.where(in_band, hz**2, 0.0)


def _first_peak(likeness: Floats, rate_hz: int) -> int | None:
    """The lag of one beat in samples, from the autocorrelation by lag."""
    first, stop = int(BEAT_S[0] * rate_hz), int(BEAT_S[1] * rate_hz)
    inner = likeness[first:stop]
    is_peak = (inner >= likeness[first - 1 : stop - 1]) & (inner > likeness[first + 1 : stop + 1])
    heights = np.where(is_peak, inner, 0.0)
    if not heights.max(initial=0.0) > 0:
        return None
    return first + int(np.argmax(heights >= _FIRST_PEAK * heights.max()))
