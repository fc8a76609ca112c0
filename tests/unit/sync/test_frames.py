"""FrameSelector: the frame nearest in time, held against a search through all frames."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mer.sync.frames import Frame, FrameSelector
from edge_mer.types.model import Encoder, FaceClip
from tests.helpers.front_ends import FRAME, JMT_CLIP
from tests.helpers.tiny_model import tiny_clip, visual_encoder

PIXELS = np.zeros((2, 2, 3), np.uint8)
JMT = visual_encoder(JMT_CLIP, period=32 * FRAME, span=32 * FRAME)
TINY = visual_encoder()
NTSC = Fraction(30_000, 1_001)


def times_ns(fps: Fraction | int, duration_s: int = 5) -> list[int]:
    return [int(i * 1_000_000_000 / Fraction(fps)) for i in range(int(duration_s * fps))]


def selector(encoder: Encoder) -> FrameSelector:
    assert isinstance(encoder.preprocess, FaceClip)
    return FrameSelector(encoder, encoder.preprocess)


def nominal_times(encoder: Encoder, step: int) -> list[Fraction]:
    """Exact times in nanoseconds, oldest first."""
    clip = encoder.preprocess
    assert isinstance(clip, FaceClip)
    end_s = (step + 1) * encoder.period + encoder.offset
    newest_s = end_s - clip.last_frame_before_end
    return [(newest_s - i * clip.frame_interval) * 1_000_000_000 for i in reversed(range(clip.n_frames))]


def nearest(encoder: Encoder, step: int, frames_ns: Iterable[int]) -> list[int | None]:
    """By looking at every frame for every nominal time."""
    clip = encoder.preprocess
    assert isinstance(clip, FaceClip)
    chosen: list[int | None] = []
    limit = clip.frame_tolerance * 1_000_000_000 + 1  # times are rounded to a nanosecond
    for nominal in nominal_times(encoder, step):
        around = float(nominal)
        best = min(frames_ns, key=lambda t: abs(t - around), default=None)
        chosen.append(best if best is not None and abs(best - nominal) <= limit else None)
    return chosen


def played(encoder: Encoder, frames_ns: Iterable[int]) -> tuple[list[list[int | None]], FrameSelector]:
    """What is chosen when every step is taken as soon as it is complete."""
    select = selector(encoder)
    taken: list[list[int | None]] = []
    for t_ns in frames_ns:
        select.push(t_ns, PIXELS)
        while select.is_complete(len(taken)):
            taken.append(stamps(select.take(len(taken))))
    return taken, select


def stamps(frames: list[Frame | None]) -> list[int | None]:
    return [None if frame is None else frame.t_ns for frame in frames]


def assert_nearest(encoder: Encoder, frames_ns: list[int], n_at_least: int) -> None:
    taken, select = played(encoder, frames_ns)
    assert len(taken) >= n_at_least
    for step, chosen in enumerate(taken):
        wanted = nearest(encoder, step, frames_ns)
        for found, best, nominal in zip(chosen, wanted, nominal_times(encoder, step), strict=True):
            assert (found is None) == (best is None), f"step {step} at {float(nominal)} ns"
            if found is not None and best is not None:
                # Two frames at the same distance are equally good; rounding decides between them.
                assert abs(abs(found - nominal) - abs(best - nominal)) <= 2
    assert select.n_late == 0


@pytest.mark.parametrize("encoder", [JMT, TINY], ids=["jmt", "tiny"])
@pytest.mark.parametrize("fps", [10, 15, 24, 25, NTSC, 30, 50, 60, 120], ids=str)
def test_at_any_camera_rate_the_nearest_frame_is_chosen(fps: Fraction | int, encoder: Encoder) -> None:
    assert_nearest(encoder, times_ns(fps), 4)


@settings(max_examples=25, deadline=None)
@given(
    fps=st.sampled_from([12, 25, 30, 60]),
    jitter_ms=st.lists(st.integers(-14, 14), min_size=60, max_size=60),
    lost=st.sets(st.integers(0, 59)),
    offset_ms=st.integers(0, 40),
)
@pytest.mark.parametrize("encoder", [JMT, TINY], ids=["jmt", "tiny"])
def test_jittered_and_lost_frames_leave_the_nearest_ones(
    encoder: Encoder, fps: int, jitter_ms: list[int], lost: set[int], offset_ms: int
) -> None:
    frames = {
        t + (jitter_ms[i % 60] + offset_ms + 14) * 1_000_000
        for i, t in enumerate(times_ns(fps, 4))
        if i % 60 not in lost
    }
    assert_nearest(encoder, sorted(frames), 0)


@pytest.mark.parametrize("fps", [25, 60])
def test_pieces_that_overlap_and_look_ahead_get_their_frames(fps: int) -> None:
    """One step per frame, each looking at the five frames around it."""
    clip = tiny_clip(
        n_frames=5, frame_interval=FRAME, last_frame_before_end=Fraction(0), frame_tolerance=FRAME / 2
    )
    encoder = visual_encoder(clip, period=FRAME, span=5 * FRAME, offset=2 * FRAME)
    assert_nearest(encoder, times_ns(fps, 2), 50)


def test_a_tolerance_longer_than_the_period_is_searched_in_full() -> None:
    clip = tiny_clip(
        n_frames=1, frame_interval=FRAME, last_frame_before_end=Fraction(0), frame_tolerance=3 * FRAME
    )
    encoder = visual_encoder(clip, period=FRAME, span=FRAME)
    select = selector(encoder)
    select.push(times_ns(30)[9], PIXELS)
    found = [step for step in range(20) if select.take(step)[0] is not None]
    assert found == [5, 6, 7, 8, 9, 10, 11]  # step s wants frame s + 1


def test_the_published_model_takes_every_fourth_frame_of_30_fps() -> None:
    frames = times_ns(30)
    taken, _ = played(JMT, frames)
    indices = [[frames.index(t) for t in chosen if t is not None] for chosen in taken]
    assert indices[:2] == [list(range(3, 32, 4)), list(range(35, 64, 4))]


def test_every_place_is_filled_at_10_fps() -> None:
    """Its frames are exactly one tolerance from some nominal times, which rounding must not lose."""
    taken, _ = played(TINY, times_ns(10))
    assert all(t is not None for chosen in taken for t in chosen)


def test_a_slow_camera_serves_two_places_with_one_frame() -> None:
    taken, _ = played(TINY, times_ns(10))
    assert any(len(set(chosen)) < len(chosen) for chosen in taken)


def test_a_frame_farther_than_the_tolerance_counts_as_missing() -> None:
    nominal = [int(t) for t in nominal_times(TINY, 0)]
    tolerance_ns = 33_333_333
    frames = [nominal[0], nominal[1] - tolerance_ns - 10, nominal[3]]
    select = selector(TINY)
    for t_ns in sorted(frames):
        select.push(t_ns, PIXELS)
    assert stamps(select.take(0)) == [nominal[0], None, None, nominal[3]]


def test_a_step_without_any_frame_is_all_missing() -> None:
    select = selector(TINY)
    assert select.take(0) == [None] * 4
    assert not select.is_complete(1)


def test_a_step_is_complete_with_the_first_frame_at_or_after_its_last_nominal_time() -> None:
    select = selector(TINY)
    last_ns = int(nominal_times(TINY, 0)[-1])
    select.push(last_ns - 1, PIXELS)
    assert not select.is_complete(0)
    select.push(last_ns, PIXELS)
    assert select.is_complete(0)
    assert not select.is_complete(1)


def test_a_frame_of_an_earlier_time_does_not_undo_completeness() -> None:
    select = selector(TINY)
    for t_ns in (250_000_000, 200_000_000):
        select.push(t_ns, PIXELS)
    assert select.is_complete(0)


def test_frames_of_a_step_that_was_taken_without_them_are_counted_late_and_not_used() -> None:
    select = selector(TINY)
    select.take(0)
    select.take(1)
    frames = [t for t in times_ns(30) if t < int(nominal_times(TINY, 1)[-1]) - 40_000_000]
    for t_ns in frames:
        select.push(t_ns, PIXELS)
    assert select.n_late == len(frames)
    assert stamps(select.take(2)) == [None] * 4


def test_a_frame_that_no_step_ever_wanted_is_not_late() -> None:
    taken, select = played(JMT, times_ns(120))
    assert taken
    assert select.n_late == 0


def test_frames_between_nominal_times_are_not_kept() -> None:
    select = selector(JMT)
    pixels = [np.zeros((2, 2, 3), np.uint8) for _ in range(120)]
    for t_ns, frame in zip(times_ns(120, 1), pixels, strict=True):
        select.push(t_ns, frame)
    alive = [weakref.ref(frame) for frame in pixels]
    del pixels, frame
    gc.collect()
    assert sum(ref() is not None for ref in alive) <= JMT_CLIP.n_frames


def test_taken_frames_are_forgotten() -> None:
    select = selector(TINY)
    pixels = [np.zeros((2, 2, 3), np.uint8) for _ in range(12)]
    for t_ns, frame in zip(times_ns(30), pixels, strict=False):
        select.push(t_ns, frame)
    alive = [weakref.ref(frame) for frame in pixels[:8]]
    del pixels, frame
    select.take(0)
    gc.collect()
    assert not any(ref() is not None for ref in alive)


@pytest.mark.parametrize("first_step", [1_000_000, 10**9])
def test_the_grid_is_as_exact_after_years(first_step: int) -> None:
    select = selector(JMT)
    start_ns = int(32 * FRAME * first_step * 1_000_000_000)
    frames = [start_ns + t for t in times_ns(30, 3)]
    for t_ns in frames:
        select.push(t_ns, PIXELS)
    chosen = [frames.index(t) for t in stamps(select.take(first_step)) if t is not None]
    assert chosen == list(range(3, 32, 4))


def test_skew_is_the_mean_distance_from_the_nominal_times() -> None:
    select = selector(TINY)
    for t, delta_ns in zip(nominal_times(TINY, 0), (1_000_000, 2_000_000, -500_000, 0), strict=True):
        select.push(int(t) + delta_ns, PIXELS)
    assert select.skew_ns(0, select.take(0)) == pytest.approx(625_000, abs=1)


def test_skew_is_zero_without_frames() -> None:
    select = selector(TINY)
    assert select.skew_ns(0, select.take(0)) == 0


def test_pixels_come_through_untouched() -> None:
    select = selector(TINY)
    frames = [np.full((2, 2, 3), i, np.uint8) for i in range(9)]
    for t_ns, pixels in zip(times_ns(30), frames, strict=False):
        select.push(t_ns, pixels)
    chosen = [frame for frame in select.take(0) if frame is not None]
    assert [int(frame.pixels[0, 0, 0]) for frame in chosen] == [1, 3, 5, 7]


# -- what is settled before a step is complete -----------------------------------------------------


def test_frames_are_settled_one_by_one_and_are_those_that_are_taken() -> None:
    select, settled = selector(JMT), list[int]()
    for t_ns in times_ns(30, 8):
        select.push(t_ns, PIXELS)
        fresh = select.settled()
        assert len(fresh) <= 1
        settled += [frame.t_ns for frame in fresh]
        if select.is_complete(step := 0):
            break
    assert settled == stamps(select.take(step))


def test_a_frame_that_a_nearer_one_may_replace_is_not_settled() -> None:
    select = selector(JMT)
    first_ns = int(nominal_times(JMT, 0)[0])
    select.push(first_ns - 9_000_000, PIXELS)
    assert select.settled() == []
    select.push(first_ns - 1_000_000, PIXELS)
    assert select.settled() == []
    select.push(first_ns + 30_000_000, PIXELS)
    assert [frame.t_ns for frame in select.settled()] == [first_ns - 1_000_000]
    assert select.settled() == []


def test_a_missing_frame_settles_nothing_and_holds_back_none() -> None:
    select = selector(JMT)
    nominal_ns = [int(one) for one in nominal_times(JMT, 0)]
    select.push(nominal_ns[2] + 1, PIXELS)
    assert [frame.t_ns for frame in select.settled()] == [nominal_ns[2] + 1]
