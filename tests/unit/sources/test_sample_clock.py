"""SampleClock: whatever the jitter, drift and loss, times are those of the samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mer.sources.sample_clock import JUDGED_NS, LOST_NS, MAX_DRIFT, SampleClock

MS = 1_000_000
PIECE = 320
RATE_HZ = 16_000
PIECE_NS = 20 * MS


def stamps(arrivals_ns: list[int], losses: frozenset[int] = frozenset()) -> list[int]:
    clock = SampleClock(RATE_HZ)
    return [clock.stamp(PIECE, t, is_after_loss=i in losses) for i, t in enumerate(arrivals_ns)]


def ends(n: int, drift: float = 0.0) -> list[int]:
    """When pieces of a perfect device are whole."""
    return [round((i + 1) * PIECE_NS * (1 + drift)) for i in range(n)]


def test_a_steady_device() -> None:
    assert stamps(ends(50)) == [i * PIECE_NS for i in range(50)]


@settings(max_examples=40)
@given(st.lists(st.integers(0, 30 * MS), min_size=60, max_size=60))
def test_jitter_does_not_pass(delays_ns: list[int]) -> None:
    delays_ns[0] = delays_ns[30] = 0
    arrivals_ns = list(np.maximum.accumulate([t + d for t, d in zip(ends(60), delays_ns, strict=True)]))
    found = stamps([int(t) for t in arrivals_ns])
    # never sooner than captured, and late by no more than a clock may drift
    late_ns = np.array(found) - np.arange(60) * PIECE_NS
    assert late_ns.min() >= 0
    assert late_ns.max() <= 1.5 * MS


@pytest.mark.parametrize("drift", [-5e-4, -5e-5, 5e-5, 5e-4])
def test_a_device_that_runs_at_another_rate(drift: float) -> None:
    rng = np.random.default_rng(1)
    n = 3000  # a minute
    delays_ns = rng.integers(0, 15 * MS, n)
    delays_ns[::25] = 0
    found = stamps([t + int(d) for t, d in zip(ends(n, drift), delays_ns, strict=True)])
    error_ns = np.array(found) - np.array([0, *ends(n - 1, drift)])
    assert np.abs(error_ns).max() < 3 * MS


def test_a_loss_that_is_told() -> None:
    arrivals_ns = [t + (400 * MS if i >= 20 else 0) for i, t in enumerate(ends(40))]
    found = stamps(arrivals_ns, frozenset({20}))
    assert found == [i * PIECE_NS + (400 * MS if i >= 20 else 0) for i in range(40)]


def test_a_loss_that_nobody_tells_is_seen_soon() -> None:
    lost_ns = LOST_NS + 30 * MS
    found = stamps([t + (lost_ns if i >= 20 else 0) for i, t in enumerate(ends(60))])
    assert found[19] == 19 * PIECE_NS
    seen = 20 + JUDGED_NS // PIECE_NS + 1
    expected = [i * PIECE_NS + lost_ns for i in range(seen, 60)]
    assert found[seen:] == pytest.approx(expected, abs=MS)


@pytest.mark.parametrize("stall_ns", [100 * MS, 500 * MS, 3000 * MS])
@pytest.mark.parametrize("pace", [0.0, 0.02, 0.5])
def test_a_stall_that_lost_nothing_leaves_no_gap(stall_ns: int, pace: float) -> None:
    """No piece comes for a while, and then all that waited, one after the other, faster than usual."""
    arrivals_ns: list[int] = []
    for i, t in enumerate(ends(600)):
        waited = i >= 100 and t < 100 * PIECE_NS + stall_ns
        earliest_ns = 100 * PIECE_NS + stall_ns if waited else t
        arrivals_ns.append(max(earliest_ns, (arrivals_ns[-1] + round(pace * PIECE_NS)) if arrivals_ns else 0))
    found = stamps(arrivals_ns)
    error_ns = np.array(found) - np.arange(600) * PIECE_NS
    assert error_ns[:100].tolist() == [0] * 100
    assert np.abs(error_ns).max() <= max(2 * MS, MAX_DRIFT * 2 * stall_ns)
    assert np.abs(error_ns[-100:]).max() < MS
