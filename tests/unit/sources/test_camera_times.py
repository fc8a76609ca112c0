"""FrameTimes under streams with jitter, drift, bursts and jumps; Arrivals by position."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mer.clock import NS_PER_S
from edge_mer.sources.camera_times import MAX_LAG_NS, MAX_SETTLING_NS, Arrivals, FrameTimes

MS = NS_PER_S // 1000
STEP_NS = 40 * MS


def placed(arrivals_ns: list[int], stamps_ns: list[int | None] | None = None) -> list[int | None]:
    times = FrameTimes()
    found = [
        times.place(arrived_ns, stamp_ns)
        for arrived_ns, stamp_ns in zip(arrivals_ns, stamps_ns or [None] * len(arrivals_ns), strict=True)
    ]
    assert times.n_stale == found.count(None)
    return found


@given(
    gaps_ms=st.lists(st.integers(0, 3_000), min_size=1, max_size=80),
    stamps_ms=st.lists(st.one_of(st.none(), st.integers(-10_000, 10_000)), min_size=80, max_size=80),
)
def test_times_are_never_later_than_arrivals_and_always_rise(
    gaps_ms: list[int], stamps_ms: list[int | None]
) -> None:
    arrivals_ns = [sum(gaps_ms[: i + 1]) * MS for i in range(len(gaps_ms))]
    stamps_ns = [None if stamp is None else stamp * MS for stamp in stamps_ms[: len(gaps_ms)]]
    found = placed(arrivals_ns, stamps_ns)
    for t_ns, arrived_ns in zip(found, arrivals_ns, strict=True):
        assert t_ns is None or t_ns <= arrived_ns
    kept = [t_ns for t_ns in found if t_ns is not None]
    assert all(a < b for a, b in pairwise(kept))


@given(seed=st.integers(0, 2**32), drift_ppm=st.integers(-200, 200), zero_s=st.integers(-1_000, 1_000))
@settings(max_examples=30)
def test_stamps_take_out_jitter(seed: int, drift_ppm: int, zero_s: int) -> None:
    random = Random(seed)
    captured_ns = [i * STEP_NS for i in range(300)]
    arrivals_ns: list[int] = []
    for t_ns in captured_ns:  # 5 ms at least, 35 ms on average; a connection keeps the order
        came_ns = t_ns + 5 * MS + round(random.expovariate(1 / 30) * MS)
        arrivals_ns.append(max([came_ns, *arrivals_ns[-1:]]))
    stamps_ns: list[int | None] = [t + t * drift_ppm // 10**6 + zero_s * NS_PER_S for t in captured_ns]
    found = placed(arrivals_ns, stamps_ns)
    assert None not in found[10:]
    errors_ms = [((found[i] or 0) - captured_ns[i]) / MS for i in range(150, 300)]
    assert min(errors_ms) >= 5 - 1.1  # what 200 ppm come to within 5 s
    assert max(errors_ms) <= 5 + 5
    jitter_ms = [(arrivals_ns[i] - captured_ns[i]) / MS for i in range(150, 300)]
    assert max(jitter_ms) - min(jitter_ms) > 5 * (max(errors_ms) - min(errors_ms))


def test_frames_without_stamps_are_placed_when_they_come() -> None:
    arrivals_ns = [1000 + i * STEP_NS + (i % 3) * MS for i in range(10)]
    assert placed(arrivals_ns) == [None, *arrivals_ns[1:]]


@pytest.mark.parametrize("has_stamps", [False, True])
@pytest.mark.parametrize("pause_ms", [700, 2_000, 4_000])
@pytest.mark.parametrize("burst_step_ms", [0, 1, 15])
def test_frames_that_waited_are_not_delivered_as_new(
    has_stamps: bool, pause_ms: int, burst_step_ms: int
) -> None:
    captured_ns = [i * STEP_NS for i in range(400)]
    pause_ns = 100 * STEP_NS
    freed_ns = pause_ns + pause_ms * MS
    arrivals_ns: list[int] = []
    for t_ns in captured_ns:
        came_ns = t_ns + 5 * MS
        if t_ns >= pause_ns:
            came_ns = max(came_ns, freed_ns, arrivals_ns[-1] + burst_step_ms * MS if t_ns > pause_ns else 0)
        arrivals_ns.append(came_ns)
    found = placed(arrivals_ns, list(captured_ns) if has_stamps else None)
    for t_ns, captured, arrived in zip(found, captured_ns, arrivals_ns, strict=True):
        if t_ns is not None:
            assert abs(t_ns - captured) <= 45 * MS  # a frame without a stamp may have waited for one step
            assert arrived - t_ns <= MAX_LAG_NS
    assert None not in found[-100:]
    assert found[:100].count(None) == 1


def test_a_sender_that_was_frozen_is_fresh_again_after_two_frames() -> None:
    arrivals_ns = [i * STEP_NS + (3 * NS_PER_S if i >= 50 else 0) for i in range(100)]
    stamps_ns: list[int | None] = [i * STEP_NS for i in range(100)]  # which knows nothing of the pause
    for found in (placed(arrivals_ns, stamps_ns), placed(arrivals_ns)):
        assert found[50] is None
        assert found[51:] == arrivals_ns[51:]


@pytest.mark.parametrize("jump_s", [-500, -2, 2, 500])
def test_stamps_that_jump_are_anchored_again(jump_s: int) -> None:
    arrivals_ns = [NS_PER_S + i * STEP_NS for i in range(60)]
    stamps_ns: list[int | None] = [i * STEP_NS + (jump_s * NS_PER_S if i >= 30 else 0) for i in range(60)]
    found = placed(arrivals_ns, stamps_ns)
    assert found[32:] == arrivals_ns[32:]
    assert found[:32].count(None) <= 2


def test_a_stream_that_became_faster_is_taken_as_it_is_in_the_end() -> None:
    slow_ns = [i * 10 * STEP_NS for i in range(20)]
    begin_ns = slow_ns[-1] + 10 * NS_PER_S
    fast_ns = [begin_ns + i * STEP_NS for i in range(400)]
    found = placed([*slow_ns, *fast_ns])
    assert all(t_ns == a_ns for t_ns, a_ns in zip(found[1:20], slow_ns[1:], strict=True))
    first = next(i for i, t_ns in enumerate(found[20:]) if t_ns is not None)
    assert fast_ns[first] - begin_ns <= MAX_SETTLING_NS + STEP_NS
    assert None not in found[20 + first :]


def test_one_frame_per_second_is_no_stall() -> None:
    arrivals_ns = [i * NS_PER_S for i in range(20)]
    assert placed(arrivals_ns)[4:] == arrivals_ns[4:]


def test_a_packet_came_when_its_first_byte_did() -> None:
    arrivals = Arrivals()
    arrivals.took(100, 1)
    arrivals.took(50, 2)
    arrivals.took(10, 3)
    assert [arrivals.of(position) for position in (0, 99, 100, 149, 150, None, -1)] == [1, 1, 2, 2, 3, 3, 3]
    assert arrivals.of(10_000) == 3


def test_arrivals_are_bounded() -> None:
    arrivals = Arrivals()
    for t_ns in range(100_000):
        arrivals.took(1, t_ns)
    assert arrivals.of(99_999) == 99_999
    assert arrivals.of(0) > 0
