"""Pipeline: features for several steps, hops, padded windows, scenes, emotions."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from edge_mer.clock import ManualClock
from edge_mer.errors import UsageError
from edge_mer.preprocess.vggish_audio import vggish_log_mel
from edge_mer.runtime.blank import blank_feature, blank_tensor
from edge_mer.runtime.offline import (
    all_present,
    blank_features,
    encode,
    engine_fusion,
    offline_outputs,
    played_features,
    presence,
    window_sizes,
)
from edge_mer.runtime.pipeline import Counters, Pipeline
from edge_mer.types.model import Encoder, TensorSpec, VggishLogMel
from tests.helpers.independent import log_mel_reference
from tests.helpers.numpy_engines import tiny_engines
from tests.helpers.tiny_model import (
    FEATURE,
    N_STEPS,
    RATE_HZ,
    STEP,
    audio_encoder,
    tiny_log_mel,
    tiny_model,
    visual_encoder,
)
from tests.helpers.tiny_session import AUDIO, VISUAL, SquareDetector, TinySession, frame_of
from tests.helpers.tiny_words import (
    LABELS,
    Played,
    emotion_engines,
    emotion_model,
    emotion_setup,
    play,
    running_means,
    scene_encoder,
)

MS = 1_000_000


def repeating(repeat: int = 2, hop: int = 2, warm_up: Any = "withhold", **audio: Any) -> Any:
    """A voice whose features serve several steps."""
    period = repeat * STEP
    encoders = (scene_encoder(), audio_encoder(period=period, span=period, repeat=repeat, **audio))
    return emotion_model(*encoders, warm_up=warm_up, hop=hop)


# -- one feature for several steps -----------------------------------------------------------------


def test_a_feature_serves_its_steps_and_is_made_once() -> None:
    played = play(TinySession(12), repeating(3, 3))
    assert (played.runs("audio"), played.runs("visual")) == (4, 12)
    voice = played.features("audio")
    for first in range(0, 12, 3):
        np.testing.assert_array_equal(voice[first : first + 3], np.tile(voice[first], (3, 1)))
    assert len(np.unique(voice[:, 0])) == 4


def test_the_piece_ends_with_the_last_of_its_steps() -> None:
    session = TinySession(8)
    for trace in play(session, repeating()).traces:
        stop = int((trace.index // 2 * 2 + 2) * STEP * RATE_HZ)
        piece = session.sound[stop - int(2 * STEP * RATE_HZ) : stop]
        expected = log_mel_reference(piece, tiny_log_mel())
        np.testing.assert_allclose(trace.inputs["audio"][0], expected, atol=1e-4)


@pytest.mark.parametrize("policy", ["zero_feature", "blank_input", "hold"])
def test_what_stands_in_for_an_absent_piece_stands_in_all_of_its_steps(policy: Any) -> None:
    """Pieces 3 and 5 of six."""
    session = TinySession(12, silent={4, 5, 8, 9})
    played = play(session, repeating(missing=policy, hold_max_age=2 * STEP))
    assert played.status == ["withheld", "ok", *["degraded"] * 4]
    assert played.reasons[2:] == [(f"audio_{what}",) for what in ("missing", "gap", "missing", "gap")]
    voice = played.features("audio")
    right = {
        "zero_feature": np.zeros(FEATURE),
        "blank_input": voice[4],
        "hold": voice[3],
    }[policy]
    np.testing.assert_array_equal(voice[4:6], [right] * 2)
    assert played.runs("audio") == 4 + (policy == "blank_input")
    for step in (4, 5, 8, 9):
        assert "audio" not in played.traces[step].inputs


@pytest.mark.parametrize("max_age", [1, 2, 3, 4])
def test_a_held_feature_gets_too_old_within_a_piece(max_age: int) -> None:
    session = TinySession(12, silent=set(range(4, 12)))
    played = play(session, repeating(missing="hold", hold_max_age=max_age * STEP))
    held = (played.features("audio")[4:] != 0).any(axis=1)
    assert held.tolist() == [True] * max_age + [False] * (8 - max_age)
    last_of_hops = [4 + max_age > step for step in (5, 7, 9, 11)]
    assert played.status[2:] == ["degraded" if is_held else "withheld" for is_held in last_of_hops]


def test_an_absent_piece_without_a_policy_is_withheld() -> None:
    played = play(TinySession(12, silent={4, 5}), repeating())
    assert played.status == ["withheld", "ok", "withheld", "withheld", "ok", "ok"]
    assert played.reasons[2:4] == [("audio_missing",), ("window_has_gaps",)]


# -- hops ------------------------------------------------------------------------------------------


class Slow:
    """Engines that take 1 ms, the fusion 2 ms."""

    def __init__(self, model: Any) -> None:
        self.clock = ManualClock()
        self.setup = emotion_setup(model, engines=emotion_engines(model, self._fusion))
        for encoder in model.encoders:
            engine = self.setup.engines[encoder.stage]
            engine._function = self._slow(engine._function)  # type: ignore[attr-defined]

    def _slow(self, function: Any) -> Any:
        def run(*inputs: Any) -> Any:
            self.clock.advance_ns(MS)
            return function(*inputs)

        return run

    def _fusion(self, *windows: Any) -> Any:
        self.clock.advance_ns(2 * MS)
        return running_means(*windows)


def test_the_work_of_a_hop_is_summed_and_its_delay_is_that_of_its_last_step() -> None:
    slow = Slow(emotion_model(hop=3, warm_up="shorten"))
    session = TinySession(9)
    pipeline = Pipeline(slow.setup, session.specs, slow.clock)
    predictions = [p for chunk in session.chunks() for p in pipeline.push(chunk)] + pipeline.finish()
    assert [p.window_index for p in predictions] == [0, 1, 2]
    for prediction in predictions:
        latency = prediction.latency_ms
        assert latency.infer == pytest.approx(3 * 2 + 2)
        assert latency.end_to_end == pytest.approx(2 + 2)
        assert (latency.capture, latency.wait, latency.preprocess) == (None, None, 0.0)


def test_in_a_live_hop_the_wait_is_that_of_its_last_step() -> None:
    slow = Slow(emotion_model(hop=3, warm_up="shorten"))
    session = TinySession(6)
    pipeline = Pipeline(slow.setup, session.specs, slow.clock, start_ns=0)
    predictions = []
    for chunk in session.chunks():
        slow.clock.sleep_until_ns(chunk.t_ns + 50 * MS)
        predictions += pipeline.push(chunk)
    assert len(predictions) == 2
    for prediction in predictions:
        latency = prediction.latency_ms
        assert latency.capture == pytest.approx(50, abs=5)
        assert latency.wait is not None
        assert 15 <= latency.wait <= 50
        assert latency.infer == pytest.approx(8)
        assert latency.end_to_end == pytest.approx(latency.wait + 4)


def test_steps_are_counted_and_not_hops() -> None:
    session = TinySession(10)
    chunks = [chunk for chunk in session.chunks() if chunk.t_ns < int(Fraction(95, 10) * STEP * 1_000 * MS)]
    pipeline = Pipeline(emotion_setup(emotion_model(hop=4)), session.specs, ManualClock())
    predictions = [p for chunk in chunks for p in pipeline.push(chunk)] + pipeline.finish()
    assert [p.status for p in predictions] == ["ok", "ok"]
    assert pipeline.counters == Counters(n_steps=9, n_dropped_tail=1)


def test_the_first_window_of_a_long_hop_is_full() -> None:
    played = play(TinySession(12), emotion_model(hop=6))
    assert played.status == ["ok", "ok"]
    assert [trace.n_used for trace in played.traces] == [0] * 5 + [4] + [0] * 5 + [4]
    assert [bool(trace.raw) for trace in played.traces] == [trace.n_used > 0 for trace in played.traces]


@pytest.mark.parametrize(("hop", "n"), [(1, 12), (2, 6), (5, 2)])
def test_the_user_may_choose_another_hop(hop: int, n: int) -> None:
    often = play(TinySession(12), emotion_model())
    played = play(TinySession(12), emotion_model(hop=3), hop=hop)
    assert len(played.predictions) == n
    same = often.predictions[hop - 1 :: hop]
    assert [p.emotion for p in played.predictions] == [p.emotion for p in same]
    assert [p.t_start_ns for p in played.predictions] == [p.t_start_ns for p in same]


@pytest.mark.parametrize("hop", [0, -1, 3])
def test_a_hop_that_cannot_be_is_refused(hop: int) -> None:
    with pytest.raises(UsageError, match=f"cannot predict every {hop} steps"):
        dataclasses.replace(emotion_setup(repeating(2, 4)), hop=hop)


@pytest.mark.parametrize(("hop", "at", "told"), [(3, 5, [1]), (3, 3, [1]), (4, 7, [1]), (6, 5, [0])])
def test_a_switch_within_a_hop_is_told_at_its_end(hop: int, at: int, told: list[int]) -> None:
    model = emotion_model(visual_encoder(), audio_encoder(), warm_up="shorten", hop=hop)
    played = play(TinySession(12, persons={0: 0, at: 1}), model)
    assert [i for i, reasons in enumerate(played.reasons) if "face_switched" in reasons] == told


def test_a_switch_that_has_left_the_window_by_the_end_of_its_hop_is_told_all_the_same() -> None:
    model = emotion_model(visual_encoder(), audio_encoder(), warm_up="shorten", hop=6)
    played = play(TinySession(12, persons={0: 0, 7: 1}), model)
    assert played.status == ["ok", "degraded"]
    assert played.reasons[1] == ("face_switched",)
    assert played.traces[11].n_used == 4


def test_a_switch_in_a_hop_that_is_withheld_is_told() -> None:
    model = emotion_model(visual_encoder(), audio_encoder(), hop=3)
    played = play(TinySession(9, persons={0: 0, 4: 1}), model)
    assert played.status == ["withheld", "withheld", "ok"]
    assert "face_switched" in played.reasons[1]
    assert "face_switched" not in played.reasons[2]


def test_a_feature_is_not_held_when_another_person_was_seen_too_shortly_to_count() -> None:
    """Step 3 shows the second person in one of four frames, which is no step and yet a switch."""
    session, clips = TinySession(5), []
    for chunk in session.chunks():
        is_third = chunk.modality == "visual" and 24 <= chunk.seq < 32
        seen = frame_of(1) if chunk.seq >= 30 else frame_of(None)
        clips.append(dataclasses.replace(chunk, data=seen) if is_third else chunk)
    model = tiny_model(visual="hold", hold_max_age=3 * STEP)
    setup = emotion_setup(model, engines=tiny_engines(model))
    traces: list[Any] = []
    pipeline = Pipeline(setup, session.specs, ManualClock(), on_step=traces.append)
    predictions = [p for chunk in clips for p in pipeline.push(chunk)] + pipeline.finish()
    assert not traces[3].features["visual"].any()
    assert predictions[3].status == "withheld"
    assert predictions[3].reasons == ("visual_missing", "face_switched")


# -- windows that are padded -----------------------------------------------------------------------


class Listening:
    """A fusion that remembers what it was given."""

    def __init__(self) -> None:
        self.windows: list[tuple[NDArray[Any], ...]] = []

    def __call__(self, *windows: NDArray[Any]) -> Any:
        self.windows.append(tuple(window.copy() for window in windows))
        return running_means(*windows)


PADDED = emotion_model(warm_up="pad")
BLACK = -0.4 / 0.2


def blanks() -> dict[str, NDArray[np.float32]]:
    silence = log_mel_reference(np.zeros(2_133), tiny_log_mel())
    voice = np.array([silence.mean(), silence.min(), silence.max()], np.float32)
    return {"visual": np.full(FEATURE, BLACK, np.float32), "audio": voice}


def check_padding(played: Played, listening: Listening, n_used: list[int]) -> None:
    assert [trace.n_used for trace in played.traces] == n_used
    ran = [trace for trace in played.traces if trace.n_used]
    for trace, windows in zip(ran, listening.windows, strict=True):
        n = trace.n_used
        for (stage, blank), window in zip(blanks().items(), windows, strict=True):
            newest = played.features(stage)[trace.index + 1 - n : trace.index + 1]
            np.testing.assert_array_equal(window[0, :n], newest)
            np.testing.assert_allclose(window[0, n:], np.tile(blank, (N_STEPS - n, 1)), rtol=1e-5)
        valence, emotion = running_means(*windows)
        assert trace.raw["valence"] == pytest.approx(float(valence[0, n - 1]))
        np.testing.assert_allclose(trace.raw["emotion"], emotion[0])


def test_before_the_window_is_full_nothing_stands_behind_what_is_there() -> None:
    listening = Listening()
    played = play(TinySession(7), PADDED, fusion=listening)
    check_padding(played, listening, [1, 2, 3, 4, 4, 4, 4])
    assert played.status == ["degraded"] * 3 + ["ok"] * 4
    assert played.reasons[:3] == [("warming_up",)] * 3


def test_after_a_gap_the_window_is_padded_anew() -> None:
    listening = Listening()
    played = play(TinySession(11, silent={5}), PADDED, fusion=listening)
    check_padding(played, listening, [1, 2, 3, 4, 4, 0, 1, 2, 3, 4, 4])
    assert played.status[3:] == ["ok", "ok", "withheld", *["degraded"] * 3, "ok", "ok"]
    assert played.reasons[6:9] == [("audio_gap",)] * 3


def test_a_blank_is_encoded_once_a_session() -> None:
    played = play(TinySession(11, silent={5}), PADDED)
    assert (played.runs("visual"), played.runs("audio")) == (11 + 1, 10 + 1)
    both = emotion_model(scene_encoder(), audio_encoder(missing="blank_input"), warm_up="pad")
    filled = play(TinySession(11, silent={5, 7}), both)
    assert (filled.runs("visual"), filled.runs("audio")) == (11 + 1, 9 + 1)
    again = Pipeline(played.setup, [VISUAL, AUDIO], ManualClock())
    for chunk in TinySession(1).chunks():
        again.push(chunk)
    again.finish()
    assert played.runs("visual") == 12 + 2


def test_a_blank_does_not_get_into_what_a_step_is_said_to_have_held() -> None:
    padded, full = play(TinySession(5), PADDED), play(TinySession(5), emotion_model())
    for one, other in zip(padded.traces, full.traces, strict=True):
        for stage in ("visual", "audio"):
            np.testing.assert_array_equal(one.inputs[stage], other.inputs[stage])


@pytest.mark.parametrize("warm_up", ["pad", "shorten", "withhold", "mask"])
@pytest.mark.parametrize("hop", [1, 3])
def test_streaming_is_offline(warm_up: Any, hop: int) -> None:
    missing = "mask" if warm_up == "mask" else None
    encoders = (scene_encoder(missing=missing), audio_encoder(missing=missing))
    model = emotion_model(*encoders, warm_up=warm_up, hop=hop)
    played = play(TinySession(12, silent={6}, frameless={8}), model)
    engines, there = played.setup.engines, presence(model, played.traces)
    features = encode(model, engines, played.traces)
    for stage, rows in played_features(model, played.traces).items():
        np.testing.assert_allclose(rows, features[stage], rtol=0, atol=1e-5)
    outputs = offline_outputs(
        model, features, there, engine_fusion(model, engines["fusion"]), blank_features(model, engines)
    )
    assert window_sizes(model, there) == [trace.n_used for trace in played.traces]
    for name in ("valence", "emotion"):
        shape = () if name == "valence" else (3,)
        streamed = np.array([trace.raw.get(name, np.full(shape, np.nan)) for trace in played.traces])
        np.testing.assert_allclose(outputs[name], streamed, rtol=1e-6)
        assert np.isfinite(streamed).any()


def test_where_nothing_is_missing_every_window_has_its_size() -> None:
    features = {"visual": np.zeros((6, FEATURE)), "audio": np.zeros((6, FEATURE))}
    for warm_up, sizes in {
        "pad": [1, 2, 3, 4, 4, 4],
        "shorten": [1, 2, 3, 4, 4, 4],
        "withhold": [0, 0, 0, 4, 4, 4],
        "mask": [4] * 6,
    }.items():
        assert window_sizes(emotion_model(warm_up=warm_up), all_present(features)) == sizes
        seldom = emotion_model(warm_up=warm_up, hop=2)
        assert window_sizes(seldom, all_present(features)) == [0, sizes[1], 0, sizes[3], 0, sizes[5]]


def test_models_that_are_not_padded_need_no_blanks() -> None:
    model = emotion_model(warm_up="shorten")
    assert blank_features(model, emotion_engines(model)) is None


def test_nothing_is_black_and_silent() -> None:
    scene, face, voice = scene_encoder(), visual_encoder(), audio_encoder()
    np.testing.assert_allclose(blank_tensor(scene), np.full((1, 3, 2, 6, 8), BLACK), rtol=1e-6)
    np.testing.assert_allclose(blank_tensor(face), np.full((1, 3, 4, 8, 8), BLACK), rtol=1e-6)
    expected = log_mel_reference(np.zeros(2_133), tiny_log_mel())
    np.testing.assert_allclose(blank_tensor(voice)[0], expected, atol=1e-5)
    model = emotion_model(scene, voice)
    found = blank_feature(scene, emotion_engines(model)["visual"])
    np.testing.assert_allclose(found, [BLACK] * 3, rtol=1e-6)


# -- sound as VGGish hears it ----------------------------------------------------------------------

VGGISH = VggishLogMel(
    rate_hz=8_000,
    n_fft=256,
    win_samples=200,
    hop_samples=80,
    n_mels=6,
    f_min_hz=100.0,
    f_max_hz=3_900.0,
    width=20,
)


def vggish_encoder(**changes: Any) -> Encoder:
    span = Fraction(VGGISH.n_samples, VGGISH.rate_hz)
    shape = TensorSpec(name="x", axes=("batch", "column", "mel"), shape=("batch", 20, 6))
    return audio_encoder(**({"preprocess": VGGISH, "input": shape, "span": span} | changes))


def test_sound_becomes_columns_on_one_grid() -> None:
    session = TinySession(6, streams=("audio",))
    encoder = vggish_encoder()
    played = play(session, emotion_model(encoder))
    for trace in played.traces:
        end = STEP * (trace.index + 1)
        start = round((end - encoder.span) * 100) * 80
        expected = np.zeros((20, 6), np.float32)
        vggish_log_mel(session.sound[start : start + VGGISH.n_samples], VGGISH, expected)
        np.testing.assert_allclose(trace.inputs["audio"][0], expected, atol=1e-5)
    assert played.status == ["withheld"] * 3 + ["ok"] * 3


def test_a_window_of_vggish_is_padded_with_what_it_makes_of_zeros() -> None:
    listening = Listening()
    play(TinySession(2, streams=("audio",)), emotion_model(vggish_encoder(), warm_up="pad"), fusion=listening)
    (window,) = listening.windows[0]
    np.testing.assert_array_equal(window[0, 1:], np.zeros((3, FEATURE)))
    assert window[0, 0].any()


# -- scenes ----------------------------------------------------------------------------------------


def test_a_model_of_scenes_needs_no_face_detector() -> None:
    played = play(TinySession(5, faceless={3}), emotion_model(), detector=None)
    assert played.status[3:] == ["ok", "ok"]
    assert played.predictions[4].modalities["visual"].coverage == 1.0


@pytest.mark.parametrize("n_frames", [1, 2])
def test_a_step_holds_the_frames_of_its_time_whole(n_frames: int) -> None:
    """The picture is 60 by 80, so that a pixel of 6 by 8 is the mean of 10 by 10."""
    played = play(TinySession(4), emotion_model(scene_encoder(n_frames), audio_encoder()))
    axes = (n_frames,) if n_frames > 1 else ()
    for trace in played.traces:
        tensor = trace.inputs["visual"]
        assert tensor.shape == (1, 3, *axes, 6, 8)
        picture = frame_of(0, shade=5 * (trace.index % 5))
        small = picture.reshape(6, 10, 8, 10, 3).mean(axis=(1, 3))
        expected = (np.moveaxis(small, 2, 0) / 255 - 0.4) / 0.2
        for frame in tensor.reshape(3, n_frames, 6, 8).swapaxes(0, 1):
            np.testing.assert_allclose(frame, expected, atol=1e-5)


def test_a_missing_frame_is_black_and_half_of_them_are_enough() -> None:
    session = TinySession(4)
    chunks = [c for c in session.chunks() if c.modality == "audio" or not 26 <= c.seq < 29]
    traces: list[Any] = []
    setup = emotion_setup(emotion_model(), detector=None)
    pipeline = Pipeline(setup, session.specs, ManualClock(), on_step=traces.append)
    predictions = [p for chunk in chunks for p in pipeline.push(chunk)] + pipeline.finish()
    assert predictions[3].modalities["visual"].coverage == 0.5
    np.testing.assert_allclose(traces[3].inputs["visual"][0, :, 0], BLACK, rtol=1e-6)
    assert predictions[3].status == "ok"


def test_a_scene_without_frames_is_missing() -> None:
    played = play(TinySession(7, frameless={4, 5}), emotion_model())
    assert played.reasons[4] == ("visual_missing",)
    assert "visual" not in played.traces[4].inputs


def test_two_people_in_a_scene_are_no_switch() -> None:
    played = play(TinySession(8, persons={0: 0, 5: 1}), emotion_model(warm_up="shorten"))
    assert not any("face_switched" in reasons for reasons in played.reasons)
    assert [trace.n_used for trace in played.traces] == [1, 2, 3, 4, 4, 4, 4, 4]


def test_a_model_of_faces_needs_its_detector() -> None:
    model = emotion_model(visual_encoder(), audio_encoder())
    with pytest.raises(UsageError, match="no face detector was given"):
        Pipeline(emotion_setup(model, detector=None), [VISUAL], ManualClock())
    Pipeline(emotion_setup(model, detector=SquareDetector()), [VISUAL], ManualClock())


# -- emotions --------------------------------------------------------------------------------------


def test_an_emotion_is_the_softmax_of_the_window_s_logits() -> None:
    played = play(TinySession(7), emotion_model())
    for prediction, trace in zip(played.predictions[3:], played.traces[3:], strict=True):
        valence, logits = running_means(*trace.features.values())
        assert trace.raw["emotion"].shape == (3,)
        assert prediction.emotion == pytest.approx(dict(zip(LABELS, softmax(logits[0]), strict=True)))
        assert sum(prediction.emotion.values()) == pytest.approx(1)
        assert prediction.affect is not None
        assert prediction.affect.valence == pytest.approx(float(valence[0, -1]))
        assert prediction.affect.arousal is None
        assert prediction.pain is None
    json.dumps(played.predictions[-1].to_dict(), allow_nan=False)


def test_a_logit_that_is_no_number_is_withheld() -> None:
    def spoiled(*windows: NDArray[Any]) -> Any:
        valence, logits = running_means(*windows)
        logits[0, 1] = np.nan
        return valence, logits

    played = play(TinySession(5), emotion_model(), fusion=spoiled)
    assert set(played.status) == {"withheld"}
    assert played.reasons[4] == ("output_not_finite",)
    assert played.predictions[4].emotion is None
