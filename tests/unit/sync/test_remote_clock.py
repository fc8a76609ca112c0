"""RemoteClock, held against simulated clocks whose truth is known."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mer.sync.remote_clock import MAX_DRIFT, N_JUMP, WARM_NS, RemoteClock
from tests.helpers.simulated_clocks import MS, NS, SimulatedClock, Way

CLOCKS = st.builds(
    SimulatedClock,
    offset_ns=st.one_of(st.integers(-(10**14), 10**14), st.integers(2**62, 2**62 + 10**14)),
    drift_ppb=st.integers(-200_000, 200_000),
)
WAYS = st.builds(
    Way,
    least_ns=st.integers(0, 4 * MS),
    most_extra_ns=st.integers(0, 20 * MS),
    answers_jitter=st.booleans(),
    heavy=st.sampled_from([0.2, 1.0]),
)
GOOD = Way(least_ns=200_000, most_extra_ns=MS)


def looked_at(clock: SimulatedClock, way: Way, seconds: range, seed: int = 0) -> RemoteClock:
    """A clock that was looked at at these seconds of the host's time."""
    found, random = RemoteClock(), np.random.default_rng(seed)
    for second in seconds:
        found.push(clock.look(second * NS, *way.delays_ns(random)))
    return found


def error_ns(found: RemoteClock, clock: SimulatedClock, host_ns: int) -> int:
    converted = found.to_host_ns(clock.at(host_ns))
    assert converted is not None
    return abs(converted - host_ns)


@settings(max_examples=40, deadline=None)
@given(
    clock=CLOCKS,
    way=WAYS,
    gaps_s=st.lists(st.integers(1, 40), min_size=1, max_size=40),
    ago_s=st.integers(-60, 300),
    seed=st.integers(0, 2**16),
)
def test_the_truth_lies_within_what_is_uncertain(
    clock: SimulatedClock, way: Way, gaps_s: list[int], ago_s: int, seed: int
) -> None:
    """Also between looks, long after the last one, and for what was captured before it."""
    found, random, now_s = RemoteClock(), np.random.default_rng(seed), 1_000
    for gap_s in gaps_s:
        now_s += gap_s
        found.push(clock.look(now_s * NS, *way.delays_ns(random)))
        for host_ns in (now_s * NS + 7 * MS, (now_s + ago_s) * NS):
            uncertainty_ns = found.uncertainty_ns(clock.at(host_ns))
            assert uncertainty_ns is not None
            assert error_ns(found, clock, host_ns) <= uncertainty_ns + 2
    assert (found.epoch, found.n_refused) == (0, 0)


@settings(max_examples=15, deadline=None)
@given(clock=CLOCKS, jitters=st.booleans(), seed=st.integers(0, 2**16))
def test_after_warm_up_a_clock_is_known_to_five_milliseconds(
    clock: SimulatedClock, jitters: bool, seed: int
) -> None:
    """Hours away, drifting by up to 200 ppm, over round trips of up to 20 ms, all of it one way or both."""
    way = Way(most_extra_ns=10 * MS if jitters else 20 * MS, answers_jitter=jitters)
    found, random, warm_s = RemoteClock(), np.random.default_rng(seed), None
    for second in range(240):
        found.push(clock.look(second * NS, *way.delays_ns(random)))
        warm_s = second if warm_s is None and found.is_warm else warm_s
        if found.is_warm:
            assert error_ns(found, clock, second * NS + NS // 2) <= WARM_NS
    assert warm_s is not None
    assert warm_s <= 120


def test_a_good_clock_is_warm_after_a_few_looks_and_known_better_and_better() -> None:
    clock = SimulatedClock(3_600 * NS, 150_000)
    assert not looked_at(clock, GOOD, range(3)).is_warm
    assert looked_at(clock, GOOD, range(10)).is_warm
    found = looked_at(clock, GOOD, range(200))
    assert error_ns(found, clock, 200 * NS) < MS // 4
    assert found.drift == pytest.approx(-150e-6, abs=2e-6)


@settings(max_examples=25, deadline=None)
@given(
    clock=CLOCKS,
    way=WAYS,
    asked=st.lists(st.tuples(st.integers(1, 400), st.integers(-3_000, 1_500)), min_size=2, max_size=200),
    seed=st.integers(0, 2**16),
)
def test_a_later_time_never_comes_before_an_earlier_one(
    clock: SimulatedClock, way: Way, asked: list[tuple[int, int]], seed: int
) -> None:
    found, random, now_ns = RemoteClock(), np.random.default_rng(seed), 100 * NS
    answers: dict[int, set[int]] = {clock.at(now_ns): set()}
    for index, (gap_ms, ahead_ms) in enumerate(asked):
        now_ns += gap_ms * MS
        if index % 3 == 0:
            found.push(clock.look(now_ns, *way.delays_ns(random)))
        for remote_ns in (max(answers, default=0) + 1, clock.at(now_ns + ahead_ms * MS)):
            converted = found.to_host_ns(remote_ns)
            assert converted is not None
            answers.setdefault(remote_ns, set()).add(converted)
    in_order = [answers[remote_ns] for remote_ns in sorted(answers) if answers[remote_ns]]
    assert all(max(one) <= min(other) for one, other in itertools.pairwise(in_order))


def test_nothing_is_known_before_the_first_look() -> None:
    found = RemoteClock()
    assert found.to_host_ns(7) is None
    assert found.uncertainty_ns(7) is None
    assert not found.is_warm
    assert found.drift == 0.0


def test_uncertainty_grows_where_nobody_looks() -> None:
    clock = SimulatedClock(7, -20_000)
    found = looked_at(clock, GOOD, range(60))
    later = [found.uncertainty_ns(clock.at((60 + ahead_s) * NS)) for ahead_s in (0, 60, 600, 6_000)]
    assert later == sorted(later)  # type: ignore[type-var]
    assert later[-1] is not None
    assert 60 * MS < later[-1] < MAX_DRIFT * 7_000 * NS
    assert found.is_warm
    found.to_host_ns(clock.at(6_000 * NS))
    assert not found.is_warm


@pytest.mark.parametrize("by_ns", [-3_600 * NS, -50 * MS, 50 * MS, 90_000 * NS])
def test_a_clock_that_was_set_begins_a_new_epoch(by_ns: int) -> None:
    clock = SimulatedClock(10**12, 50_000, set_by=[(100 * NS + NS // 4, by_ns)])
    found, random = RemoteClock(), np.random.default_rng(1)
    for second in range(160):
        found.push(clock.look(second * NS, *GOOD.delays_ns(random)))
        host_ns = second * NS + NS // 2
        n_since = second - 100
        assert found.epoch == int(n_since >= N_JUMP)
        if second <= 99 or n_since >= N_JUMP:
            assert error_ns(found, clock, host_ns) <= WARM_NS
        if n_since == N_JUMP:
            assert not found.is_warm
    assert found.is_warm
    assert found.n_refused == 0


def test_a_time_after_its_data_came_is_refused_and_counted() -> None:
    """Between a clock's being set and the next looks at it, its times would lie hours ahead."""
    clock = SimulatedClock(0, set_by=[(60 * NS, 3_600 * NS)])
    found = looked_at(clock, GOOD, range(60))
    assert found.to_host_ns(clock.at(59 * NS), arrived_ns=59 * NS) is not None
    assert found.to_host_ns(clock.at(61 * NS), arrived_ns=61 * NS + 5 * MS) is None
    assert found.n_impossible == 1
    assert error_ns(found, replace(clock, set_by=[]), 62 * NS) < MS


@pytest.mark.parametrize("n_freaks", [1, 2])
def test_a_freak_is_no_jump(n_freaks: int) -> None:
    clock = SimulatedClock(10**15, -70_000)
    found = looked_at(clock, GOOD, range(60))
    before_ns = found.to_host_ns(clock.at(61 * NS))
    for second in range(60, 60 + n_freaks):
        look = clock.look(second * NS, MS, MS)
        found.push(replace(look, host_ns=look.host_ns + 10 * NS))
    found.push(clock.look(63 * NS, MS, MS))
    assert (found.epoch, found.n_refused) == (0, n_freaks)
    assert found.to_host_ns(clock.at(61 * NS)) == before_ns


def test_freaks_that_contradict_each_other_are_never_a_jump() -> None:
    clock = SimulatedClock(10**15)
    found = looked_at(clock, GOOD, range(60))
    for second in range(60, 80):
        look = clock.look(second * NS, MS, MS)
        found.push(replace(look, host_ns=look.host_ns + second * NS))
    assert found.epoch == 0


def test_a_look_at_an_earlier_time_is_left_out() -> None:
    clock = SimulatedClock(0)
    found = looked_at(clock, GOOD, range(60))
    found.push(clock.look(30 * NS, 20 * MS, 0))
    assert found.n_refused == 1
    assert error_ns(found, clock, 60 * NS) < MS


def test_a_rate_that_wanders_is_followed() -> None:
    """As a device warms up: by 1 ppm a minute for half an hour."""
    found, random, shown_ns, drift = RemoteClock(), np.random.default_rng(0), 0.0, 0.0
    for second in range(1_800):
        look = SimulatedClock(round(shown_ns)).look(second * NS, *GOOD.delays_ns(random))
        found.push(look)
        host_ns = second * NS + 5 * MS
        remote_ns = host_ns + round(shown_ns)
        converted, within_ns = found.to_host_ns(remote_ns), found.uncertainty_ns(remote_ns)
        assert converted is not None
        assert within_ns is not None
        if second > 10:
            assert abs(converted - host_ns) <= min(within_ns + 1_000, MS)
        drift += 1e-6 / 60
        shown_ns += drift * NS
    assert found.epoch == 0


def test_memory_stays_bounded() -> None:
    clock = SimulatedClock(5, 10_000)
    found, random = RemoteClock(), np.random.default_rng(0)
    for i in range(3_000):
        found.push(clock.look(i * NS // 4, *GOOD.delays_ns(random)))
        found.to_host_ns(clock.at(i * NS // 4))
    assert len(found._looks) <= 36
    assert len(found._pieces) <= 64
