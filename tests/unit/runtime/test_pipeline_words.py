"""Pipeline with words: what is said becomes features of the steps in which it is said."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.clock import ManualClock
from edge_mer.runtime.offline import encode, played_features, presence
from edge_mer.runtime.pipeline import Pipeline
from tests.helpers.tiny_model import STEP
from tests.helpers.tiny_words import (
    WordySession,
    emotion_setup,
    feature_of,
    play,
    text_encoder,
    utterance,
    wordy_model,
)

pytest.importorskip("tokenizers", reason="needs the tokenizers library")

SILENCE = feature_of(None)
PATIENT = text_encoder(offset=4 * STEP)  # words may come so late
GREETING = utterance(("so", 0.5, 1.4), ("safe", 1.6, 3.2), ("mo", 3.3, 3.6))
# in "[CLS] so sa ##fe mo [SEP]": token, place, length
SO, SAFE = np.array([3, 1, 6], np.float32), np.array([5.5, 2.5, 6], np.float32)


def session(*utterances: Any, n_steps: int = 10, **changes: Any) -> WordySession:
    return WordySession(n_steps, utterances=utterances, **({"streams": ("audio",)} | changes))


def expected(words: dict[int, NDArray[np.float32]], n_steps: int = 10) -> NDArray[np.float32]:
    return np.stack([feature_of(words.get(step)) for step in range(n_steps)])


# -- what stands where -----------------------------------------------------------------------------


def test_a_word_stands_in_the_steps_in_which_it_is_said() -> None:
    played = play(session(GREETING), wordy_model(PATIENT))
    np.testing.assert_allclose(played.features("text"), expected({1: SO, 2: SAFE, 3: SAFE}), rtol=1e-6)
    assert played.status == ["withheld"] * 3 + ["ok"] * 7
    assert [p.window_index for p in played.predictions] == list(range(10))


def test_an_utterance_is_encoded_once_and_as_a_whole() -> None:
    played = play(session(GREETING, utterance(("ha", 5.5, 6.5), seq=1)), wordy_model(PATIENT))
    assert played.runs("text") == 2
    spoken = [one for trace in played.traces for one in trace.spoken.get("text", ())]
    assert [one.utterance.ids.tolist() for one in spoken] == [[[1, 3, 5, 6, 4, 2]], [[1, 9, 2]]]
    times = [
        (round(a / 1e9 / float(STEP), 3), round(b / 1e9 / float(STEP), 3)) for a, b in spoken[0].times_ns
    ]
    assert times == [(0.5, 1.4), (1.6, 3.2), (3.3, 3.6)]


def test_a_long_utterance_is_encoded_in_parts() -> None:
    words = tuple(("safe", 0.5 * i, 0.5 * i + 0.4) for i in range(7))
    played = play(session(utterance(*words)), wordy_model(PATIENT))
    assert played.runs("text") == 3
    tracked = [w for t in played.traces for one in t.spoken.get("text", ()) for w in one.times_ns.tolist()]
    assert tracked == [[int(row[1]), int(row[2])] for row in utterance(*words).data]


def test_an_empty_utterance_says_nothing() -> None:
    played = play(session(utterance(at=2.0), utterance(("", 2.5, 3.5), seq=1)), wordy_model(PATIENT))
    np.testing.assert_array_equal(played.features("text"), expected({}))
    assert played.runs("text") == 1


def test_a_word_in_the_trace_is_the_feature_itself() -> None:
    for trace in play(session(GREETING), wordy_model(PATIENT)).traces:
        np.testing.assert_array_equal(trace.inputs["text"], trace.features["text"][:, -1])


ENDS = st.lists(st.integers(1, 30), max_size=8)


@settings(max_examples=25, deadline=None)
@given(ends=ENDS, delay=st.integers(0, 9), offset=st.integers(0, 3))
def test_streaming_is_offline_also_for_words_that_come_late(ends: list[int], delay: int, offset: int) -> None:
    """Each word lasts up to the third of a step's tenth; some come after their steps were taken."""
    said = tuple(
        utterance(
            (("so", "safe", "mo")[i % 3], end / 3 - 0.3, end / 3 + 0.5), seq=i, at=(end + delay % 7) / 3
        )
        for i, end in enumerate(sorted(ends))
    )
    model = wordy_model(text_encoder(offset=offset * STEP), warm_up="mask")
    played = play(session(*said), model)
    offline = encode(model, played.setup.engines, played.traces)
    for stage, rows in played_features(model, played.traces).items():
        np.testing.assert_allclose(rows, offline[stage], rtol=0, atol=1e-5)
    for stage in ("audio", "text"):
        np.testing.assert_allclose(played.features(stage), offline[stage], rtol=1e-6)
        assert presence(model, played.traces)[stage].all()
    assert len(played.predictions) == 10


# -- what is missing -------------------------------------------------------------------------------


def test_silence_is_nothing_that_is_missing() -> None:
    played = play(session(), wordy_model())
    assert played.status == ["withheld"] * 3 + ["ok"] * 7
    np.testing.assert_array_equal(played.features("text"), expected({}))
    status = played.predictions[-1].modalities["text"]
    assert (status.present, status.coverage, status.age_ms) == (True, 1.0, None)
    assert played.runs("text") == 0


def test_the_age_of_words_is_that_of_the_last_one_that_ended() -> None:
    last = play(session(GREETING), wordy_model(PATIENT)).predictions[-1]
    age_ms = (10 - 3.6) * float(STEP) * 1000
    assert last.modalities["text"].age_ms == pytest.approx(age_ms, abs=0.01)


def test_without_a_transcript_a_model_of_words_says_nothing() -> None:
    played = play(session(has_transcript=False), wordy_model())
    assert set(played.status) == {"withheld"}
    assert set(played.reasons) == {("text_missing",)}
    assert not played.predictions[0].modalities["text"].present


@pytest.mark.parametrize("policy", ["zero_feature", "blank_input"])
def test_a_policy_stands_in_for_a_transcript(policy: Any) -> None:
    played = play(session(has_transcript=False), wordy_model(text_encoder(missing=policy)))
    assert played.status == ["withheld"] * 3 + ["degraded"] * 7
    assert set(played.reasons[3:]) == {("text_missing",)}
    right = np.zeros_like(SILENCE) if policy == "zero_feature" else SILENCE
    np.testing.assert_array_equal(played.features("text"), np.tile(right, (10, 1)))
    assert played.runs("text") == 0


def test_a_mask_leaves_out_what_has_no_transcript() -> None:
    played = play(session(has_transcript=False), wordy_model(text_encoder(missing="mask"), warm_up="mask"))
    assert set(played.status) == {"degraded"}
    assert [trace.present[:, -1].tolist() for trace in played.traces] == [[True, False]] * 10


# -- early, late, too long -------------------------------------------------------------------------


def test_words_that_come_after_their_step_are_counted_and_change_nothing_before() -> None:
    late = utterance(("so", 1.5, 2.5), ("mo", 2.6, 8.5), at=6.5)
    played = play(session(late), wordy_model())
    assert played.pipeline.counters.n_late == 2
    text = played.features("text")
    held = (text != SILENCE).any(axis=1)
    assert held.tolist() == [False] * 6 + [True] * 3 + [False]
    assert len(played.predictions) == 10


def test_a_transcript_that_ends_early_leaves_silence() -> None:
    played = play(session(utterance(("so", 0.5, 1.5))), wordy_model())
    assert len(played.predictions) == 10
    assert played.status[3:] == ["ok"] * 7
    np.testing.assert_array_equal(played.features("text")[2:], expected({})[2:])


@pytest.mark.parametrize("end", [10.5, 30.0, 1e6])
@pytest.mark.parametrize("text", [text_encoder(), PATIENT], ids=["prompt", "patient"])
def test_a_transcript_that_goes_on_makes_no_steps(text: Any, end: float) -> None:
    after = [utterance(("mo", end - 0.5 + i, end + i), seq=1 + i) for i in range(3)]
    with_more = play(session(GREETING, *after), wordy_model(text))
    without = play(session(GREETING), wordy_model(text))
    assert [p.emotion for p in with_more.predictions] == [p.emotion for p in without.predictions]
    assert with_more.pipeline.counters.n_steps == 10
    assert with_more.pipeline.counters.n_dropped_tail == 0


def test_a_word_that_begins_in_the_last_step_and_ends_after_it() -> None:
    played = play(session(utterance(("so", 8.5, 12.0))), wordy_model(PATIENT))
    assert len(played.predictions) == 10
    assert (played.features("text")[9] != SILENCE).all()


def test_words_alone_are_no_reason_to_say_anything() -> None:
    """No microphone: each step up to the last word, and nothing of it is told."""
    played = play(session(GREETING, streams=()), wordy_model())
    assert played.status == ["withheld"] * 4
    assert set(played.reasons) == {("audio_missing",)}


def test_a_session_that_nobody_traces_keeps_no_utterances() -> None:
    setup = emotion_setup(wordy_model())
    held = session(*(utterance(("so", i + 0.1, i + 0.4), seq=i) for i in range(9)))
    pipeline = Pipeline(setup, held.specs, ManualClock())
    for chunk in held.chunks():
        pipeline.push(chunk)
    pipeline.finish()
    assert setup.engines["text"].n_runs == 9
    assert pipeline._spoken == {}
    assert len(pipeline._windower.track("text")._words) <= 1


# -- times -----------------------------------------------------------------------------------------


def test_encoding_words_is_part_of_the_work_but_not_of_the_delay() -> None:
    clock = ManualClock()
    setup = emotion_setup(wordy_model(PATIENT))
    text = setup.engines["text"]
    run = text.run

    def slow(feed: Any) -> Any:
        clock.advance_ns(7_000_000)
        return run(feed)

    text.run = slow  # type: ignore[method-assign]
    held = session(GREETING)
    pipeline = Pipeline(setup, held.specs, clock)
    predictions = [p for chunk in held.chunks() for p in pipeline.push(chunk)] + pipeline.finish()
    infer = [prediction.latency_ms.infer for prediction in predictions]
    assert sorted(infer) == [0.0] * 9 + [7.0]
    assert {prediction.latency_ms.end_to_end for prediction in predictions} == {0.0}


def test_how_late_a_word_may_come_is_told_as_latency() -> None:
    assert wordy_model(PATIENT).latency == 4 * STEP
    assert wordy_model(text_encoder(offset=Fraction(0))).latency == 0
