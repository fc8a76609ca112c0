"""RecursiveLine, held against least squares over all points at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mer.sync.recursive_line import RecursiveLine

NS = 1_000_000_000


def at_once(x: np.ndarray, y: np.ndarray, deviation: np.ndarray, half_life: int, prior: float) -> np.ndarray:
    """Level at the newest point and slope, by solving for all points at once."""
    weight = 0.5 ** ((x[-1] - x) / half_life) / deviation**2
    rows = np.stack([np.ones(len(x)), x - x[-1]], axis=1).astype(float)
    normal = (rows * weight[:, np.newaxis]).T @ rows + np.diag([0, prior**-2])
    return np.asarray(np.linalg.solve(normal, (rows * weight[:, np.newaxis]).T @ y.astype(float)))


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(st.integers(NS // 100, 20 * NS), min_size=2, max_size=60),
    noise=st.lists(st.integers(-5_000_000, 5_000_000), min_size=60, max_size=60),
    slope_ppm=st.integers(-200, 200),
)
def test_it_is_weighted_least_squares(steps: list[int], noise: list[int], slope_ppm: int) -> None:
    x = np.cumsum(steps)
    y = x * slope_ppm // 1_000_000 + np.array(noise[: len(x)])
    deviation = 1e5 + np.abs(noise[: len(x)])
    line = RecursiveLine(60 * NS, 1e-4)
    for point in zip(x.tolist(), y.tolist(), deviation.tolist(), strict=True):
        line.push(*point)
    level, slope = at_once(x, y, deviation, 60 * NS, 1e-4)
    assert line.slope == pytest.approx(slope, abs=1e-10)
    assert line.at(int(x[-1])) == pytest.approx(level, abs=20)


@pytest.mark.parametrize("shift", [0, 2**62, -(2**70)])
def test_numbers_of_any_size_lose_nothing(shift: int) -> None:
    line = RecursiveLine(60 * NS, 1e-4)
    for i in range(1_000):
        x = i * NS
        line.push(x + shift, 2 * shift + x * 123 // 1_000_000, 1e4)
    assert line.slope == pytest.approx(123e-6, abs=1e-11)
    assert abs(line.at(1_000 * NS + shift) - 2 * shift - 123_000_000) <= 2


def test_what_is_old_is_forgotten() -> None:
    line = RecursiveLine(10 * NS, 1e-3)
    for i in range(200):
        line.push(i * NS, 0, 1e4)
    for i in range(200, 400):
        line.push(i * NS, (i - 200) * 100_000, 1e4)
    assert line.slope == pytest.approx(1e-4, abs=1e-7)


def test_a_line_that_starts_again_elsewhere_keeps_its_slope() -> None:
    line = RecursiveLine(60 * NS, 1e-4)
    for i in range(100):
        line.push(i * NS, i * 50_000, 1e4)
    line.restart(1e-6)
    line.push(200 * NS, 77 * NS, 1e4)
    assert line.slope == pytest.approx(5e-5, abs=1e-8)
    assert line.at(201 * NS) == pytest.approx(77 * NS + 50_000, abs=10)


def test_one_point_is_a_level() -> None:
    line = RecursiveLine(60 * NS, 1e-4)
    line.push(5 * NS, 7 * NS, 1e6)
    assert (line.at(9 * NS), line.slope) == (7 * NS, 0.0)
