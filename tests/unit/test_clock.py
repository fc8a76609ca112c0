"""Clocks: the host's, and one that a test moves."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest

from edge_mer.clock import NS_PER_S, ManualClock, MonotonicClock


def test_the_host_clock_is_the_monotonic_one() -> None:
    before = time.monotonic_ns()
    now = MonotonicClock().now_ns()
    assert before <= now <= time.monotonic_ns()


def test_the_host_clock_never_goes_back() -> None:
    clock = MonotonicClock()
    times = [clock.now_ns() for _ in range(1_000)]
    assert times == sorted(times)


def test_wall_time_is_utc() -> None:
    utc = MonotonicClock().utc()
    assert utc.utcoffset() == timedelta(0)
    assert abs(utc - datetime.now(timezone.utc)) < timedelta(seconds=5)


def test_the_kernel_answers_whether_wall_time_is_synchronised() -> None:
    assert MonotonicClock().is_utc_synchronised() in (True, False)


def test_the_host_clock_sleeps_until_a_time() -> None:
    clock = MonotonicClock()
    until_ns = clock.now_ns() + 2_000_000
    clock.sleep_until_ns(until_ns)
    assert clock.now_ns() >= until_ns


@pytest.mark.parametrize("past_ns", [0, 1_000, 10**15])
def test_the_host_clock_does_not_sleep_for_the_past(past_ns: int) -> None:
    clock = MonotonicClock()
    began_ns = clock.now_ns()
    clock.sleep_until_ns(began_ns - past_ns)
    assert clock.now_ns() - began_ns < NS_PER_S


def test_a_manual_clock_stands_still() -> None:
    clock = ManualClock(5)
    assert [clock.now_ns() for _ in range(3)] == [5, 5, 5]


def test_a_manual_clock_moves_when_told() -> None:
    clock = ManualClock(5)
    clock.advance_ns(10)
    clock.advance_ns(0)
    assert clock.now_ns() == 15


def test_a_manual_clock_cannot_go_back() -> None:
    clock = ManualClock(5)
    with pytest.raises(ValueError, match="cannot go back"):
        clock.advance_ns(-1)
    clock.sleep_until_ns(3)
    assert clock.now_ns() == 5


def test_a_manual_clock_sleeps_at_once() -> None:
    clock = ManualClock()
    clock.sleep_until_ns(10**18)
    assert clock.now_ns() == 10**18


def test_a_manual_clock_has_the_wall_time_it_was_given() -> None:
    utc = datetime(2030, 5, 6, tzinfo=timezone.utc)
    assert ManualClock(utc=utc).utc() == utc
    assert ManualClock().utc().utcoffset() == timedelta(0)
    assert ManualClock().is_utc_synchronised()
