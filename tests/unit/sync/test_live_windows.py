"""A live session's steps, whatever comes in which order, twice, late, or never; under a manual clock."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mer.sync.windower import LATENESS_LIMITS_NS, Step, StepWindower, lateness_ns
from edge_mer.types.model import ModelSpec
from edge_mer.types.signals import Modality
from tests.helpers.tiny_model import audio_encoder, tiny_clip, tiny_log_mel, tiny_model, visual_encoder

NS = 1_000_000_000
MS = 1_000_000
RATE_HZ = 100
STEP = Fraction(1, 2)
FRAME = Fraction(1, 8)
LATE_NS = 400 * MS
AUDIO: frozenset[Modality] = frozenset({"audio"})
BOTH: frozenset[Modality] = frozenset({"visual", "audio"})
PIXELS = np.zeros((1, 1, 3), np.uint8)


def slow_model(span: Fraction = STEP, **changes: Any) -> ModelSpec:
    """Steps of half a second: 50 samples and 2 frames of 8 fps."""
    clip = tiny_clip(n_frames=2, frame_interval=2 * FRAME, last_frame_before_end=FRAME, frame_tolerance=FRAME)
    encoders = (
        visual_encoder(clip, period=STEP, span=STEP),
        audio_encoder(tiny_log_mel(rate_hz=RATE_HZ), period=STEP, span=span),
    )
    return tiny_model(step=STEP, encoders=encoders, **changes)


@dataclass(frozen=True)
class Delivery:
    """Samples `start` to `stop`, which come at a time; sample i was captured at i / 100 s."""

    comes_ns: int
    start: int
    stop: int

    @property
    def captured_ns(self) -> int:
        return self.start * NS // RATE_HZ


def played(
    deliveries: Iterable[Delivery],
    end_ns: int,
    model: ModelSpec | None = None,
    frames: Iterable[tuple[int, int]] = (),
    present: frozenset[Modality] = AUDIO,
) -> tuple[list[tuple[int, Step]], StepWindower]:
    """The steps and when each was given out, with the clock moved on every 10 ms and whenever data come.

    A sample's value is its number from 1 on. `frames`: when each comes, and when it was captured.
    """
    windower = StepWindower(model or slow_model(), present, LATE_NS)
    coming = sorted(deliveries, key=lambda one: one.comes_ns)
    pictures = sorted(frames)
    steps: list[tuple[int, Step]] = []
    times = {one.comes_ns for one in coming} | {comes_ns for comes_ns, _ in pictures}
    for now_ns in sorted(times | set(range(0, end_ns, 10 * MS))):
        while coming and coming[0].comes_ns <= now_ns:
            one = coming.pop(0)
            windower.ring("audio").anchor(one.captured_ns)
            windower.ring("audio").append(np.arange(one.start + 1, one.stop + 1, dtype=np.float32))
        while pictures and pictures[0][0] <= now_ns:
            windower.push_frame("visual", pictures.pop(0)[1], PIXELS)
        while (step := windower.take(now_ns)) is not None:
            steps.append((now_ns, step))
    return steps, windower


@st.composite
def deliveries_of(draw: st.DrawFn) -> list[Delivery]:
    """A stream in chunks, each of which is late, lost, or comes several times, in any order."""
    found, start = [], 0
    for n in draw(st.lists(st.integers(1, 60), min_size=1, max_size=20)):
        captured_ns = (start + n) * NS // RATE_HZ
        copies = draw(st.sampled_from([1, 1, 1, 1, 0, 2, 3]))
        late = st.one_of(st.integers(0, 150 * MS), st.integers(0, 3 * LATE_NS))
        found += [Delivery(captured_ns + draw(late), start, start + n) for _ in range(copies)]
        start += n
    return found


@settings(max_examples=60, deadline=None)
@given(deliveries=deliveries_of())
@pytest.mark.parametrize("span", [STEP, 3 * STEP], ids=["plain", "overlapping"])
def test_a_window_holds_what_came_in_time_and_nothing_else(
    span: Fraction, deliveries: list[Delivery]
) -> None:
    model = slow_model(span)
    end_ns = max(one.comes_ns for one in deliveries) + 3 * NS if deliveries else 3 * NS
    steps, windower = played(deliveries, end_ns, model)
    in_time = {
        index
        for one in deliveries
        for index in range(one.start, one.stop)
        if one.comes_ns <= index * NS // RATE_HZ + LATE_NS
    }
    ever = {index for one in deliveries for index in range(one.start, one.stop)}
    n_piece = int(span * RATE_HZ)
    used: list[int] = []
    for _, step in steps:
        stop = int(STEP * (step.index + 1) * RATE_HZ)
        piece = step.samples["audio"]
        held = {index for index, value in enumerate(piece.samples.tolist(), stop - n_piece) if value}
        for index in held:
            assert piece.samples[index - stop + n_piece] == index + 1
        wanted = set(range(max(0, stop - n_piece), stop))
        assert in_time & wanted <= held <= ever & wanted
        assert piece.coverage == len(held) / n_piece
        used += held
    if span == STEP:
        assert len(used) == len(set(used))
        n_given = sum(one.stop - one.start for one in deliveries)
        kept = sum(len(held) for _, held in windower.ring("audio")._segments)
        assert n_given == len(used) + windower.n_late + windower.n_duplicate + kept


@settings(max_examples=15, deadline=None)
@given(deliveries=deliveries_of(), cuts=st.sets(st.integers(1, 1_000)))
def test_how_data_are_cut_changes_nothing(deliveries: list[Delivery], cuts: set[int]) -> None:
    """Pieces of one delivery that come together are as good as the whole."""
    cut = []
    for one in deliveries:
        edges = [one.start, *sorted(cut for cut in cuts if one.start < cut < one.stop), one.stop]
        pieces = [Delivery(one.comes_ns, low, high) for low, high in itertools.pairwise(edges)]
        cut += pieces[::-1] if one.start % 2 else pieces
    assert contents(played(cut, 8 * NS)) == contents(played(deliveries, 8 * NS))


def contents(found: tuple[list[tuple[int, Step]], StepWindower]) -> list[object]:
    steps, windower = found
    pieces = [(now_ns, step.index, step.samples["audio"]) for now_ns, step in steps]
    return [
        windower.n_late,
        windower.n_duplicate,
        *((now_ns, index, piece.samples.tobytes(), piece.coverage) for now_ns, index, piece in pieces),
    ]


@settings(max_examples=30, deadline=None)
@given(
    jitter_ms=st.lists(st.integers(-40, 40), min_size=24, max_size=24),
    delays_ms=st.lists(st.integers(0, 500), min_size=24, max_size=24),
    copies=st.lists(st.sampled_from([1, 1, 1, 0, 2]), min_size=24, max_size=24),
)
def test_frames_that_came_in_time_are_chosen_by_their_time(
    jitter_ms: list[int], delays_ms: list[int], copies: list[int]
) -> None:
    captured = [int(i * FRAME * NS) + (40 + jitter_ms[i]) * MS for i in range(24)]
    frames = [
        (t_ns + delays_ms[i] * MS + 7 * MS * copy, t_ns)
        for i, t_ns in enumerate(captured)
        for copy in range(copies[i])
    ]
    steps, windower = played([], 5 * NS, None, frames, BOTH)
    for taken_ns, step in steps:
        came = {t_ns for comes_ns, t_ns in frames if comes_ns <= taken_ns}
        nominal = [int((STEP * (step.index + 1) - FRAME - i * 2 * FRAME) * NS) for i in (1, 0)]
        for frame, wanted_ns in zip(step.frames["visual"], nominal, strict=True):
            best = min(came, key=lambda t_ns, at=wanted_ns: abs(t_ns - at), default=None)
            if best is None or abs(best - wanted_ns) > FRAME * NS + 1:
                assert frame is None
            else:
                assert frame is not None
                assert abs(frame.t_ns - wanted_ns) == abs(best - wanted_ns)
    assert windower.n_duplicate == sum(max(0, n - 1) for n in copies)


# -- when steps are given out ---------------------------------------------------------------------------


def regular(n: int, late_ns: int = 0, size: int = 10) -> list[Delivery]:
    starts = range(0, n, size)
    return [Delivery((start + size) * NS // RATE_HZ + late_ns, start, start + size) for start in starts]


def test_a_step_is_given_out_as_soon_as_its_data_are_there() -> None:
    steps, windower = played(regular(500, late_ns=30 * MS), 6 * NS)
    assert [now_ns for now_ns, _ in steps[:10]] == [(i + 1) * NS // 2 + 30 * MS for i in range(10)]
    assert {step.samples["audio"].coverage for _, step in steps[:10]} == {1.0}
    assert windower.n_late == 0


def test_when_all_streams_fall_silent_steps_go_on_by_the_clock() -> None:
    steps, _ = played(regular(200), 6 * NS, None, [(i * NS // 8, i * NS // 8) for i in range(16)], BOTH)
    assert [step.index for _, step in steps] == list(range(11))
    for now_ns, step in steps[4:]:
        assert now_ns == step.t_end_ns + LATE_NS
        assert step.samples["audio"].coverage == 0.0
        assert step.frames["visual"] == [None, None]


def test_a_session_in_which_nothing_ever_comes_has_steps() -> None:
    assert [step.index for _, step in played([], 3 * NS)[0]] == list(range(5))


def test_one_silent_stream_delays_the_others_by_the_bound_and_no_more() -> None:
    frames = [(i * NS // 8, i * NS // 8) for i in range(40)]
    steps, _ = played(regular(200), 5 * NS, None, frames, BOTH)
    assert [now_ns - step.t_end_ns for now_ns, step in steps[4:]] == [LATE_NS] * len(steps[4:])
    assert all(None not in step.frames["visual"] for _, step in steps[4:])


def test_a_hole_is_waited_for_until_its_own_time_is_up() -> None:
    """A chunk overtaken by the next ones is used; one that never comes holds its step back, and no other."""
    overtaken = [one for one in regular(500) if one.start != 60] + [Delivery(1_050 * MS, 60, 70)]
    steps, _ = played(overtaken, 6 * NS)
    assert steps[1][0] == 1_050 * MS
    assert {step.samples["audio"].coverage for _, step in steps[:10]} == {1.0}
    lost = [one for one in regular(500) if one.start != 60]
    steps, _ = played(lost, 6 * NS)
    assert [now_ns - step.t_end_ns for now_ns, step in steps[:4]] == [0, 100 * MS, 0, 0]
    assert [step.samples["audio"].coverage for _, step in steps[:4]] == [1.0, 0.8, 1.0, 1.0]


def test_a_stream_ahead_of_the_clock_gives_up_no_other() -> None:
    """In a recording the others' progress is all that shows a stall; here stamps must not."""
    windower = StepWindower(slow_model(), BOTH, LATE_NS)
    windower.ring("audio").anchor(3_600 * NS)
    windower.ring("audio").append(np.ones(10, np.float32))
    assert windower.take(100 * MS) is None
    assert windower.take() is None


def test_without_news_of_the_clock_only_data_complete_a_step() -> None:
    windower = StepWindower(slow_model(), AUDIO, LATE_NS)
    assert windower.take() is None
    windower.ring("audio").append(np.ones(50, np.float32))
    step = windower.take()
    assert step is not None
    assert windower.take() is None


def test_the_clock_never_goes_back() -> None:
    windower = StepWindower(slow_model(), AUDIO, LATE_NS)
    assert windower.take(900 * MS) is not None
    assert windower.take(0) is None
    assert windower.take(1_399 * MS) is None
    assert windower.take(1_400 * MS) is not None


def test_late_data_are_counted_by_stream() -> None:
    frames = [(i * NS // 8 + 2 * NS, i * NS // 8) for i in range(8)]
    _, windower = played(regular(300, late_ns=NS), 5 * NS, None, frames, BOTH)
    assert windower.n_late_of("audio") == 300
    assert windower.n_late_of("visual") == 8
    assert windower.n_late == 308


@pytest.mark.parametrize(
    ("step", "hop", "expected_ms"),
    [
        (Fraction(4, 15), 1, 266),
        (Fraction(1, 30), 1, 200),
        (Fraction(1, 30), 8, 266),
        (Fraction(2), 1, 1_000),
    ],
)
def test_the_bound_is_one_hop_within_limits(step: Fraction, hop: int, expected_ms: int) -> None:
    clip = tiny_clip()
    encoders = (visual_encoder(clip, period=step, span=step), audio_encoder(period=step, span=step))
    model = tiny_model(step=step, encoders=encoders)
    assert lateness_ns(model, hop) // MS == expected_ms
    assert LATENESS_LIMITS_NS[0] <= lateness_ns(model) <= LATENESS_LIMITS_NS[1]


# -- an hour ----------------------------------------------------------------------------------------------


def test_an_hour_leaves_nothing_behind() -> None:
    """With jitter, loss, duplicates, reordered chunks, and half an hour in which the camera is gone."""
    windower, random = StepWindower(slow_model(3 * STEP), BOTH, LATE_NS), np.random.default_rng(0)
    n_objects: list[int] = []
    n_steps = n_samples = 0
    held: list[int] = []
    for tick in range(4 * 3_600):
        now_ns = tick * NS // 4
        for start in (tick - 1, tick) if tick % 7 == 0 else (tick,) if tick % 7 != 6 else ():
            windower.ring("audio").anchor(start * NS // 4)
            windower.ring("audio").append(np.ones(25, np.float32))
        if random.random() < 0.1:
            windower.ring("audio").append(np.ones(3, np.float32))
        if tick < 2 * 3_600:
            windower.push_frame("visual", max(0, now_ns - int(random.integers(0, NS))), PIXELS)
        while (step := windower.take(now_ns)) is not None:
            n_steps += 1
            n_samples += int(step.samples["audio"].samples.sum())
        if tick % 400 == 399:
            held.append(len(windower.ring("audio")._segments))
        if tick % 4_000 == 3_999:
            gc.collect()
            n_objects.append(len(gc.get_objects()))
    assert n_steps in (7_198, 7_199)
    assert n_samples > 0.99 * 3 * 50 * n_steps
    assert max(held) <= 40
    assert max(n_objects) - n_objects[0] < 200
    assert windower.n_duplicate > 0
