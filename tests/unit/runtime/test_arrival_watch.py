"""Whether a stream comes as it should, under a clock that only the test moves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mer.clock import NS_PER_S
from edge_mer.runtime.arrival_watch import ArrivalWatch, BackOff
from edge_mer.types.signals import Chunk, StreamSpec

MS = NS_PER_S // 1000


def spec(rate_hz: float | None, modality: str = "eda") -> StreamSpec:
    return StreamSpec("s", modality, ("sample", "channel"), (None, 1), "float32", rate_hz, "uS", ("a",))  # type: ignore[arg-type]


def chunk(n: int, seq: int = 0) -> Chunk:
    return Chunk("s", "eda", seq, 0, np.zeros((n, 1), np.float32))


def test_silence_is_a_stall_after_a_while_and_over_with_the_next_chunk() -> None:
    watch = ArrivalWatch(spec(100.0), stall_ns=500 * MS)
    watch.start(0)
    assert watch.state(2000 * MS) == "starting"
    assert watch.state(2001 * MS) == "stalled"
    watch.arrived(chunk(10), 2600 * MS)
    assert watch.state(3100 * MS) == "ok"
    assert watch.state(3101 * MS) == "stalled"
    watch.start(4000 * MS)
    assert watch.state(4100 * MS) == "starting"


def test_chunks_of_a_second_are_waited_for() -> None:
    watch = ArrivalWatch(spec(8.0), stall_ns=500 * MS)
    watch.start(0)
    for i in range(1, 20):
        assert watch.state(i * 1000 * MS) in ("starting", "ok")
        watch.arrived(chunk(8, i), i * 1000 * MS)
    assert watch.state(21_000 * MS) == "ok"
    assert watch.state(21_001 * MS) == "stalled"


@pytest.mark.parametrize(
    ("given_hz", "state"), [(100, "ok"), (85, "ok"), (70, "wrong_rate"), (130, "wrong_rate")]
)
def test_the_rate_is_measured_over_what_came_of_late(given_hz: int, state: str) -> None:
    watch = ArrivalWatch(spec(100.0), stall_ns=500 * MS)
    watch.start(0)
    for i in range(300):
        watch.arrived(chunk(10, i), round(i * 10 * NS_PER_S / given_hz))
    now_ns = round(299 * 10 * NS_PER_S / given_hz)
    assert watch.state(now_ns) == state
    assert watch.measured_hz() == pytest.approx(given_hz, rel=1e-6)


def test_of_an_irregular_stream_nothing_is_expected() -> None:
    watch = ArrivalWatch(spec(None), stall_ns=500 * MS)
    watch.start(0)
    assert watch.state(3600 * NS_PER_S) == "ok"


def test_a_long_run_keeps_only_what_came_of_late() -> None:
    watch = ArrivalWatch(spec(100.0), stall_ns=500 * MS)
    watch.start(0)
    for i in range(20_000):
        watch.arrived(chunk(1, i), i * 10 * MS)
    assert len(watch._arrivals) <= 202


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_delays_grow_up_to_half_a_minute_and_differ(seed: int, n: int) -> None:
    back_off = BackOff(seed)
    delays = [back_off.next_ns() for _ in range(n)]
    for i, delay_ns in enumerate(delays):
        longest_ns = min(30 * NS_PER_S, 250 * MS * 2**i)
        assert longest_ns / 2 <= delay_ns <= longest_ns
    back_off.was_well(9 * NS_PER_S)
    assert n < 3 or back_off.next_ns() >= 500 * MS
    back_off.was_well(10 * NS_PER_S)
    assert back_off.next_ns() <= 250 * MS


def test_what_comes_twice_is_not_counted_twice() -> None:
    watch = ArrivalWatch(spec(100.0), stall_ns=500 * MS)
    watch.start(0)
    for i in range(30):
        for _ in range(2):
            watch.arrived(chunk(10, i), i * 100 * MS)
    assert watch.measured_hz() == pytest.approx(100)
