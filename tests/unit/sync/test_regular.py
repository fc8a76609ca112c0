"""RegularStream and RateTracker: drift, jitter, loss, order; held against when samples were captured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mer.sync.nominal_rate import RateTracker
from edge_mer.sync.regular import MAX_MISSING, ChunkOrder, RegularStream, is_exact
from edge_mer.sync.samples import Continuity
from edge_mer.types.signals import Chunk
from tests.helpers.simulated_sensor import NS, Sensor, at_times, placed

MS = 1_000_000
DRIVER = Sensor()
ARRIVAL = Sensor(basis="arrival", late=at_times)


def with_drift(sensor: Sensor, ppm: float) -> Sensor:
    return dataclasses.replace(sensor, ppm=ppm)


def of(seq: int, t_ns: int, n: int = 10, value: float = 1.0, **changes: object) -> Chunk:
    data = np.full((n, 1), value, np.float32)
    return dataclasses.replace(Chunk("s", "eda", seq, t_ns, data), **changes)  # type: ignore[arg-type]


# -- drift and jitter -------------------------------------------------------------------------------


@pytest.mark.parametrize("ppm", [400, -400, 60, 0])
@pytest.mark.parametrize(("sensor", "most_ms"), [(DRIVER, 1.5), (ARRIVAL, 4.0)], ids=["driver", "arrival"])
def test_drift_never_adds_up(sensor: Sensor, most_ms: float, ppm: float) -> None:
    """Five minutes: 120 ms at 400 ppm. Stamps on arrival are later than capture, never by more than usual."""
    found = placed(with_drift(sensor, ppm).chunks(300), 250)
    assert found.errors_ms(from_s=20).max() <= most_ms
    assert found.stream.n_gaps == 0
    assert np.all(np.diff(found.index) == 1)
    assert found.stream.drift_ppm == pytest.approx(ppm, abs=5)
    assert found.stream.n_corrections == pytest.approx(abs(ppm) * 1e-6 * 300 * 250, abs=6)


@settings(max_examples=6, deadline=None)
@given(
    ppm=st.integers(-1_000, 1_000),
    n_per_chunk=st.sampled_from([5, 50, 250]),
    start_s=st.floats(0, 5),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("sensor", [DRIVER, ARRIVAL], ids=["driver", "arrival"])
def test_any_drift_is_followed(sensor: Sensor, ppm: int, n_per_chunk: int, start_s: float, seed: int) -> None:
    changed = dataclasses.replace(sensor, ppm=ppm, n_per_chunk=n_per_chunk, start_s=start_s)
    found = placed(changed.chunks(32, seed), 250)
    assert found.stream.n_gaps == 0
    assert np.all(np.diff(found.index) <= 1)  # back, where the first stamps were the late ones
    assert found.errors_ms(from_s=start_s + 20).max() <= 20


def test_sound_stays_within_a_millisecond() -> None:
    sensor = Sensor(rate_hz=16_000, ppm=-80, n_per_chunk=320)
    found = placed(sensor.chunks(30), 16_000)
    assert found.errors_ms(from_s=10).max() <= 1.1
    assert found.stream.n_gaps == 0


def test_a_first_stamp_that_was_late_is_put_right() -> None:
    """As when a driver first fills its buffer: the first chunks come together, 1.4 s late."""
    sensor = Sensor(basis="arrival", late=lambda random: float(random.exponential(0.003)))
    chunks = list(sensor.chunks(60))
    held = [dataclasses.replace(c, t_ns=max(c.t_ns, 1_400 * MS + i * MS)) for i, c in enumerate(chunks)]
    found = placed(held, 250)
    assert found.errors_ms(from_s=12).max() <= 6
    assert found.stream.n_gaps == 0
    assert found.stream.n_corrections > 0


def test_bursts_are_jitter() -> None:
    """As over Bluetooth: a second's samples at a time, up to 200 ms late."""
    sensor = Sensor(64, -100, 64, lambda random: float(random.uniform(0, 0.2)), "arrival")
    found = placed(sensor.chunks(300), 64)
    assert found.stream.n_gaps == 0
    assert found.errors_ms(from_s=30).max() <= 50


@pytest.mark.parametrize(("sensor", "most_ms"), [(DRIVER, 80), (ARRIVAL, 300)], ids=["driver", "arrival"])
@pytest.mark.parametrize("ppm", [-50_000, 20_000])
def test_a_wrong_rate_is_not_followed_and_stays_in_time(sensor: Sensor, most_ms: float, ppm: int) -> None:
    """By gaps or overlaps, which are counted; a window must not hold what is of another time."""
    found = placed(with_drift(sensor, ppm).chunks(120), 250)
    assert found.errors_ms(from_s=5).max() <= most_ms
    assert found.stream.n_gaps + found.stream.n_corrections >= 20


# -- loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sensor", [DRIVER, ARRIVAL], ids=["driver", "arrival"])
def test_lost_chunks_leave_a_gap_of_their_length(sensor: Sensor) -> None:
    changed = dataclasses.replace(sensor, ppm=200, lost=frozenset({200, 201, 202}))
    found = placed(changed.chunks(60), 250)
    assert found.stream.n_gaps == 1
    steps = np.diff(found.index)
    assert (steps > 1).sum() == 1
    assert steps.max() - 1 == pytest.approx(75, abs=10 if sensor is ARRIVAL else 1)
    assert found.errors_ms(from_s=22).max() <= 20
    assert found.errors_ms(from_s=40).max() <= 4


@pytest.mark.parametrize("lost_s", [0.04, 0.1, 0.2])
def test_a_small_loss_without_a_trace_is_noticed_within_seconds(lost_s: float) -> None:
    """Stamps on arrival might be late by chance: it takes a while of late ones to know better."""
    changed = dataclasses.replace(ARRIVAL, pauses=((200, lost_s),))
    found = placed(changed.chunks(60), 250)
    assert found.stream.n_gaps == 1
    assert found.errors_ms(from_s=20 + 5, to_s=40).max() <= 20


def test_a_driver_tells_a_small_loss_at_once() -> None:
    changed = dataclasses.replace(DRIVER, pauses=((200, 0.04),))
    found = placed(changed.chunks(60), 250)
    assert found.stream.n_gaps == 1
    assert found.errors_ms().max() <= 4


@pytest.mark.parametrize("sensor", [DRIVER, ARRIVAL], ids=["driver", "arrival"])
def test_a_chunk_that_was_overtaken_goes_where_it_belongs(sensor: Sensor) -> None:
    chunks = list(dataclasses.replace(sensor, ppm=300).chunks(30))
    for i in (100, 200, 203):
        chunks[i], chunks[i + 1] = chunks[i + 1], chunks[i]
    found = placed(chunks, 250)
    assert found.stream.order.n_reordered == 3
    assert found.errors_ms(from_s=8).max() <= 8
    filled = np.unique(found.index)
    assert np.diff(filled).max() <= 2
    assert len(found.index) - len(filled) <= 6


def test_a_long_silence_is_a_gap_whoever_stamps() -> None:
    for sensor in (DRIVER, ARRIVAL):
        found = placed(dataclasses.replace(sensor, pauses=((100, 30.0),)).chunks(60), 250)
        assert found.stream.n_gaps == 1
        assert np.diff(found.index).max() == pytest.approx(30 * 250, abs=10)


def test_a_tolerance_may_be_given() -> None:
    sensor = dataclasses.replace(DRIVER, basis="arrival", pauses=((100, 0.1),))
    assert placed(sensor.chunks(10.5), 250).stream.n_gaps == 0
    assert placed(sensor.chunks(10.5), 250, RegularStream(250, tolerance_ns=60 * MS)).stream.n_gaps == 1


def test_what_is_shorter_than_half_a_sample_is_no_gap() -> None:
    tracker = RateTracker(4, "driver")
    for i in range(20):
        assert tracker.push(i * 250 * MS + (100 * MS if i == 10 else 0), 1)[1] == (i > 0)
    assert tracker.n_gaps == 0


# -- exact stamps pass through ------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=30),
    gaps=st.dictionaries(st.integers(1, 29), st.integers(30 * MS, 10 * NS), max_size=3),
    rate_hz=st.sampled_from([4.0, 250.0, 333.3, 16_000.0]),
    first_seq=st.integers(0, 2),
    is_recording=st.booleans(),
)
def test_exact_stamps_pass_bit_by_bit(
    sizes: list[int], gaps: dict[int, int], rate_hz: float, first_seq: int, is_recording: bool
) -> None:
    """Of recordings as ever, and of devices whose stamps happen to be exact likewise."""
    stream, continuity, n, start_ns = RegularStream(rate_hz), Continuity(rate_hz), 0, 0
    random, n_gaps = np.random.default_rng(0), 0
    for i, size in enumerate(sizes):
        # On the grid behind the gap, so that nothing has to be interpolated.
        start_ns += int(round(gaps.get(i, 0) * rate_hz / NS) * NS / rate_hz)
        data = random.normal(size=(size, 2)).astype(np.float32)
        t_ns = start_ns + int(n * NS / rate_hz)
        arrived_ns = None if is_recording else t_ns
        runs = stream.push(Chunk("s", "eda", first_seq + i, t_ns, data, "driver", arrived_ns))
        if is_gap := continuity.is_gap(t_ns, size):
            n_gaps += int(first_seq + i > 0) if is_recording else int(i > 0)
        assert b"".join(run.samples.tobytes() for run in runs) == data.tobytes()
        assert len(runs) == 1
        if not is_gap:
            assert runs[0].t_ns is None
        elif is_recording:
            assert runs[0].t_ns == t_ns
        else:
            assert runs[0].t_ns is not None
            assert abs(runs[0].t_ns - t_ns) <= 2
        n += size
    assert stream.n_gaps == n_gaps
    assert stream.n_corrections == 0
    assert stream.finish() == []


def test_who_stamps_exactly() -> None:
    assert is_exact(of(0, 0))
    assert not is_exact(of(0, 0, arrived_ns=7))
    assert not is_exact(of(0, 0, time_basis="arrival"))
    assert not is_exact(of(0, 0, time_basis="remote"))


# -- order ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrived_ns", [None, 5])
def test_a_chunk_that_comes_twice_is_used_once(arrived_ns: int | None) -> None:
    stream = RegularStream(100)
    values = []
    for seq in (0, 1, 1, 2, 0, 3):
        for run in stream.push(of(seq, seq * 100 * MS, value=seq, arrived_ns=arrived_ns)):
            assert (run.t_ns is None) == (seq > 0)
            values += run.samples[:, 0].tolist()
    assert values == sorted([0.0, 1.0, 2.0, 3.0] * 10)
    assert (stream.order.n_duplicate, stream.n_gaps) == (20, 0)


@pytest.mark.parametrize("arrived_ns", [None, 5])
def test_a_chunk_that_comes_late_keeps_its_time(arrived_ns: int | None) -> None:
    stream = RegularStream(100)
    runs = [
        run
        for seq in (0, 2, 1, 3)
        for run in stream.push(of(seq, seq * 100 * MS, value=seq, arrived_ns=arrived_ns))
    ]
    assert [(run.t_ns, float(run.samples[0, 0])) for run in runs] == [
        (0, 0.0),
        (200 * MS, 2.0),
        (100 * MS, 1.0),
        (300 * MS, 3.0),
    ]
    assert (stream.order.n_reordered, stream.order.n_duplicate, stream.n_gaps) == (1, 0, 1)


def test_a_source_that_begins_anew_may_count_from_zero_again() -> None:
    order = ChunkOrder()
    assert [order.place(of(seq, seq * MS)) for seq in range(5)] == ["next"] * 5
    assert order.place(of(0, 10 * MS)) == "broken"
    assert order.place(of(1, 11 * MS)) == "next"
    assert order.place(of(0, 10 * MS)) == "again"


def test_what_was_jumped_over_is_remembered_within_bounds() -> None:
    order = ChunkOrder()
    order.place(of(0, 0))
    assert order.place(of(10**12, 10**15)) == "broken"
    assert len(order._missing) == MAX_MISSING
    assert order.place(of(10**12 - 1, 10**15 - 1)) == "earlier"
    assert order.place(of(10**12 - 1, 10**15 - 1)) == "again"
    assert order.place(of(5, 5)) == "again"


def test_numbers_never_wrap() -> None:
    tracker = RateTracker(1_000, "driver")
    tracker.push(0, 2**70)
    assert tracker.nominal_ns(tracker.n_samples) == 2**70 * 1_000_000
    assert tracker.push(2**70 * 1_000_000 + 100, 5) == (pytest.approx(2**70 * 1_000_000, rel=1e-15), True)
