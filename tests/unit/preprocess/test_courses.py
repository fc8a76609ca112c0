"""Courses: what they are, how far they look back, and that chunks and gaps do not change them."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.preprocess.courses import CARRIED_S, MOST_DEVIATIONS, CourseConditioner
from edge_mer.types.model import Course, CourseKind, Signal

Floats = NDArray[np.float32]


def declared(*kinds: CourseKind, rate_hz: int = 4, memory_s: int = 20, course_hz: int = 1) -> Signal:
    return Signal(
        rate_hz=rate_hz,
        unit="1",
        courses=tuple(Course(kind=kind, floor=0.01) for kind in kinds),
        course_hz=course_hz,
        normalise_memory=Fraction(memory_s),
    )


def played(spec: Signal, samples: NDArray[np.floating], cuts: list[int] | None = None) -> Floats:
    """All values of samples that start at 0, in chunks that begin at `cuts`."""
    conditioner = CourseConditioner(spec)
    assert conditioner.resume(0) == 0
    parts = np.split(samples.astype(np.float32)[:, None], cuts or [])
    return np.concatenate([*(conditioner.push(part) for part in parts), conditioner.flush()])


@pytest.mark.parametrize("seed", range(8))
def test_chunks_do_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spec = declared("level", "log_level", "heart_rate", rate_hz=64, memory_s=15)
    samples = 5 + rng.normal(size=64 * 40).cumsum() / 50 + np.sin(np.arange(64 * 40) * 2 * math.pi * 1.2 / 64)
    cuts = sorted(rng.integers(0, len(samples) + 1, rng.integers(1, 300)).tolist())
    assert np.array_equal(played(spec, samples, cuts), played(spec, samples), equal_nan=True)


def test_a_level_is_judged_by_the_memory_that_ends_with_it() -> None:
    samples = np.random.default_rng(1).normal(3, 1, 4 * 50)
    found = played(declared("level"), samples)[:, 0]
    cells = samples.astype(np.float32).reshape(-1, 4).mean(axis=1, dtype=np.float64)
    for cell in range(19, 50):
        recent = cells[cell - 19 : cell + 1]
        assert found[cell] == pytest.approx((cells[cell] - recent.mean()) / recent.std(), rel=1e-5)


def test_nothing_is_said_before_the_memory_is_full() -> None:
    found = played(declared("level"), np.random.default_rng(1).normal(3, 1, 4 * 50))
    assert np.isnan(found[:19]).all()
    assert np.isfinite(found[19:]).all()


def test_what_lies_farther_back_than_the_memory_is_forgotten() -> None:
    """So that no value tells how long a session has been going on."""
    rng = np.random.default_rng(2)
    common = rng.normal(3, 1, 4 * 40)
    one, other = (
        played(declared("level"), np.concatenate([rng.normal(9, 4, 4 * n), common])) for n in (7, 60)
    )
    assert np.array_equal(one[7 + 19 :], other[60 + 19 :])


def test_the_future_is_not_looked_at() -> None:
    samples = np.random.default_rng(3).normal(3, 1, 4 * 60)
    changed = samples.copy()
    changed[4 * 40 :] += 100
    spec = declared("level", "log_level")
    assert np.array_equal(played(spec, samples)[:40], played(spec, changed)[:40], equal_nan=True)


def test_a_logarithm_does_not_depend_on_the_size_of_a_skins_conductance() -> None:
    samples = 5 * np.exp(np.random.default_rng(4).normal(0, 0.3, 4 * 40))
    spec = declared("log_level")
    assert played(spec, samples)[19:] == pytest.approx(played(spec, 3 * samples)[19:], abs=0.02)


def test_noise_below_the_floor_stays_small_and_artefacts_are_cut() -> None:
    still = np.full(4 * 40, 2.0) + 1e-5 * np.random.default_rng(5).normal(size=160)
    assert np.abs(played(declared("level"), still)[19:]).max() < 0.01
    still[-4:] = 1e6
    long = declared("level", memory_s=39)
    assert played(long, still)[-1, 0] == MOST_DEVIATIONS


def test_a_short_gap_keeps_the_memory_and_a_long_one_clears_it() -> None:
    for gap_s, is_kept in ((5, True), (19, True), (20, False), (60, False)):
        conditioner = CourseConditioner(declared("level"))
        conditioner.resume(0)
        conditioner.push(np.random.default_rng(6).normal(size=(4 * 30, 1)).astype(np.float32))
        resumed_ns = (30 + gap_s) * NS_PER_S
        assert conditioner.resume(resumed_ns) == resumed_ns
        found = conditioner.push(np.ones((4 * 25, 1), np.float32))
        assert np.isfinite(found[0]).all() == is_kept
        assert np.isnan(found[:19]).all() != is_kept
        assert np.isfinite(found[19:]).all()


def test_after_a_gap_only_whole_cells_of_the_grid_count() -> None:
    conditioner = CourseConditioner(declared("level", memory_s=2))
    conditioner.resume(0)
    conditioner.push(np.zeros((9, 1), np.float32))
    assert conditioner.resume(int(3.25 * NS_PER_S)) == 4 * NS_PER_S
    assert len(conditioner.push(np.ones((3, 1), np.float32))) == 0
    assert len(conditioner.push(np.ones((5, 1), np.float32))) == 1


def test_a_cell_with_a_hole_says_nothing() -> None:
    samples = np.random.default_rng(7).normal(3, 1, 4 * 40)
    samples[4 * 30 + 1] = np.nan
    found = played(declared("level"), samples)[:, 0]
    assert np.isnan(found[30])
    assert np.isfinite(np.delete(found, 30)[19:]).all()


def test_the_last_clear_heart_rate_is_carried_for_a_minute() -> None:
    t_s = np.arange(64 * 200) / 64
    bpm = np.where(t_s < 50, 70.0, 90.0)
    pulse = np.maximum(0, np.sin(2 * math.pi * np.cumsum(bpm / 60) / 64)) ** 3
    pulse[t_s >= 100] = 0
    found = played(declared("heart_rate", rate_hz=64, memory_s=90), pulse)[:, 0]
    assert found[95] == pytest.approx(found[100 + CARRIED_S - 2], abs=1.5)
    assert found[95] > 0.3
    assert (found[110 + CARRIED_S :] == 0).all()  # the last ten seconds of it still hold some pulse
