"""StepWindower: complete steps from two streams in any interleaving."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.sync.windower import MAX_WAIT_NS, Step, StepWindower
from edge_mer.types.model import ModelSpec
from edge_mer.types.signals import Modality
from tests.helpers.tiny_model import FRAME, RATE_HZ, STEP, audio_encoder, tiny_model, visual_encoder

MODEL = tiny_model()
BOTH: frozenset[Modality] = frozenset({"visual", "audio"})
FRAME_NS = 33_333_333
CHUNK = 160  # samples: 20 ms


@dataclass(frozen=True)
class Recording:
    """Frames of 30 fps, and samples that count up."""

    frames_ns: list[int]
    sound: NDArray[np.float32]

    @classmethod
    def of(cls, duration_s: float) -> Recording:
        n_frames, n_samples = int(duration_s * 30), int(duration_s * RATE_HZ)
        times = [int(i * FRAME * 1_000_000_000) for i in range(n_frames)]
        return cls(times, np.arange(1, n_samples + 1, dtype=np.float32))


class Feeder:
    """Pushes the chunks of a recording and takes every step as soon as there is one."""

    def __init__(self, recording: Recording, model: ModelSpec = MODEL, present: frozenset[Modality] = BOTH):
        self.windower = StepWindower(model, present)
        self.steps: list[Step] = []
        self._frames = iter(recording.frames_ns)
        self._sound = iter(np.array_split(recording.sound, max(1, len(recording.sound) // CHUNK)))

    def frame(self) -> int | None:
        if (t_ns := next(self._frames, None)) is not None:
            self.windower.push_frame("visual", t_ns, np.full((1, 1, 3), t_ns // FRAME_NS % 251, np.uint8))
            self._take()
        return t_ns

    def sound(self) -> bool:
        if (samples := next(self._sound, None)) is not None:
            self.windower.ring("audio").append(samples)
            self._take()
        return samples is not None

    def close(self, modality: Modality) -> None:
        self.windower.close(modality)
        self._take()

    def rest(self) -> list[Step]:
        """Both streams to their ends, about as fast as each other."""
        going = True
        while going:
            came = [self.frame() is not None, self.sound(), self.sound()]
            going = any(came)
        self.close("visual")
        self.close("audio")
        return self.steps

    def _take(self) -> None:
        while (step := self.windower.take()) is not None:
            self.steps.append(step)


def contents(step: Step) -> tuple[object, ...]:
    """All of a step, comparable."""
    frames = {
        m: [None if f is None else (f.t_ns, int(f.pixels[0, 0, 0])) for f in chosen]
        for m, chosen in step.frames.items()
    }
    samples = {m: (piece.samples.tobytes(), piece.coverage) for m, piece in step.samples.items()}
    return step.index, step.t_start_ns, step.t_end_ns, frames, samples, step.skew_ns


@settings(max_examples=40, deadline=None)
@given(turns=st.lists(st.sampled_from("vvvaaaa"), max_size=150))
def test_any_interleaving_gives_the_same_steps(turns: str) -> None:
    """Shorter than the longest wait, so that no stream is given up."""
    recording = Recording.of(1.5)
    expected = [contents(step) for step in Feeder(recording).rest()]
    feeder = Feeder(recording)
    for turn in turns:
        if turn == "v":
            feeder.frame()
        else:
            feeder.sound()
    assert [contents(step) for step in feeder.rest()] == expected
    assert len(expected) == 5
    assert feeder.windower.n_late == 0


def test_a_step_holds_the_data_of_its_time() -> None:
    for step in Feeder(Recording.of(3.0)).rest():
        assert (step.t_start_ns, step.t_end_ns) == (
            MODEL.step_start_ns(step.index),
            MODEL.step_end_ns(step.index),
        )
        times = [frame.t_ns for frame in step.frames["visual"] if frame is not None]
        assert len(times) == 4
        assert all(step.t_start_ns <= t < step.t_end_ns for t in times)
        piece = step.samples["audio"]
        assert piece.coverage == 1.0
        assert piece.samples[-1] == int(STEP * (step.index + 1) * RATE_HZ)


def test_steps_come_in_order_without_holes() -> None:
    assert [step.index for step in Feeder(Recording.of(3.0)).rest()] == list(range(11))


def test_a_step_waits_for_the_slower_stream() -> None:
    feeder = Feeder(Recording.of(1.0))
    for _ in range(20):
        feeder.frame()
    assert feeder.steps == []
    while not feeder.steps:
        assert feeder.sound()
    assert feeder.steps[0].samples["audio"].coverage == 1.0


def test_a_stream_that_the_session_lacks_holds_nothing_back() -> None:
    feeder = Feeder(Recording.of(1.0), present=frozenset({"visual"}))
    for _ in range(9):
        feeder.frame()
    assert [step.index for step in feeder.steps] == [0]
    assert feeder.steps[0].samples["audio"].coverage == 0.0


def test_a_stalled_stream_is_given_up_after_the_longest_wait() -> None:
    feeder = Feeder(Recording.of(5.0))
    for _ in range(30):
        feeder.sound()  # 0.6 s, two whole steps
    came_at: dict[int, int] = {}
    while (t_ns := feeder.frame()) is not None:
        for step in feeder.steps:
            came_at.setdefault(step.index, t_ns)
    assert came_at.keys() >= set(range(9))
    for index in range(2, 9):
        waited_ns = came_at[index] - MODEL.step_end_ns(index)
        assert MAX_WAIT_NS <= waited_ns <= MAX_WAIT_NS + 2 * FRAME_NS
    assert [step.samples["audio"].coverage == 1.0 for step in feeder.steps[:4]] == [True, True, False, False]
    assert feeder.steps[3].samples["audio"].coverage == 0.0


def test_a_stalled_camera_is_given_up_too() -> None:
    feeder = Feeder(Recording.of(5.0))
    for _ in range(9):
        feeder.frame()
    while feeder.sound():
        pass
    assert [step.index for step in feeder.steps] == list(range(11))
    assert feeder.steps[-1].frames["visual"] == [None] * 4


def test_look_ahead_prolongs_the_wait() -> None:
    encoders = (visual_encoder(), audio_encoder(offset=STEP))
    model = tiny_model(encoders=encoders)
    feeder = Feeder(Recording.of(5.0), model)
    last_ns = 0
    while not feeder.steps:
        last_ns = feeder.frame() or last_ns
    due_ns = model.step_end_ns(0) + int(STEP * 1_000_000_000) + MAX_WAIT_NS
    assert due_ns <= last_ns <= due_ns + 2 * FRAME_NS


def test_what_a_stalled_stream_brings_too_late_is_counted_and_not_used() -> None:
    recording = Recording.of(3.0)
    feeder = Feeder(recording)
    while feeder.frame() is not None:
        pass
    n_given_up = len(feeder.steps)
    assert n_given_up > 0
    feeder.rest()
    assert feeder.windower.n_late == int(STEP * n_given_up * RATE_HZ)
    assert [step.samples["audio"].coverage for step in feeder.steps] == [0.0] * n_given_up + [1.0] * (
        11 - n_given_up
    )


def test_a_stream_that_ends_early_holds_nothing_back() -> None:
    feeder = Feeder(Recording.of(1.0))
    feeder.close("audio")
    for _ in range(9):
        feeder.frame()
    assert [step.index for step in feeder.steps] == [0]


def test_the_longer_stream_decides_how_many_steps_there_are() -> None:
    recording = Recording.of(2.0)
    shortened = Recording(recording.frames_ns, recording.sound[: RATE_HZ // 2])
    steps = Feeder(shortened).rest()
    assert [step.index for step in steps] == list(range(7))
    assert [round(step.samples["audio"].coverage, 3) for step in steps] == [1.0, 0.875, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("duration_s", "dropped"), [(0.2, 1), (1.4, 1), (1.6, 0), (0.0, 0)])
def test_a_partial_tail_is_dropped_and_counted(duration_s: float, dropped: int) -> None:
    feeder = Feeder(Recording.of(duration_s))
    steps = feeder.rest()
    assert len(steps) == int(duration_s / float(STEP) + 1e-9)
    assert feeder.windower.n_dropped_tail(round(duration_s * 1e9)) == dropped


@pytest.mark.parametrize("behind", ["visual", "audio"])
def test_a_stream_whose_pieces_lie_in_the_past_makes_no_steps_of_the_future(behind: str) -> None:
    """Its pieces are whole before their steps end, and when nothing more comes, those steps never end."""
    ago = {behind: -2 * STEP}
    encoders = (
        visual_encoder(offset=ago.get("visual", STEP * 0)),
        audio_encoder(offset=ago.get("audio", STEP * 0)),
    )
    feeder = Feeder(Recording.of(2.0), tiny_model(encoders=encoders))
    assert [step.index for step in feeder.rest()] == list(range(7))
    assert feeder.windower.n_dropped_tail(2_000_000_000) == 1


@pytest.mark.parametrize("duration_s", [4, 5])
def test_a_camera_that_looks_back_keeps_its_last_step(duration_s: int) -> None:
    """Its last frame is captured a thirtieth before the end, and neither is a whole number of nanoseconds."""
    step = Fraction(1, 2)
    visual = visual_encoder(period=step, span=step, offset=Fraction(-1, 4))
    encoders = (visual, audio_encoder(period=step, span=step))
    model = tiny_model(step=step, encoders=encoders)
    feeder = Feeder(Recording.of(duration_s), model, frozenset({"visual"}))
    assert [step.index for step in feeder.rest()] == list(range(2 * duration_s))
    assert all(frame is not None for frame in feeder.steps[-1].frames["visual"])
    assert feeder.windower.n_dropped_tail(duration_s * 1_000_000_000) == 0
    shorter = Recording.of(duration_s)
    shorter.frames_ns.pop()
    assert len(Feeder(shorter, model, frozenset({"visual"})).rest()) == 2 * duration_s - 1


def test_without_any_data_there_is_no_step() -> None:
    windower = StepWindower(MODEL, BOTH)
    assert windower.take() is None
    windower.close("visual")
    windower.close("audio")
    assert windower.take() is None


def test_the_skew_of_late_frames_is_seen() -> None:
    recording = Recording.of(1.0)
    shifted = Recording([t + 10_000_000 for t in recording.frames_ns], recording.sound)
    assert Feeder(shifted).rest()[0].skew_ns == {"visual": pytest.approx(10_000_000, abs=2)}


def test_a_piece_for_many_steps_is_waited_for_until_its_end() -> None:
    """Its first step ends more than the longest wait before it."""
    n_repeat = 12
    assert (n_repeat - 1) * STEP * 1_000_000_000 > MAX_WAIT_NS
    span = n_repeat * STEP
    encoders = (visual_encoder(), audio_encoder(period=span, span=span, repeat=n_repeat))
    fusion = MODEL.fusion.model_copy(update={"hop": n_repeat})
    steps = Feeder(Recording.of(6.5), tiny_model(encoders=encoders, fusion=fusion)).rest()
    assert [step.index for step in steps] == list(range(24))
    assert {step.samples["audio"].coverage for step in steps} == {1.0}
