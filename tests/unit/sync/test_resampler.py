"""GridResampler, held against signals whose value at any time is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.sync.resampler import ENGAGE_NS, GridResampler

NS = 1_000_000_000
Samples = NDArray[np.float32]


def streamed(
    signal: Samples, rate_hz: float, start_ns: int, deviation: float, sizes: list[int]
) -> tuple[int, Samples, GridResampler]:
    """What comes out, and when it begins, of samples that really take 1 + deviation periods each."""
    resampler = GridResampler(rate_hz)
    resampler.start(start_ns)
    begin_ns, at, out = resampler.next_ns, 0, []
    for size in sizes:
        piece = signal[at : at + size]
        first_ns = start_ns + round(at * (1 + deviation) * NS / rate_hz)
        out.append(resampler.push(piece, first_ns, deviation))
        at += len(piece)
    return begin_ns, np.concatenate([*out, resampler.finish()]), resampler


def tone(frequency_hz: float, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sin(2 * np.pi * frequency_hz * times_s + 0.3))


def snr_db(rate_hz: int, frequency_hz: float, deviation: float) -> float:
    """How far a resampled tone's error lies below it, once the grid is reached, phase errors included."""
    n, size = max(200, 40 * rate_hz), max(1, rate_hz // 20)
    taken_s = 0.0125 + np.arange(n) * (1 + deviation) / rate_hz
    signal = tone(frequency_hz, taken_s).astype(np.float32)[:, np.newaxis]
    begin_ns, out, _ = streamed(signal, rate_hz, 12_500_000, deviation, [size] * (n // size))
    times_s = begin_ns / NS + np.arange(len(out)) / rate_hz
    settled = slice(int(0.9 * len(out)), len(out) - (16 if rate_hz > 100 else 2))
    error = out[settled, 0] - tone(frequency_hz, times_s[settled])
    return -10 * math.log10(float(np.mean(error**2)) / 0.5)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 700), min_size=1, max_size=30),
    rate_hz=st.sampled_from([4.0, 64.0, 250.0, 333.3, 16_000.0]),
    first=st.integers(0, 10**9),
    off_ns=st.integers(-ENGAGE_NS // 2, ENGAGE_NS // 2),
)
def test_what_lies_on_the_grid_passes_bit_by_bit(
    sizes: list[int], rate_hz: float, first: int, off_ns: int
) -> None:
    signal = np.random.default_rng(0).normal(size=(sum(sizes), 2)).astype(np.float32)
    start_ns = int(first * NS / rate_hz)
    begin_ns, out, resampler = streamed(signal, rate_hz, start_ns + off_ns, 0.0, sizes)
    assert abs(begin_ns - start_ns) <= max(2, NS / rate_hz)
    assert out.tobytes() == signal.tobytes()
    assert resampler.slipped == 0


@pytest.mark.parametrize(
    ("rate_hz", "frequency_hz", "at_least_db"),
    [
        (16_000, 440, 80),
        (16_000, 3_000, 80),
        (16_000, 6_000, 70),
        (44_100, 1_000, 80),
        (250, 5, 55),
        (4, 0.05, 40),
    ],
)
@pytest.mark.parametrize("deviation", [4e-4, -1e-3])
def test_a_tone_stays_a_tone(rate_hz: int, frequency_hz: float, at_least_db: float, deviation: float) -> None:
    assert snr_db(rate_hz, frequency_hz, deviation) >= at_least_db


@pytest.mark.parametrize("deviation", [0.0, 7e-4, -7e-4])
@pytest.mark.parametrize("rate_hz", [4, 64, 250, 16_000])
def test_nothing_is_made_up_before_the_first_and_after_the_last_sample(
    rate_hz: int, deviation: float
) -> None:
    """A ramp shows when each value was captured."""
    n, start_ns = 10 * rate_hz, 5 * NS + NS // rate_hz // 3
    ramp = np.arange(n, dtype=np.float32)[:, np.newaxis]
    begin_ns, out, _ = streamed(ramp, rate_hz, start_ns, deviation, [n // 5] * 5)
    assert begin_ns >= start_ns - ENGAGE_NS
    assert out.min() >= 0
    assert out.max() <= n - 1
    assert abs(len(out) - n * (1 + deviation)) <= 2 + 0.001 * rate_hz
    captured_s = start_ns / NS + out[:, 0].astype(float) * (1 + deviation) / rate_hz
    wanted_s = begin_ns / NS + np.arange(len(out)) / rate_hz
    most_s = ENGAGE_NS / NS + 2 * abs(deviation)  # noticed between two chunks, which are 2 s long
    assert np.abs(captured_s - wanted_s).max() < most_s + 1e-4


def test_drift_is_resampled_and_not_accumulated() -> None:
    """An hour at 250.1 Hz: 360 samples too many are left out, and no second has drifted."""
    rate_hz, deviation = 250, 250 / 250.1 - 1
    n = int(3_600 * 250.1)
    ramp = (np.arange(n, dtype=np.float64) / 250.1).astype(np.float32)[:, np.newaxis]
    begin_ns, out, resampler = streamed(ramp, rate_hz, 0, deviation, [250] * (n // 250 + 1))
    assert begin_ns == 0
    times_s = np.arange(len(out)) / rate_hz
    assert np.abs(out[:, 0] - times_s).max() < 0.002
    assert abs(n - len(out) - 360) <= 2
    assert resampler.slipped == pytest.approx(360, abs=3)


@pytest.mark.parametrize("rate_hz", [4, 64, 250, 16_000])
def test_nan_stays_where_it_was(rate_hz: int) -> None:
    n = 6_000
    signal = np.ones((n, 2), np.float32)
    signal[3_000:3_010, 0] = np.nan
    signal[4_000, 1] = np.nan
    _, out, _ = streamed(signal, rate_hz, NS // rate_hz // 2 + 2 * ENGAGE_NS, 5e-4, [60] * 100)
    lost = [np.flatnonzero(np.isnan(out[:, channel])) for channel in (0, 1)]
    assert 9 <= len(lost[0]) <= 13
    assert np.ptp(lost[0]) == len(lost[0]) - 1
    assert 1 <= len(lost[1]) <= 3
    np.testing.assert_allclose(out[np.isfinite(out)], 1.0, atol=1e-6)


def test_a_new_start_forgets_what_came_before() -> None:
    resampler = GridResampler(250)
    resampler.start(0)
    resampler.push(np.full((100, 1), np.nan, np.float32), 0, 0.0)
    resampler.finish()
    resampler.start(NS + 1_500_000)
    out = resampler.push(np.ones((100, 1), np.float32), NS + 1_500_000, 1e-4)
    assert len(out) > 80
    assert np.isfinite(out).all()


def test_memory_stays_bounded() -> None:
    resampler = GridResampler(250)
    resampler.start(1_700_000)
    for i in range(200):
        resampler.push(np.ones((25, 1), np.float32), 1_700_000 + i * 100_040_000, 4e-4)
        assert len(resampler._held) < 40
