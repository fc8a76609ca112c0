"""Pieces of streams of another rate than the model's, held against sums over every sample, one by one."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.preprocess.signal import write_resampled, write_signal
from edge_mer.types.model import Signal

Floats = NDArray[np.float32]
PLAIN = Signal(rate_hz=64, unit="uS", stream_hz=(1.0, 1_000.0))
RATES = [(4, 64), (32, 64), (63.5, 64), (64, 64), (65, 64), (130.3, 128), (250, 100), (1_000, 50), (1, 100)]


def resampled(samples: Floats, first: float, step: float, n: int, spec: Signal = PLAIN) -> Floats:
    out = np.full((1, n), np.nan, np.float32)
    write_resampled(samples, first, step, spec, out)
    return out[0]


def one_by_one(samples: Floats, first: Fraction, step: Fraction, n: int) -> list[float]:
    """The same by the definition, in exact numbers."""
    values = {i: Fraction(float(value)) for i, value in enumerate(samples) if not math.isnan(value)}
    half, found = max(Fraction(1), step) / 2, []
    for j in range(n):
        at = first + j * step
        shares = {i: min(at + half, i + Fraction(1, 2)) - max(at - half, i - Fraction(1, 2)) for i in values}
        shares = {i: share for i, share in shares.items() if share > 0}
        is_known = math.floor(at) in values
        total = sum((share * values[i] for i, share in shares.items()), Fraction(0))
        found.append(float(total / sum(shares.values())) if is_known else 0.0)
    return found


@settings(max_examples=60)
@given(
    n_streamed=st.integers(0, 40),
    n=st.integers(0, 40),
    first=st.fractions(-3, 6, max_denominator=16),
    step=st.fractions(Fraction(1, 16), 20, max_denominator=16),
    missing=st.sets(st.integers(0, 39)),
    seed=st.integers(0, 9),
)
def test_any_piece_is_what_the_definition_says(
    n_streamed: int, n: int, first: Fraction, step: Fraction, missing: set[int], seed: int
) -> None:
    samples = np.random.default_rng(seed).standard_normal(n_streamed).astype(np.float32)
    samples[[i for i in missing if i < n_streamed]] = np.nan
    found = resampled(samples, float(first), float(step), n)
    np.testing.assert_allclose(found, one_by_one(samples, first, step, n), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("stream_hz", "rate_hz"), RATES)
def test_a_straight_line_stays_one_and_is_not_moved_in_time(stream_hz: float, rate_hz: float) -> None:
    step, n = stream_hz / rate_hz, 40
    first = max(1.0, step) + 0.25
    samples = np.arange(math.ceil(first + n * step) + max(1, math.ceil(step)) + 1, dtype=np.float32)
    error = resampled(samples, first, step, n) - (first + step * np.arange(n))
    # As long as pieces of no whole number of samples are averaged, by a fourteenth of one of them at most.
    assert np.abs(error).max() < (1e-5 if step <= 1 or step % 1 == 0 else 0.07)
    assert abs(error.mean()) < 0.01


@pytest.mark.parametrize(("stream_hz", "rate_hz"), RATES)
def test_a_level_stays_one_to_the_very_edges(stream_hz: float, rate_hz: float) -> None:
    step, n = stream_hz / rate_hz, 30
    samples = np.full(math.ceil(n * step), 3.5, np.float32)
    np.testing.assert_array_equal(resampled(samples, 0.0, step, n), np.full(n, 3.5, np.float32))


def test_slow_samples_are_joined_and_the_last_one_is_held() -> None:
    samples = np.array([1.0, 5.0, 3.0], np.float32)
    at = np.arange(12) / 4
    np.testing.assert_allclose(resampled(samples, 0.0, 0.25, 12), np.interp(at, [0, 1, 2], samples))


def test_fast_samples_are_averaged_around_their_place() -> None:
    samples = np.array([0.0, 8.0, 0.0, 0.0, 0.0, 4.0], np.float32)
    np.testing.assert_allclose(resampled(samples, 0.0, 2.0, 3), [8 / 3, 2.0, 1.0])
    fast = np.sin(2 * np.pi * 200 * np.arange(2_000) / 1_000).astype(np.float32)  # 200 Hz, far above 25 Hz
    assert np.abs(resampled(fast, 20.0, 20.0, 90)).max() < 0.1


def test_at_the_same_rate_nothing_changes() -> None:
    samples = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    as_ever = np.zeros((1, 50), np.float32)
    write_signal(samples, PLAIN, as_ever)
    np.testing.assert_array_equal(resampled(samples, 0.0, 1.0, 50), as_ever[0])


def test_what_is_missing_is_zero_in_the_signals_unit_and_nothing_is_made_up() -> None:
    spec = PLAIN.model_copy(update={"mean": 2.0, "std": 4.0})
    samples = np.array([2.0, np.nan, 6.0], np.float32)
    found = resampled(samples, 0.0, 0.5, 6, spec)
    missing = (0.0 - 2.0) / 4.0
    np.testing.assert_allclose(found, [0.0, 0.0, missing, missing, 1.0, 1.0])
    np.testing.assert_allclose(resampled(samples[:0], 0.0, 0.5, 3, spec), [missing] * 3)
    np.testing.assert_allclose(resampled(samples, -1.0, 1.0, 5, spec), [missing, 0.0, missing, 1.0, missing])


def test_places_that_were_rounded_down_are_meant_to_be_whole() -> None:
    samples = np.array([np.nan, 1.0, 2.0], np.float32)
    np.testing.assert_allclose(resampled(samples, 1.0 - 1e-12, 1.0, 2), [1.0, 2.0])
