"""WordTrack, held against a list that simply remembers every word."""

from __future__ import annotations

import itertools
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.sync import words as words_module
from edge_mer.sync.windower import MAX_WAIT_NS, StepWindower
from edge_mer.sync.words import Said, WordTrack
from edge_mer.types.model import Encoder, TensorSpec, Words
from tests.helpers.tiny_model import FEATURE, audio_encoder, tiny_model, visual_encoder

NS = 1_000_000_000


def encoder(**changes: object) -> Encoder:
    """Steps of a second."""
    declared: dict[str, object] = {
        "stage": "text",
        "modality": "text",
        "input": TensorSpec(name="ids", axes=("batch", "token"), shape=("batch", "token"), dtype="int64"),
        "output": TensorSpec(
            name="vectors", axes=("batch", "token", "feature"), shape=("batch", "token", FEATURE)
        ),
        "period": Fraction(1),
        "span": Fraction(1),
        "preprocess": Words(tokenizer="tokenizer.json"),
    }
    return Encoder.model_validate(declared | changes)


def vector(number: float) -> NDArray[np.float32]:
    return np.full(FEATURE, number, np.float32)


def track_of(*words: tuple[float, float], **changes: object) -> WordTrack:
    """Words by start and end in seconds, numbered from 1."""
    track = WordTrack(encoder(**changes))
    for number, (start, end) in enumerate(words, 1):
        track.push(round(start * NS), round(end * NS), vector(number))
    return track


def number_of(said: Said) -> float | None:
    return None if said.vector is None else float(said.vector[0])


TENTHS = st.integers(0, 120)
WORDS = st.tuples(TENTHS, TENTHS).map(lambda pair: (min(pair), max(pair)))


@given(events=st.lists(st.one_of(WORDS, st.just("take")), max_size=40))
@settings(max_examples=200)
def test_a_step_holds_the_first_known_word_of_its_start_and_no_other(
    events: list[tuple[int, int] | str],
) -> None:
    """Whatever comes in whatever order, in tenths of a second."""
    track, known, step, n_late = WordTrack(encoder()), list[tuple[int, int]](), 0, 0
    for event in events:
        if isinstance(event, tuple):
            start, end = event
            was_over = step > 0 and end <= (step - 1) * 10
            was_missed = step > 0 and start < (step - 1) * 10 <= end
            n_late += was_over or was_missed
            known.append(event)
            track.push(start * NS // 10, end * NS // 10, vector(len(known)))
            continue
        expected = next((n for n, (a, b) in enumerate(known, 1) if a < step * 10 <= b), None)
        said = track.take(step)
        assert number_of(said) == expected
        assert said.newest_ns == (max(end for _, end in known) * NS // 10 if known else None)
        step += 1
    assert track.n_late == n_late
    assert len(track._words) <= len(known)


@given(times=st.sets(TENTHS, max_size=30), shuffle=st.randoms())
def test_where_no_two_words_overlap_the_order_of_their_coming_changes_nothing(
    times: set[int], shuffle: Random
) -> None:
    words = list(enumerate(itertools.pairwise(sorted(times)), 1))
    in_order, in_disorder = WordTrack(encoder()), WordTrack(encoder())
    for track, said in ((in_order, words), (in_disorder, shuffle.sample(words, len(words)))):
        for number, (start, end) in said:
            track.push(start * NS // 10, end * NS // 10, vector(number))
    for step in range(14):
        assert number_of(in_order.take(step)) == number_of(in_disorder.take(step))


@pytest.mark.parametrize(
    ("start", "end", "is_said"),
    [(0.0, 0.9, False), (0.5, 1.0, True), (1.0, 1.5, False), (0.999, 1.001, True), (1.0, 1.0, False)],
)
def test_a_word_stands_in_steps_after_its_start_up_to_its_end(
    start: float, end: float, is_said: bool
) -> None:
    assert number_of(track_of((start, end)).take(1)) == (1.0 if is_said else None)


def test_a_long_word_stands_in_each_of_its_steps() -> None:
    track = track_of((0.5, 3.2))
    assert [number_of(track.take(step)) for step in range(5)] == [None, 1, 1, 1, None]


def test_of_two_words_the_first_to_come_counts() -> None:
    track = track_of((0.8, 1.5), (0.2, 2.5))
    assert [number_of(track.take(step)) for step in (1, 2)] == [1, 2]


def test_a_late_word_is_counted_and_serves_the_steps_that_are_left() -> None:
    track = track_of()
    assert [number_of(track.take(step)) for step in range(3)] == [None] * 3
    track.push(NS // 2, 3 * NS, vector(7))
    assert track.n_late == 1
    assert number_of(track.take(3)) == 7
    track.push(0, NS, vector(8))
    assert track.n_late == 2


def test_a_word_that_comes_in_time_is_not_late() -> None:
    track = track_of()
    track.take(0)
    for start, end in ((0.0, 0.5), (0.5, 1.5), (1.0, 2.0)):
        track.push(round(start * NS), round(end * NS), vector(1))
    assert track.n_late == 0


# -- when a step has all its words -----------------------------------------------------------------


def test_a_step_is_complete_once_a_later_word_is_known() -> None:
    track = track_of((0.1, 1.9))
    assert [track.is_complete(step, 0) for step in range(3)] == [True, True, False]


@pytest.mark.parametrize("offset", [Fraction(0), Fraction(3), Fraction(1, 2)])
def test_without_words_a_step_waits_for_the_other_streams_to_pass_it(offset: Fraction) -> None:
    track = track_of(offset=offset)
    due_ns = 3 * NS + int(offset * NS)
    assert not track.is_complete(2, due_ns - 1)
    assert track.is_complete(2, due_ns)


# -- memory ----------------------------------------------------------------------------------------


def test_what_was_said_is_forgotten() -> None:
    track = track_of()
    for step in range(300):
        track.push(step * NS, step * NS + NS // 2, vector(step))
        track.take(step)
    assert len(track._words) <= 1


def test_a_word_of_the_far_future_waits_and_holds_nothing_back() -> None:
    track = track_of((1_000.5, 1_001.0), (0.5, 1.0))
    assert [number_of(track.take(step)) for step in (0, 1, 2, 1_000, 1_001)] == [None, 2, None, None, 1]


def test_of_a_track_that_is_never_taken_the_oldest_words_go_and_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(words_module, "MAX_HELD_WORDS", 5)
    track = track_of(*((second + 0.5, second + 1.0) for second in range(12)))
    assert len(track._words) == 5
    assert track.n_late == 7
    assert [number_of(track.take(step)) for step in range(13)] == [None] * 8 + [8, 9, 10, 11, 12]


def test_so_many_words_as_an_utterance_may_have_can_wait() -> None:
    from edge_mer.sources.transcript_line import MAX_WORDS

    assert words_module.MAX_HELD_WORDS >= MAX_WORDS


# -- among other streams ---------------------------------------------------------------------------


def windower(*others: Encoder, text: Encoder | None = None, with_text: bool = True) -> StepWindower:
    fusion = tiny_model(warm_up="withhold").fusion
    encoders = (*others, text or encoder())
    inputs = tuple(fusion.inputs[0].model_copy(update={"name": f"in{i}"}) for i in range(len(encoders)))
    model = tiny_model(
        warm_up="withhold",
        step=Fraction(1),
        encoders=encoders,
        fusion=fusion.model_copy(update={"inputs": inputs}),
    )
    present = {one.modality for one in others} | ({"text"} if with_text else set())
    return StepWindower(model, frozenset(present))


def taken(windower: StepWindower) -> list[int]:
    steps = []
    while (step := windower.take()) is not None:
        steps.append(step.index)
    return steps


VOICE = audio_encoder(period=Fraction(1), span=Fraction(1))
FACE = visual_encoder(period=Fraction(1), span=Fraction(1))


def test_words_wait_for_the_voice_and_the_voice_for_words() -> None:
    room = windower(VOICE, text=encoder(offset=Fraction(1)))
    room.track("text").push(0, 5 * NS, vector(1))
    assert taken(room) == []
    room.ring("audio").append(np.zeros(3 * 8_000, np.float32))
    assert taken(room) == [0, 1, 2]
    silent = windower(VOICE, text=encoder(offset=Fraction(1)))
    silent.ring("audio").append(np.zeros(3 * 8_000, np.float32))
    assert taken(silent) == [0, 1]


def test_a_transcript_that_goes_on_makes_no_steps() -> None:
    room = windower(VOICE)
    room.ring("audio").append(np.zeros(2 * 8_000, np.float32))
    assert taken(room) == [0, 1]
    for second in range(2, 50):
        room.track("text").push(second * NS, (second + 1) * NS, vector(second))
        assert taken(room) == []
    for modality in ("audio", "text"):
        room.close(modality)  # type: ignore[arg-type]
    assert taken(room) == []
    assert room.n_dropped_tail(2 * NS) == 0


def test_words_alone_make_the_steps_up_to_the_last_of_them() -> None:
    room = windower()
    room.track("text").push(NS // 2, 3 * NS, vector(1))
    assert taken(room) == [0, 1, 2, 3]
    room.close("text")
    assert taken(room) == []


def test_a_camera_that_stalls_is_given_up_whatever_is_said() -> None:
    room = windower(FACE, VOICE)
    room.track("text").push(0, 100 * NS, vector(1))
    room.ring("audio").append(np.zeros(4 * 8_000, np.float32))
    assert taken(room) == list(range((4 * NS - MAX_WAIT_NS) // NS))


def test_late_words_count_among_what_came_late() -> None:
    room = windower(VOICE)
    room.ring("audio").append(np.zeros(2 * 8_000, np.float32))
    assert taken(room) == [0, 1]
    room.track("text").push(NS // 2, NS, vector(1))
    assert room.n_late == 1
