"""SampleRing and Continuity, held against an array that simply remembers everything."""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.sync.samples import CONTINUITY_TOLERANCE_NS, Continuity, SampleRing
from edge_mer.types.model import Encoder
from tests.helpers.tiny_model import RATE_HZ, STEP, audio_encoder

Samples = NDArray[np.float32]

PLAIN = audio_encoder()
OVERLAPPING = audio_encoder(span=3 * STEP)
SPARSE = audio_encoder(span=STEP / 3)
LOOKING_AHEAD = audio_encoder(offset=STEP / 2)
LOOKING_BACK = audio_encoder(offset=-2 * STEP)
ENCODERS = [PLAIN, OVERLAPPING, SPARSE, LOOKING_AHEAD, LOOKING_BACK]
IDS = ["plain", "overlapping", "sparse", "looking_ahead", "looking_back"]


@dataclass
class Everything:
    """Remembers each sample by its index; a sample's value is unlike that of its neighbours."""

    rate_hz: int | Fraction
    held: dict[int, float] = field(default_factory=dict)
    next: int = 0
    n_given: int = 0

    def anchor(self, t_ns: int) -> None:
        self.next = round(Fraction(t_ns, 1_000_000_000) * self.rate_hz)

    def append(self, n: int) -> Samples:
        """Make `n` samples, numbered in the order of their coming; the first of a time is kept."""
        values = np.arange(self.n_given + 1, self.n_given + n + 1, dtype=np.float32)
        for index, value in enumerate(values.tolist(), start=self.next):
            self.held.setdefault(index, value)
        self.n_given += n
        self.next += n
        return values

    def piece(self, encoder: Encoder, step: int) -> tuple[Samples, float]:
        n = int(encoder.span * self.rate_hz)
        stop = int((encoder.period * (step + 1) + encoder.offset) * self.rate_hz)
        values = [self.held.get(index, 0.0) for index in range(stop - n, stop)]
        return np.array(values, np.float32), sum(index in self.held for index in range(stop - n, stop)) / n


def filled(ring: SampleRing, n: int, value: float = 1.0) -> None:
    ring.append(np.full(n, value, np.float32))


def step_ns(steps: float) -> int:
    return int(STEP * Fraction(steps) * 1_000_000_000)


# A chunk: how far its time lies from the end of the last one (0 = it continues), and its length.
CHUNKS = st.lists(
    st.tuples(
        st.one_of(st.just(0), st.integers(-500_000_000, 700_000_000)),
        st.one_of(st.integers(0, 50), st.integers(0, 3_000)),
    ),
    max_size=12,
)
JUMPS_S = st.floats(-0.4, 0.6)


@settings(max_examples=25, deadline=None)
@given(chunks=CHUNKS, start_ns=st.sampled_from([0, 1, 12_345_678, 2**40]))
@pytest.mark.parametrize("encoder", ENCODERS, ids=IDS)
def test_a_piece_holds_what_came_for_its_time_and_nothing_else(
    encoder: Encoder, chunks: list[tuple[int, int]], start_ns: int
) -> None:
    ring, everything = SampleRing(encoder, RATE_HZ), Everything(RATE_HZ)
    t_ns = start_ns
    for index, (jump_ns, n) in enumerate(chunks):
        if jump_ns or index == 0:
            t_ns = max(0, t_ns + jump_ns)
            ring.anchor(t_ns)
            everything.anchor(t_ns)
        ring.append(everything.append(n))
        t_ns += n * 1_000_000_000 // RATE_HZ
    first = max(0, start_ns // step_ns(1) - 3)
    for step in range(first, first + 25):
        piece, (samples, coverage) = ring.take(step), everything.piece(encoder, step)
        np.testing.assert_array_equal(piece.samples, samples)
        assert piece.coverage == pytest.approx(coverage, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(events=st.lists(st.one_of(st.just("take"), st.integers(0, 2_500), JUMPS_S), max_size=25))
@pytest.mark.parametrize("encoder", ENCODERS, ids=IDS)
def test_taking_steps_while_samples_come_changes_no_complete_step(
    encoder: Encoder, events: list[str | int | float]
) -> None:
    """Also when a step was taken too early: it is short of what had not come, and later steps are not."""
    ring, everything = SampleRing(encoder, RATE_HZ), Everything(RATE_HZ)
    step = 0
    for event in events:
        if isinstance(event, int):
            ring.append(everything.append(event))
            continue
        if isinstance(event, float):
            t_ns = max(0, round((everything.next / RATE_HZ + event) * 1e9))
            ring.anchor(t_ns)
            everything.anchor(t_ns)
            continue
        n_before, was_complete = everything.n_given, ring.is_complete(step)
        piece, (samples, coverage) = ring.take(step), everything.piece(encoder, step)
        assert np.all((piece.samples == samples) | (piece.samples == 0))
        assert piece.samples.max(initial=0) <= n_before
        assert piece.coverage <= coverage
        if was_complete:
            np.testing.assert_array_equal(piece.samples, samples)
        step += 1


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 4_000), min_size=1, max_size=12))
def test_any_chunking_gives_the_same_pieces(sizes: list[int]) -> None:
    sound = np.random.default_rng(0).normal(size=sum(sizes)).astype(np.float32)
    cut, whole = SampleRing(PLAIN, RATE_HZ), SampleRing(PLAIN, RATE_HZ)
    whole.append(sound)
    for piece in np.split(sound, np.cumsum(sizes)[:-1]):
        cut.append(piece)
    assert cut.watermark_ns == whole.watermark_ns
    for step in range(sum(sizes) // 2_134 + 1):
        assert cut.is_complete(step) == whole.is_complete(step)
        np.testing.assert_array_equal(cut.take(step).samples, whole.take(step).samples)


@pytest.mark.parametrize("encoder", ENCODERS, ids=IDS)
def test_neighbouring_pieces_lose_and_repeat_no_sample(encoder: Encoder) -> None:
    ring = SampleRing(encoder, RATE_HZ)
    ring.append(np.arange(1, 40 * 2_134, dtype=np.float32))
    starts = []
    for step in range(5, 30):
        samples = ring.take(step).samples
        np.testing.assert_array_equal(np.diff(samples), 1.0)
        starts.append(int(samples[0]))
    apart = {b - a for a, b in itertools.pairwise(starts)}
    assert apart <= {2_133, 2_134}
    assert starts[-1] - starts[0] == int(STEP * 24 * RATE_HZ)


def test_a_step_is_complete_with_the_last_sample_of_its_piece() -> None:
    ring = SampleRing(PLAIN, RATE_HZ)
    filled(ring, 2_132)
    assert not ring.is_complete(0)
    filled(ring, 1)
    assert ring.is_complete(0)


def test_look_ahead_delays_completeness_by_the_offset() -> None:
    ring = SampleRing(LOOKING_AHEAD, RATE_HZ)
    filled(ring, 3_199)
    assert not ring.is_complete(0)
    filled(ring, 1)
    assert ring.is_complete(0)


def test_coverage_is_the_share_that_came() -> None:
    ring = SampleRing(audio_encoder(span=1, period=1), 1_000)
    filled(ring, 250)
    ring.anchor(750_000_000)
    filled(ring, 100)
    assert ring.take(0).coverage == 0.35


def test_the_newest_time_is_the_end_of_the_last_sample_of_the_piece() -> None:
    ring = SampleRing(audio_encoder(span=1, period=1), 1_000)
    filled(ring, 250)
    ring.anchor(2_750_000_000)
    filled(ring, 300)
    newest_ns = [ring.take(step).newest_ns for step in range(5)]
    assert newest_ns == [250_000_000, None, 3_000_000_000, 3_050_000_000, None]


def test_a_gap_is_zero_and_what_follows_keeps_its_time() -> None:
    ring = SampleRing(audio_encoder(span=1, period=1), 1_000)
    filled(ring, 300, 1.0)
    ring.anchor(700_000_000)
    filled(ring, 300, 2.0)
    expected = np.repeat(np.float32([1.0, 0.0, 2.0]), [300, 400, 300])
    np.testing.assert_array_equal(ring.take(0).samples, expected)


def test_time_already_filled_is_not_filled_twice() -> None:
    ring = SampleRing(audio_encoder(span=1, period=1), 1_000)
    filled(ring, 600, 1.0)
    ring.anchor(400_000_000)
    filled(ring, 600, 2.0)
    expected = np.repeat(np.float32([1.0, 2.0]), [600, 400])
    np.testing.assert_array_equal(ring.take(0).samples, expected)
    assert (ring.n_late, ring.n_duplicate) == (0, 200)


def test_a_hole_is_filled_by_what_comes_later_and_only_the_hole() -> None:
    ring = SampleRing(audio_encoder(span=1, period=1), 1_000)
    filled(ring, 300, 1.0)
    ring.anchor(700_000_000)
    filled(ring, 300, 2.0)
    ring.anchor(200_000_000)
    filled(ring, 600, 3.0)
    expected = np.repeat(np.float32([1.0, 3.0, 2.0]), [300, 400, 300])
    assert ring.is_complete(0)
    np.testing.assert_array_equal(ring.take(0).samples, expected)
    assert (ring.n_late, ring.n_duplicate) == (0, 200)


def test_a_hole_may_be_waited_for() -> None:
    ring = SampleRing(audio_encoder(span=1, period=1), 1_000)
    filled(ring, 300)
    ring.anchor(700_000_000)
    filled(ring, 300)
    assert ring.is_complete(0)
    assert not ring.is_complete(0, settled_ns=0)
    assert not ring.is_complete(0, settled_ns=699_000_000)
    assert ring.is_complete(0, settled_ns=700_000_000)
    ring.anchor(300_000_000)
    filled(ring, 400)
    assert ring.is_complete(0, settled_ns=0)


def test_the_grid_is_as_exact_after_years() -> None:
    first_step = 10**9
    ring, everything = SampleRing(PLAIN, 44_100), Everything(44_100)
    start_ns = int(STEP * first_step * 1_000_000_000)
    ring.anchor(start_ns)
    everything.anchor(start_ns)
    ring.append(everything.append(44_100))
    for step in range(first_step, first_step + 4):
        samples, coverage = everything.piece(PLAIN, step)
        piece = ring.take(step)
        np.testing.assert_array_equal(piece.samples, samples)
        assert piece.coverage == pytest.approx(coverage)


def test_the_watermark_is_the_end_of_what_came() -> None:
    ring = SampleRing(PLAIN, RATE_HZ)
    assert ring.watermark_ns == 0
    filled(ring, 800)
    assert ring.watermark_ns == 100_000_000
    ring.anchor(500_000_000)
    assert ring.watermark_ns == 100_000_000
    filled(ring, 8)
    assert ring.watermark_ns == 501_000_000


def test_samples_that_come_after_their_step_was_taken_are_counted_late() -> None:
    ring = SampleRing(PLAIN, RATE_HZ)
    ring.take(0)
    filled(ring, 2_000)
    assert ring.n_late == 2_000
    filled(ring, 1_000)
    assert ring.n_late == 2_133
    assert ring.take(1).coverage == pytest.approx(867 / 2_133, abs=1e-3)


def test_samples_that_an_overlapping_step_still_needs_are_not_late() -> None:
    ring = SampleRing(OVERLAPPING, RATE_HZ)
    filled(ring, 2_133)
    ring.take(0)
    ring.take(1)
    filled(ring, 2_133)
    assert ring.n_late == 0
    assert ring.take(2).coverage == pytest.approx(2 / 3, abs=1e-3)


def test_samples_between_sparse_pieces_are_not_late() -> None:
    ring = SampleRing(SPARSE, RATE_HZ)
    for step in range(5):
        while not ring.is_complete(step):
            filled(ring, 160)
        ring.take(step)
    assert ring.n_late == 0


@pytest.mark.parametrize("encoder", ENCODERS, ids=IDS)
def test_what_no_later_step_needs_is_forgotten(encoder: Encoder) -> None:
    ring = SampleRing(encoder, RATE_HZ)
    chunks = [np.ones(800, np.float32) for _ in range(100)]
    for chunk in chunks:
        ring.append(chunk)
    alive = [weakref.ref(chunk) for chunk in chunks]
    del chunks, chunk
    for step in range(30):
        ring.take(step)
    gc.collect()
    needed_from = int((encoder.period * 31 + encoder.offset - encoder.span) * RATE_HZ)
    held = sum(ref() is not None for ref in alive)
    assert held <= 100 - needed_from // 800


# -- continuity -----------------------------------------------------------------------------------


def test_the_first_chunk_starts_somewhere() -> None:
    assert Continuity(44_100).is_gap(5_000_000, 441)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 5_000), min_size=1, max_size=40),
    jitter_ns=st.lists(
        st.integers(-CONTINUITY_TOLERANCE_NS + 2, CONTINUITY_TOLERANCE_NS - 2), min_size=40, max_size=40
    ),
    start_ns=st.sampled_from([0, 2**40, 2**60]),
    rate_hz=st.sampled_from([8_000.0, 44_100.0, 333.3]),
)
def test_jittered_stamps_are_no_gaps(
    sizes: list[int], jitter_ns: list[int], start_ns: int, rate_hz: float
) -> None:
    continuity = Continuity(rate_hz)
    assert continuity.is_gap(start_ns, 100)
    n = 100
    for size, delta_ns in zip(sizes, jitter_ns, strict=False):
        t_ns = start_ns + int(n * 1_000_000_000 / Fraction(rate_hz))
        assert not continuity.is_gap(t_ns + delta_ns, size)
        n += size


@pytest.mark.parametrize("jump_ns", [21_000_000, -21_000_000, 10**12])
def test_a_jump_beyond_the_tolerance_is_a_gap_and_then_counting_starts_anew(jump_ns: int) -> None:
    continuity = Continuity(1_000)
    continuity.is_gap(10**10, 1_000)
    assert continuity.is_gap(10**10 + 10**9 + jump_ns, 1_000)
    assert not continuity.is_gap(10**10 + 2 * 10**9 + jump_ns, 1_000)


def test_a_slow_drift_becomes_a_gap_once_it_exceeds_the_tolerance() -> None:
    continuity = Continuity(1_000)
    gaps = [i for i in range(60) if continuity.is_gap(i * 1_001_000_000, 1_000)]
    assert gaps == [0, 21, 42]


def test_rows_of_courses_keep_their_places_and_empty_ones_are_missing() -> None:
    ring = SampleRing(PLAIN, RATE_HZ, n_courses=2)
    n = int(PLAIN.span * RATE_HZ)
    rows = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    rows[: n // 2, 1] = np.nan
    ring.append(rows)
    piece = ring.take(0)
    assert piece.is_settling
    assert piece.coverage == (n - n // 2) / n
    assert not piece.samples[: n // 2].any()
    np.testing.assert_array_equal(piece.samples[n // 2 :], rows[n // 2 :])
    ring.append(np.full((n, 2), np.nan, np.float32))
    assert (ring.take(1).coverage, ring.take(1).newest_ns) == (0, None)


# -- streams of another rate than the piece's -------------------------------------------------------

STREAMS_HZ = [50.0, 7_999.9, 16_000.0]


@settings(max_examples=6, deadline=None)
@given(chunks=CHUNKS, start_ns=st.sampled_from([0, 12_345_678, 2**40]))
@pytest.mark.parametrize("stream_hz", STREAMS_HZ)
@pytest.mark.parametrize("encoder", ENCODERS, ids=IDS)
def test_a_piece_to_be_resampled_holds_the_streams_samples_of_its_time(
    encoder: Encoder, stream_hz: float, chunks: list[tuple[int, int]], start_ns: int
) -> None:
    rate_hz = Fraction(stream_hz)
    ring = SampleRing(encoder, RATE_HZ, stream_hz=stream_hz)
    everything, t_ns = Everything(rate_hz), start_ns
    for index, (jump_ns, n) in enumerate(chunks):
        if jump_ns or index == 0:
            t_ns = max(0, t_ns + jump_ns)
            ring.anchor(t_ns)
            everything.anchor(t_ns)
        ring.append(everything.append(n))
        t_ns += int(n * 1_000_000_000 / rate_hz)
    first = max(0, start_ns // step_ns(1) - 3)
    for step in range(first, first + 6):
        piece = ring.take(step)
        stop_s = Fraction(int((encoder.period * (step + 1) + encoder.offset) * RATE_HZ), RATE_HZ)
        begin_s = stop_s - Fraction(int(encoder.span * RATE_HZ), RATE_HZ)
        begins = round(begin_s * rate_hz - Fraction(piece.first))
        indices = range(begins, begins + len(piece.samples))
        expected = [everything.held.get(index, math.nan) for index in indices]
        np.testing.assert_array_equal(piece.samples, np.array(expected, np.float32))

        assert indices[-1] / rate_hz < stop_s <= (indices[-1] + 1) / rate_hz  # nothing of later times
        reach = (
            max(Fraction(1), rate_hz / RATE_HZ) + 1
        ) / 2  # no sample before them has a share in the first one
        assert begin_s * rate_hz - reach < begins <= begin_s * rate_hz - reach + 1
        of_its_time = range(math.floor(begin_s * rate_hz), indices.stop)
        there = [i for i in of_its_time if i in everything.held]
        assert piece.coverage == pytest.approx(len(there) / len(of_its_time), abs=1e-12)
        assert piece.newest_ns == (int((there[-1] + 1) * 1_000_000_000 / rate_hz) if there else None)


def test_a_step_waits_for_the_last_sample_of_its_time_and_no_longer() -> None:
    ring = SampleRing(audio_encoder(span=1, period=1), 1_000, stream_hz=4.0)
    ring.append(np.ones(3, np.float32))
    assert not ring.is_complete(0)
    ring.append(np.ones(1, np.float32))
    assert ring.is_complete(0)
    piece = ring.take(0)
    assert (len(piece.samples), piece.first, piece.coverage, piece.newest_ns) == (4, 0.0, 1.0, 10**9)


def test_samples_that_the_next_piece_begins_with_are_kept() -> None:
    ring = SampleRing(audio_encoder(span=1, period=1), 1_000, stream_hz=2.5)
    ring.append(np.arange(3, dtype=np.float32))
    np.testing.assert_array_equal(ring.take(0).samples, [0, 1, 2])  # at 0, 0.4 and 0.8 s
    ring.append(np.arange(3, 10, dtype=np.float32))
    piece = ring.take(1)
    np.testing.assert_array_equal(piece.samples, [2, 3, 4])  # from 0.8 s on
    assert (piece.first, piece.coverage) == (0.5, 1.0)


def test_a_hole_before_the_step_that_its_first_samples_lack_is_waited_for() -> None:
    ring = SampleRing(audio_encoder(span=1, period=1), 1_000, stream_hz=2.5)
    ring.append(np.ones(2, np.float32))
    ring.take(0)
    ring.anchor(1_200_000_000)
    ring.append(np.ones(2, np.float32))
    assert not ring.is_complete(1, settled_ns=0)
    assert ring.is_complete(1, settled_ns=1_200_000_000)
    ring.anchor(800_000_000)
    ring.append(np.ones(1, np.float32))
    assert ring.is_complete(1, settled_ns=0)
