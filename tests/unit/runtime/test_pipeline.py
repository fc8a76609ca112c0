"""Pipeline: what comes out of a session in which this and that is missing, with a model done by hand."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.clock import ManualClock
from edge_mer.errors import SpecMismatchError, UsageError
from edge_mer.preprocess.face import FaceDetector
from edge_mer.runtime.pipeline import Counters, Pipeline, PipelineSetup, StepTrace
from edge_mer.runtime.window import Relief
from edge_mer.types.evaluation import Findings, Interval, SubsetFindings
from edge_mer.types.model import MissingPolicy, ModelSpec
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk, Modality, StreamSpec
from tests.helpers.independent import log_mel_reference
from tests.helpers.numpy_engines import SCALE, mean_of_window, tiny_engines
from tests.helpers.tiny_model import (
    N_STEPS,
    RATE_HZ,
    STEP,
    audio_encoder,
    tiny_clip,
    tiny_log_mel,
    tiny_model,
    visual_encoder,
)
from tests.helpers.tiny_session import AUDIO, VISUAL, SquareDetector, TinySession, frame_of

POLICIES: tuple[MissingPolicy, ...] = get_args(MissingPolicy)
FILLING: tuple[MissingPolicy, ...] = ("zero_feature", "blank_input", "hold")


@dataclass(frozen=True)
class Played:
    """What came of a session."""

    predictions: list[Prediction]
    traces: list[StepTrace]
    pipeline: Pipeline
    setup: PipelineSetup

    @property
    def status(self) -> list[str]:
        return [prediction.status for prediction in self.predictions]

    @property
    def reasons(self) -> list[tuple[str, ...]]:
        return [prediction.reasons for prediction in self.predictions]

    @property
    def valence(self) -> list[float | None]:
        return [None if p.affect is None else p.affect.valence for p in self.predictions]

    def runs(self, stage: str) -> int:
        return self.setup.engines[stage].n_runs


def set_up(
    model: ModelSpec,
    fusion: Callable[..., Any] = mean_of_window,
    missing: dict[Modality, MissingPolicy] | None = None,
    detector: FaceDetector | None = None,
    findings: Findings | None = None,
) -> PipelineSetup:
    engines = tiny_engines(model, fusion)
    return PipelineSetup(
        model, engines, detector or SquareDetector(), missing=missing or {}, findings=findings
    )


def play(session: TinySession, model: ModelSpec | None = None, **how: Any) -> Played:
    setup = set_up(model or tiny_model(), **how)
    traces: list[StepTrace] = []
    pipeline = Pipeline(setup, session.specs, ManualClock(), on_step=traces.append)
    predictions = [p for chunk in session.chunks() for p in pipeline.push(chunk)]
    predictions += pipeline.finish()
    for prediction in predictions:
        assert_honest(prediction)
    return Played(predictions, traces, pipeline, setup)


def assert_honest(prediction: Prediction) -> None:
    """What holds for every prediction."""
    assert (prediction.status == "withheld") == (prediction.affect is None)
    assert (prediction.status == "ok") == (prediction.reasons == ())
    assert len(set(prediction.reasons)) == len(prediction.reasons)
    json.dumps(prediction.to_dict(), allow_nan=False)


def estimate(trace: StepTrace, stage: str) -> float:
    """What the model done by hand makes of a window."""
    index = list(trace.features).index(stage)
    used = trace.present[index]
    return float(trace.features[stage][0, used, 0].mean() * SCALE) if used.any() else 0.0


def feature(trace: StepTrace, stage: str) -> NDArray[np.float32]:
    """What lies in the newest slot."""
    return trace.features[stage][0, -1]


# -- warm-up --------------------------------------------------------------------------------------


def test_a_model_with_a_mask_runs_from_the_first_step() -> None:
    played = play(TinySession(6))
    assert played.status == ["degraded"] * 3 + ["ok"] * 3
    assert played.reasons == [("warming_up",)] * 3 + [()] * 3
    for index, trace in enumerate(played.traces):
        assert trace.n_used == N_STEPS
        there = min(index + 1, N_STEPS)
        expected = [False] * (N_STEPS - there) + [True] * there
        assert trace.present.tolist() == [expected, expected]


def test_a_model_of_free_length_starts_with_a_short_window() -> None:
    played = play(TinySession(6), tiny_model(warm_up="shorten"))
    assert played.status == ["degraded"] * 3 + ["ok"] * 3
    assert [trace.n_used for trace in played.traces] == [1, 2, 3, 4, 4, 4]


def test_a_model_that_needs_a_full_window_says_nothing_before() -> None:
    played = play(TinySession(6), tiny_model(warm_up="withhold"))
    assert played.status == ["withheld"] * 3 + ["ok"] * 3
    assert played.reasons == [("warming_up",)] * 3 + [()] * 3
    assert [trace.n_used for trace in played.traces] == [0, 0, 0, 4, 4, 4]
    assert played.runs("fusion") == 3


def test_the_three_ways_to_warm_up_agree_once_the_window_is_full() -> None:
    ways: tuple[Any, ...] = ("mask", "shorten", "withhold")
    full = [play(TinySession(6), tiny_model(warm_up=way)).valence[3:] for way in ways]
    assert full[0] == pytest.approx(full[1])
    assert full[1] == full[2]


# -- numbers --------------------------------------------------------------------------------------


def test_a_prediction_is_the_fusion_of_the_last_features() -> None:
    played = play(TinySession(7))
    for prediction, trace in zip(played.predictions, played.traces, strict=True):
        assert prediction.affect is not None
        assert prediction.affect.valence == pytest.approx(estimate(trace, "visual"), abs=1e-6)
        assert prediction.affect.arousal == pytest.approx(estimate(trace, "audio"), abs=1e-6)
    assert len(set(played.valence)) == 7, "every step is another one"


def test_a_window_holds_the_features_of_its_steps_in_order() -> None:
    played = play(TinySession(9))
    for stage in ("visual", "audio"):
        newest = [feature(trace, stage) for trace in played.traces]
        for index in range(N_STEPS - 1, 9):
            window = played.traces[index].features[stage][0]
            np.testing.assert_array_equal(window, newest[index + 1 - N_STEPS : index + 1])


def test_a_feature_is_what_the_encoder_makes_of_the_step() -> None:
    for trace in play(TinySession(9)).traces:
        for stage in ("visual", "audio"):
            assert feature(trace, stage)[0] == pytest.approx(trace.inputs[stage].mean(), abs=1e-6)


def test_the_sound_of_a_step_becomes_its_spectrogram() -> None:
    session = TinySession(4)
    for trace in play(session).traces:
        first, last = (int((trace.index + i) * STEP * RATE_HZ) for i in (0, 1))
        piece = session.sound[last - int(STEP * RATE_HZ) : last]
        assert first <= last - piece.size <= first + 1
        expected = log_mel_reference(piece, tiny_log_mel())
        np.testing.assert_allclose(trace.inputs["audio"][0], expected, atol=1e-4)


def test_the_faces_of_a_step_are_bright_and_of_that_step() -> None:
    """Red is 210 all over the face, and brighter shades come step by step."""
    traces = play(TinySession(4)).traces
    red = (210 / 255 - 0.4) / 0.2
    for trace in traces:
        assert trace.inputs["visual"].shape == (1, 3, 4, 8, 8)
        np.testing.assert_allclose(trace.inputs["visual"][0, 0, :, 3:6, 3:6], red, atol=0.01)
    greens = [float(trace.inputs["visual"][0, 1].mean()) for trace in traces]
    assert greens == sorted(greens)


@settings(max_examples=10, deadline=None)
@given(chunk_samples=st.integers(1, 3_000))
def test_the_size_of_chunks_changes_nothing(chunk_samples: int) -> None:
    cut = play(TinySession(3, chunk_samples=max(40, chunk_samples)))
    assert cut.predictions == play(TinySession(3)).predictions


def test_a_session_played_again_gives_the_same() -> None:
    assert play(TinySession(5)).predictions == play(TinySession(5)).predictions


def test_every_step_is_encoded_exactly_once() -> None:
    played = play(TinySession(9))
    assert [played.runs(stage) for stage in ("visual", "audio", "fusion")] == [9, 9, 9]


def test_an_absent_step_is_not_encoded() -> None:
    session = TinySession(9, faceless={5, 6}, silent={2})
    played = play(session, tiny_model(visual="mask", audio="mask"))
    assert [played.runs(stage) for stage in ("visual", "audio")] == [7, 8]


def test_stereo_at_another_rate_gives_about_the_same() -> None:
    """48 kHz, both channels alike: it is resampled to the 8 kHz that the model declares."""
    session = TinySession(4)
    index = np.arange(4 * 12_800)
    level = 0.05 + 0.1 * (index // 12_800 % 4)
    sound = (level * np.sin(2 * np.pi * 440 * index / 48_000)).astype(np.float32)
    stereo = dataclasses.replace(AUDIO, rate_hz=48_000.0, shape=(None, 2), channels=("left", "right"))
    pipeline = Pipeline(set_up(tiny_model()), [VISUAL, stereo], ManualClock())
    chunks = [chunk for chunk in session.chunks() if chunk.modality == "visual"]
    for seq, start in enumerate(range(0, len(sound), 960)):
        data = np.repeat(sound[start : start + 960, np.newaxis], 2, axis=1)
        chunks.append(Chunk(AUDIO.name, "audio", seq, start * 1_000_000 // 48, data))
    predictions = [p for chunk in sorted(chunks, key=lambda c: c.t_ns) for p in pipeline.push(chunk)]
    predictions += pipeline.finish()
    expected = play(session).predictions
    assert [p.status for p in predictions] == [p.status for p in expected]
    for found, native in zip(predictions, expected, strict=True):
        assert found.affect is not None
        assert native.affect is not None
        assert found.affect.arousal == pytest.approx(native.affect.arousal, abs=0.01)


# -- times and records ----------------------------------------------------------------------------


def test_a_prediction_is_stamped_with_the_end_of_its_step() -> None:
    model = tiny_model()
    for index, prediction in enumerate(play(TinySession(7)).predictions):
        assert prediction.window_index == index
        assert prediction.t_end_ns == model.step_end_ns(index)
        assert prediction.t_start_ns == model.step_start_ns(max(0, index - 3))


def test_wall_time_follows_the_start_of_the_session() -> None:
    start = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    session = TinySession(3)
    pipeline = Pipeline(set_up(tiny_model()), session.specs, ManualClock(utc=start))
    predictions = [p for chunk in session.chunks() for p in pipeline.push(chunk)]
    for prediction in predictions:
        after = timedelta(microseconds=prediction.t_end_ns // 1_000)
        assert datetime.fromisoformat(prediction.utc) == start + after
        assert prediction.utc_synchronised


def test_the_record_says_what_made_it() -> None:
    setup = dataclasses.replace(
        set_up(tiny_model()), engine_name="by-hand", precision="fp16", bundle_id="sha256:7"
    )
    session = TinySession(1)
    pipeline = Pipeline(setup, session.specs, ManualClock())
    predictions = [p for chunk in session.chunks() for p in pipeline.push(chunk)] + pipeline.finish()
    assert [(p.engine, p.precision, p.bundle_id) for p in predictions] == [("by-hand", "fp16", "sha256:7")]


def test_coverage_and_age_are_those_of_the_step() -> None:
    last = play(TinySession(4)).predictions[-1]
    assert last.modalities["visual"].coverage == 1.0
    assert last.modalities["visual"].age_ms == pytest.approx(1_000 / 30, abs=0.01)
    assert last.modalities["audio"].coverage == 1.0
    assert last.modalities["audio"].age_ms == pytest.approx(0.0, abs=1.0)


def test_the_age_of_sound_that_stopped_within_a_step_is_that_of_its_last_sample() -> None:
    session = TinySession(2)
    pipeline = Pipeline(set_up(tiny_model()), session.specs, ManualClock())
    chunks = [c for c in session.chunks() if c.modality == "visual" or c.t_ns < 400_000_000]
    predictions = [p for chunk in chunks for p in pipeline.push(chunk)] + pipeline.finish()
    status = predictions[1].modalities["audio"]
    last_ns = max(c.t_ns + 20_000_000 for c in chunks if c.modality == "audio")
    assert status.coverage == pytest.approx(0.55, abs=0.05)
    assert status.age_ms == pytest.approx((predictions[1].t_end_ns - last_ns) / 1e6, abs=0.2)


def test_what_is_missing_has_no_age() -> None:
    played = play(TinySession(4, faceless={3}), tiny_model(visual="mask"))
    status = played.predictions[-1].modalities["visual"]
    assert (status.present, status.coverage, status.age_ms) == (False, 0.0, None)


def test_a_recording_played_fast_has_no_waiting_time() -> None:
    latency = play(TinySession(1)).predictions[0].latency_ms
    assert (latency.capture, latency.wait) == (None, None)


def test_a_live_session_tells_capture_and_waiting_time() -> None:
    session, clock = TinySession(2), ManualClock(7_000_000_000)
    pipeline = Pipeline(set_up(tiny_model()), session.specs, clock, start_ns=7_000_000_000)
    predictions = []
    for chunk in session.chunks():
        clock.sleep_until_ns(7_000_000_000 + chunk.t_ns + 50_000_000)
        predictions += pipeline.push(chunk)
    latency = predictions[0].latency_ms
    assert latency.capture == pytest.approx(50.0)
    assert latency.wait is not None
    assert 20 <= latency.wait <= 50  # the chunk that completed the step began up to 20 ms before its end
    assert latency.end_to_end == pytest.approx(
        latency.wait + latency.preprocess + latency.infer + latency.postprocess
    )


def test_the_skew_of_a_late_camera_is_seen() -> None:
    session = TinySession(2)
    pipeline = Pipeline(set_up(tiny_model()), session.specs, ManualClock())
    predictions = []
    for chunk in session.chunks():
        late_ns = 12_000_000 if chunk.modality == "visual" else 0
        predictions += pipeline.push(dataclasses.replace(chunk, t_ns=chunk.t_ns + late_ns))
    assert predictions[0].sync.skew_ms == pytest.approx(12.0, abs=0.01)


@pytest.mark.parametrize(("most_ms", "withheld"), [(11.0, True), (13.0, False), (None, False)])
def test_streams_that_lie_too_far_apart_are_no_ground_for_an_estimate(
    most_ms: float | None, withheld: bool
) -> None:
    model, session = tiny_model().model_copy(update={"max_skew_ms": most_ms}), TinySession(2)
    pipeline = Pipeline(set_up(model), session.specs, ManualClock())
    predictions = []
    for chunk in session.chunks():
        late_ns = 12_000_000 if chunk.modality == "visual" else 0
        predictions += pipeline.push(dataclasses.replace(chunk, t_ns=chunk.t_ns + late_ns))
    assert (predictions[0].status == "withheld") == withheld
    assert ("bad_sync" in predictions[0].reasons) == withheld
    assert (predictions[0].affect is None) == withheld


# -- what is missing ------------------------------------------------------------------------------

MISSING = {"visual": {"faceless": {5}}, "audio": {"silent": {5}}}


def with_policy(modality: str, policy: MissingPolicy | None, **changes: Any) -> ModelSpec:
    policies: dict[str, Any] = {modality: policy}
    return tiny_model(**policies, hold_max_age=2 * STEP, **changes)


@pytest.mark.parametrize("modality", MISSING)
def test_a_masked_modality_leaves_the_estimate_to_the_others(modality: str) -> None:
    played = play(TinySession(10, **MISSING[modality]), with_policy(modality, "mask"))
    assert played.status[3:] == ["ok", "ok", *["degraded"] * 4, "ok"]
    assert played.reasons[5] == (f"{modality}_missing",)
    assert played.reasons[6:9] == [(f"{modality}_gap",)] * 3
    row = ["visual", "audio"].index(modality)
    assert played.traces[5].present[row].tolist() == [True, True, True, False]
    assert played.traces[5].present[1 - row].all()
    assert not feature(played.traces[5], modality).any()
    assert not played.predictions[5].modalities[modality].present


def found_for(
    modalities: tuple[Modality, ...], stand_in: MissingPolicy | None, width: float
) -> SubsetFindings:
    widths = {"valence": Interval(half_width=width, coverage=0.9)}
    return SubsetFindings(modalities=modalities, stand_in=stand_in, scores={}, interval=widths)


def widths_of(played: Played) -> list[float | None]:
    """How wide the intervals of valence are; none of these ends at the ends of its range."""
    affects = [prediction.affect for prediction in played.predictions]
    return [
        None if a is None or a.interval is None else a.interval["valence"][1] - a.interval["valence"][0]
        for a in affects
    ]


@pytest.mark.parametrize("modality", MISSING)
def test_an_interval_is_that_of_the_modalities_in_the_whole_window(modality: Modality) -> None:
    rest: tuple[Modality, ...] = ("audio",) if modality == "visual" else ("visual",)
    subsets = (found_for(("visual", "audio"), None, 0.125), found_for(rest, "mask", 0.25))
    findings = Findings(people="some", n_people=2, n_steps=3, subsets=subsets)
    played = play(TinySession(10, **MISSING[modality]), with_policy(modality, "mask"), findings=findings)
    assert widths_of(played) == pytest.approx([0.25] * 5 + [0.5] * 4 + [0.25])


@pytest.mark.parametrize("policy", ["zero_feature", "blank_input", "hold"])
def test_a_stand_in_that_was_not_measured_has_no_interval(policy: MissingPolicy) -> None:
    subsets = (found_for(("visual", "audio"), None, 0.125), found_for(("audio",), "zero_feature", 0.25))
    findings = Findings(people="some", n_people=2, n_steps=3, subsets=subsets)
    played = play(
        TinySession(10, faceless={5}), with_policy("visual", policy, warm_up="withhold"), findings=findings
    )
    measured = 0.5 if policy == "zero_feature" else None
    assert widths_of(played)[4:9] == pytest.approx([0.25] + [measured] * 4)


@pytest.mark.parametrize("modality", MISSING)
@pytest.mark.parametrize("warm_up", ["mask", "shorten", "withhold"])
@pytest.mark.parametrize("policy", FILLING)
def test_a_filled_modality_degrades_the_estimate(modality: str, warm_up: str, policy: MissingPolicy) -> None:
    model = with_policy(modality, policy, warm_up=warm_up)
    played = play(TinySession(10, **MISSING[modality]), model)
    assert played.status[3:] == ["ok", "ok", *["degraded"] * 4, "ok"]
    assert played.reasons[5] == (f"{modality}_missing",)
    assert played.reasons[6:9] == [(f"{modality}_gap",)] * 3
    assert [trace.n_used for trace in played.traces[3:]] == [N_STEPS] * 7
    assert played.traces[5].present.all()
    assert not played.predictions[5].modalities[modality].present


@pytest.mark.parametrize("modality", MISSING)
def test_a_zero_feature_is_zero(modality: str) -> None:
    played = play(TinySession(6, **MISSING[modality]), with_policy(modality, "zero_feature"))
    assert not feature(played.traces[5], modality).any()
    assert played.runs(modality) == 5


@pytest.mark.parametrize("modality", MISSING)
def test_a_blank_input_is_encoded(modality: str) -> None:
    blank = {
        "visual": np.full(1, (0 - 0.4) / 0.2),
        "audio": log_mel_reference(np.zeros(2_133), tiny_log_mel()),
    }[modality]
    played = play(TinySession(6, **MISSING[modality]), with_policy(modality, "blank_input"))
    expected = [blank.mean(), blank.min(), blank.max()]
    np.testing.assert_allclose(feature(played.traces[5], modality), expected, rtol=1e-5)
    assert played.runs(modality) == 6


@pytest.mark.parametrize("modality", MISSING)
def test_a_held_feature_is_the_last_one(modality: str) -> None:
    played = play(TinySession(6, **MISSING[modality]), with_policy(modality, "hold"))
    np.testing.assert_array_equal(feature(played.traces[5], modality), feature(played.traces[4], modality))
    assert played.runs(modality) == 5


@pytest.mark.parametrize(("key", "modality"), [("faceless", "visual"), ("silent", "audio")])
@pytest.mark.parametrize("max_age", [Fraction(1), Fraction(2), Fraction(5, 2), Fraction(3)])
def test_a_held_feature_gets_too_old(key: str, modality: str, max_age: Fraction) -> None:
    session = TinySession(10, **{key: set(range(5, 10))})  # type: ignore[arg-type]
    policies: dict[str, Any] = {modality: "hold"}
    played = play(session, tiny_model(**policies, hold_max_age=max_age * STEP))
    n_held = int(max_age)
    assert played.status[5:] == ["degraded"] * n_held + ["withheld"] * (5 - n_held)
    assert set(played.reasons[5 + n_held :]) == {(f"{modality}_missing",)}


def test_nothing_is_held_before_the_first_feature() -> None:
    played = play(TinySession(3, faceless={0}), with_policy("visual", "hold"))
    assert played.status == ["withheld", "degraded", "degraded"]


@pytest.mark.parametrize("modality", MISSING)
@pytest.mark.parametrize("policy", ["abstain", None])
def test_without_a_measured_policy_nothing_is_said(modality: str, policy: MissingPolicy | None) -> None:
    played = play(TinySession(10, **MISSING[modality]), with_policy(modality, policy))
    assert played.status[5] == "withheld"
    assert played.reasons[5] == (f"{modality}_missing",)
    assert played.predictions[5].affect is None
    assert played.runs("fusion") == 9


@pytest.mark.parametrize("modality", MISSING)
def test_after_abstaining_a_masked_window_is_degraded_until_the_gap_has_left_it(modality: str) -> None:
    played = play(TinySession(11, **MISSING[modality]), with_policy(modality, "abstain"))
    assert played.status[6:] == ["degraded"] * 3 + ["ok"] * 2
    assert played.reasons[6:9] == [(f"{modality}_gap",)] * 3


@pytest.mark.parametrize("modality", MISSING)
def test_after_abstaining_a_whole_window_must_come_anew(modality: str) -> None:
    played = play(TinySession(11, **MISSING[modality]), with_policy(modality, None, warm_up="withhold"))
    assert played.status[5:] == ["withheld"] * 4 + ["ok"] * 2
    assert played.reasons[6:9] == [("window_has_gaps",)] * 3


@pytest.mark.parametrize("modality", MISSING)
def test_after_abstaining_a_free_window_grows_anew(modality: str) -> None:
    played = play(TinySession(11, **MISSING[modality]), with_policy(modality, None, warm_up="shorten"))
    assert [trace.n_used for trace in played.traces[5:]] == [0, 1, 2, 3, 4, 4]
    assert played.status[5:] == ["withheld", *["degraded"] * 3, "ok", "ok"]


@pytest.mark.parametrize("modality", MISSING)
def test_the_user_may_choose_another_policy(modality: Modality) -> None:
    model = with_policy(modality, "abstain")
    played = play(TinySession(6, **MISSING[modality]), model, missing={modality: "zero_feature"})
    assert played.status[5] == "degraded"


def test_a_step_in_which_nothing_is_there_is_withheld_under_a_mask() -> None:
    session = TinySession(6, faceless={5}, silent={5})
    played = play(session, tiny_model(visual="mask", audio="mask"))
    assert played.status[5] == "withheld"
    assert played.reasons[5] == ("visual_missing", "audio_missing")


@pytest.mark.parametrize("audio", FILLING)
@pytest.mark.parametrize("visual", FILLING)
def test_an_estimate_is_never_made_of_stand_ins_alone(visual: MissingPolicy, audio: MissingPolicy) -> None:
    session = TinySession(6, faceless={5}, silent={5})
    played = play(session, tiny_model(visual=visual, audio=audio, hold_max_age=2 * STEP))
    assert played.status[5] == "withheld"
    assert set(played.reasons[5]) == {"visual_missing", "audio_missing"}


@pytest.mark.parametrize("modality", ["visual", "audio"])
def test_a_session_without_the_stream_follows_the_policy(modality: Modality) -> None:
    other: Modality = "audio" if modality == "visual" else "visual"
    session = TinySession(5, streams=(other,))
    assert set(play(session, with_policy(modality, "mask")).status) == {"degraded"}
    assert set(play(session, with_policy(modality, None)).status) == {"withheld"}
    assert set(play(session, with_policy(modality, "zero_feature")).status) == {"degraded"}


def test_a_camera_that_stops_does_not_stop_the_voice() -> None:
    session = TinySession(14, frameless=set(range(4, 14)))
    played = play(session, tiny_model(visual="mask"))
    assert len(played.predictions) == 14
    assert played.reasons[13] == ("visual_missing",)


def test_half_of_a_step_is_enough_and_less_is_not() -> None:
    """Two of four frames show a face; then only one does."""
    session = TinySession(2)
    results = []
    for n_seen in (2, 1):
        chunks = []
        for chunk in session.chunks():
            seen = chunk.modality == "audio" or chunk.seq < 8 or chunk.seq >= 16 - 2 * n_seen
            chunks.append(chunk if seen else dataclasses.replace(chunk, data=frame_of(None)))
        pipeline = Pipeline(set_up(tiny_model(visual="mask")), session.specs, ManualClock())
        predictions = [p for chunk in chunks for p in pipeline.push(chunk)] + pipeline.finish()
        results.append(predictions[1].modalities["visual"])
    assert [(one.coverage, one.present) for one in results] == [(0.5, True), (0.25, False)]


STEPS = st.sets(st.integers(0, 9), max_size=5)


@settings(max_examples=15, deadline=None)
@given(
    faceless=STEPS,
    frameless=STEPS,
    silent=STEPS,
    visual=st.sampled_from([None, *POLICIES]),
    audio=st.sampled_from([None, *POLICIES]),
    warm_up=st.sampled_from(["mask", "shorten", "withhold"]),
)
def test_whatever_is_missing_every_step_gets_one_honest_prediction(
    faceless: set[int],
    frameless: set[int],
    silent: set[int],
    visual: MissingPolicy | None,
    audio: MissingPolicy | None,
    warm_up: Any,
) -> None:
    if warm_up != "mask":
        visual, audio = ("abstain" if policy == "mask" else policy for policy in (visual, audio))
    model = tiny_model(visual=visual, audio=audio, warm_up=warm_up, hold_max_age=STEP)
    session = TinySession(10, faceless=faceless, frameless=frameless, silent=silent)
    played = play(session, model)
    gone = {"visual": faceless | frameless, "audio": silent}
    for modality, policy in (("visual", visual), ("audio", audio)):
        for index, prediction in enumerate(played.predictions):
            if index not in gone[modality]:
                assert prediction.modalities[modality].present
                continue
            assert not prediction.modalities[modality].present
            assert prediction.status != "ok"
            if policy in (None, "abstain"):
                assert prediction.status == "withheld"
                assert f"{modality}_missing" in prediction.reasons
    for index in gone["visual"] & gone["audio"] & set(range(len(played.predictions))):
        assert played.status[index] == "withheld"
        assert {"visual_missing", "audio_missing"} <= set(played.reasons[index])
    assert [p.window_index for p in played.predictions] == list(range(len(played.predictions)))


# -- who is seen ----------------------------------------------------------------------------------


def test_another_person_clears_the_ring_of_faces_and_no_other() -> None:
    played = play(TinySession(10, persons={0: 0, 5: 1}))
    assert played.status[3:] == ["ok", "ok", *["degraded"] * 3, "ok", "ok"]
    assert played.reasons[5:8] == [("face_switched",)] * 3
    switch = played.traces[5]
    assert switch.present.tolist() == [[False, False, False, True], [True] * 4]
    assert not switch.features["visual"][0, :-1].any()
    assert switch.features["audio"][0, :-1].any()


def test_after_a_switch_nothing_of_the_first_person_is_left() -> None:
    """As if the session had begun with the second one."""
    switched = play(TinySession(10, persons={0: 0, 5: 1})).traces[6]
    anew = play(TinySession(10, persons={0: 1})).traces[6]
    visual, other = switched.features["visual"][0], anew.features["visual"][0]
    np.testing.assert_array_equal(visual[2:], other[2:])
    assert not visual[:2].any()


def test_after_a_switch_a_model_that_needs_a_full_window_says_nothing() -> None:
    played = play(TinySession(10, persons={0: 0, 5: 1}), tiny_model(warm_up="withhold"))
    assert played.status[3:] == ["ok", "ok", *["withheld"] * 3, "ok", "ok"]
    assert "face_switched" in played.reasons[5]
    assert played.valence[5:8] == [None] * 3


def test_after_a_switch_a_free_window_grows_anew() -> None:
    played = play(TinySession(10, persons={0: 0, 5: 1}), tiny_model(warm_up="shorten"))
    assert [trace.n_used for trace in played.traces[4:]] == [4, 1, 2, 3, 4, 4]
    assert all("face_switched" in reasons for reasons in played.reasons[5:8])


def test_a_feature_of_another_person_is_never_held() -> None:
    """The second person is seen in step 5, and nobody in step 6."""
    session = TinySession(7, persons={0: 0, 5: 1}, faceless={6})
    played = play(session, with_policy("visual", "hold"))
    np.testing.assert_array_equal(feature(played.traces[6], "visual"), feature(played.traces[5], "visual"))
    assert not np.array_equal(feature(played.traces[6], "visual"), feature(played.traces[4], "visual"))


def test_a_short_absence_is_no_switch() -> None:
    played = play(TinySession(10, faceless={5}), tiny_model(visual="mask"))
    assert not any("face_switched" in reasons for reasons in played.reasons)


def test_faces_that_cannot_be_aligned_degrade_the_estimate() -> None:
    played = play(TinySession(6), detector=SquareDetector(sees_eyes=False))
    assert set(played.status) == {"degraded"}
    assert played.reasons[-1] == ("unaligned_face",)


# -- numbers that are none ------------------------------------------------------------------------


def spoiled(bad: float, output: int, at: Iterable[int]) -> Callable[..., Any]:
    """A fusion that fails at some of its runs."""
    n_run = -1

    def fusion(*inputs: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        nonlocal n_run
        n_run += 1
        outputs = mean_of_window(*inputs)
        if n_run in at:
            outputs[output][:, -1] = bad
        return outputs

    return fusion


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("output", [0, 1])
def test_an_output_that_is_no_number_is_withheld(bad: float, output: int) -> None:
    played = play(TinySession(7), fusion=spoiled(bad, output, {5}))
    assert played.status[3:] == ["ok", "ok", "withheld", "ok"]
    assert played.reasons[5] == ("output_not_finite",)
    assert played.predictions[5].affect is None


def test_an_output_beyond_its_range_is_clipped() -> None:
    played = play(TinySession(4), fusion=spoiled(17.0, 0, {3}))
    assert played.valence[3] == 1.0


# -- streams that do not fit ----------------------------------------------------------------------


def opened(*specs: StreamSpec, model: ModelSpec | None = None) -> Pipeline:
    return Pipeline(set_up(model or tiny_model()), specs, ManualClock())


@pytest.mark.parametrize(
    ("good", "changes", "expected", "found"),
    [
        (VISUAL, {"unit": "bgr24"}, "uint8 in unit 'rgb24'", "uint8 in unit 'bgr24'"),
        (VISUAL, {"dtype": "float32"}, "uint8 in unit 'rgb24'", "float32 in unit 'rgb24'"),
        (AUDIO, {"unit": "Pa"}, "float32 in unit '1'", "float32 in unit 'Pa'"),
        (AUDIO, {"dtype": "int16"}, "float32 in unit '1'", "int16 in unit '1'"),
        (AUDIO, {"rate_hz": None}, "to be resampled to 8000 Hz", "an irregular stream"),
        (AUDIO, {"rate_hz": 44_100.5}, "a whole rate", "44100.5 Hz"),
        (AUDIO, {"rate_hz": 100.0}, "from 1000", "100.0 Hz"),
        (AUDIO, {"rate_hz": 1e6}, "to 384000 Hz", "1000000.0 Hz"),
    ],
)
def test_a_stream_that_does_not_fit_is_refused_with_both_sides_named(
    good: StreamSpec, changes: dict[str, Any], expected: str, found: str
) -> None:
    with pytest.raises(SpecMismatchError) as caught:
        opened(dataclasses.replace(good, **changes))
    assert good.name in str(caught.value)
    assert good.modality in str(caught.value)
    assert caught.value.expected is not None
    assert expected in caught.value.expected
    assert caught.value.found == found


def test_a_camera_may_be_irregular() -> None:
    opened(dataclasses.replace(VISUAL, rate_hz=None))


@pytest.mark.parametrize("spec", [VISUAL, AUDIO])
def test_two_streams_of_one_modality_are_refused(spec: StreamSpec) -> None:
    both = rf"two streams carry {spec.modality}: {spec.name} and second"
    with pytest.raises(UsageError, match=both) as caught:
        opened(VISUAL, AUDIO, dataclasses.replace(spec, name="second"))
    assert caught.value.hint == "give one source per modality"


def test_streams_that_the_model_does_not_look_at_are_left_alone() -> None:
    eda = dataclasses.replace(AUDIO, name="test/eda", modality="eda", unit="uS", rate_hz=None)
    pipeline = opened(VISUAL, AUDIO, eda, dataclasses.replace(eda, name="test/eda2"))
    assert pipeline.push(Chunk("test/eda", "eda", 0, 10**15, np.zeros((9, 1), np.float32))) == []
    assert pipeline.finish() == []
    assert pipeline.counters.n_dropped_tail == 0


def test_without_any_stream_to_look_at_it_is_refused() -> None:
    eda = dataclasses.replace(AUDIO, modality="eda")
    with pytest.raises(UsageError, match="no stream that model tiny looks at") as caught:
        opened(eda)
    assert caught.value.expected == "visual or audio"


def test_a_model_of_faces_needs_a_detector() -> None:
    setup = PipelineSetup(tiny_model(), tiny_engines(tiny_model()), detector=None)
    with pytest.raises(UsageError, match="no face detector was given"):
        Pipeline(setup, [VISUAL], ManualClock())


def hopping(hop: int, repeat: int = 1) -> ModelSpec:
    fusion = tiny_model().fusion.model_copy(update={"hop": hop})
    encoders = (visual_encoder(), audio_encoder(period=repeat * STEP, repeat=repeat))
    return tiny_model(encoders=encoders, fusion=fusion)


def test_a_feature_serves_several_steps_and_is_made_once() -> None:
    played = play(TinySession(10), hopping(2, repeat=2))
    traces = played.traces
    for first, second in zip(traces[::2], traces[1::2], strict=True):
        now, before = second.features["audio"][0, -1], first.features["audio"][0, -1]
        np.testing.assert_array_equal(now, before)
        np.testing.assert_array_equal(first.inputs["audio"], second.inputs["audio"])
    assert played.runs("audio") == 5
    assert played.runs("visual") == 10


def test_a_hop_of_several_steps_predicts_at_its_end() -> None:
    often, seldom = play(TinySession(10)), play(TinySession(10), hopping(3))
    assert [one.window_index for one in seldom.predictions] == [0, 1, 2]
    assert [one.affect for one in seldom.predictions] == [often.predictions[i].affect for i in (2, 5, 8)]
    assert [one.t_end_ns for one in seldom.predictions] == [often.predictions[i].t_end_ns for i in (2, 5, 8)]


def test_a_hop_that_cuts_a_feature_in_two_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot predict every 3 steps"):
        PipelineSetup(hopping(2, repeat=2), {}, None, hop=3)


# -- what is counted ------------------------------------------------------------------------------


def test_a_whole_session_counts_its_steps_and_nothing_else() -> None:
    counters = play(TinySession(6)).pipeline.counters
    assert counters == Counters(n_steps=6)


@pytest.mark.parametrize(
    ("lasts", "dropped"), [(Fraction(199, 100), 0), (Fraction(21, 10), 1), (Fraction(28, 10), 1)]
)
def test_a_partial_tail_is_dropped_and_counted(lasts: Fraction, dropped: int) -> None:
    session = TinySession(3)
    pipeline = Pipeline(set_up(tiny_model()), session.specs, ManualClock())
    end_ns = int(lasts * STEP * 1_000_000_000)
    chunks = [chunk for chunk in session.chunks() if chunk.t_ns < end_ns]
    predictions = [p for chunk in chunks for p in pipeline.push(chunk)] + pipeline.finish()
    assert [p.window_index for p in predictions] == [0, 1]
    assert pipeline.counters.n_dropped_tail == dropped


def test_breaks_in_the_sound_are_counted() -> None:
    session = TinySession(8, silent={2, 5})
    assert play(session, tiny_model(audio="mask")).pipeline.counters.n_gaps == 2


def test_what_was_counted_is_known_with_each_chunk() -> None:
    session = TinySession(8, silent={2, 5})
    pipeline = Pipeline(set_up(tiny_model(audio="mask")), session.specs, ManualClock())
    n_gaps, sound_until_ns = 0, 0
    for chunk in session.chunks():
        pipeline.push(chunk)
        if chunk.modality == "audio":
            n_gaps += chunk.t_ns > sound_until_ns + 20_000_000
            sound_until_ns = chunk.t_ns + chunk.n_samples * 1_000_000_000 // RATE_HZ
        assert pipeline.counters.n_gaps == n_gaps
    assert n_gaps == 2


def test_sound_that_comes_after_its_step_was_given_up_is_counted() -> None:
    session = TinySession(12)
    pipeline = Pipeline(set_up(tiny_model(audio="mask")), session.specs, ManualClock())
    chunks = sorted(session.chunks(), key=lambda chunk: chunk.modality, reverse=True)  # all frames first
    predictions = [p for chunk in chunks for p in pipeline.push(chunk)] + pipeline.finish()
    assert [p.window_index for p in predictions] == list(range(12))
    given_up = [not p.modalities["audio"].present for p in predictions]
    assert given_up == sorted(given_up, reverse=True)
    assert 0 < sum(given_up) < 12
    assert pipeline.counters.n_late == int(sum(given_up) * STEP * RATE_HZ)


# -- faces that are searched while data come -------------------------------------------------------


class SlowDetector(SquareDetector):
    """Takes 3 ms for a frame, and notes which it searched."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock
        self.n_searched = 0

    def detect(self, frame: NDArray[np.uint8]) -> Any:
        self._clock.advance_ns(3_000_000)
        self.n_searched += 1
        return super().detect(frame)


def test_faces_are_searched_while_a_step_s_other_data_come() -> None:
    """The records count all the work, and as delay only what was left to do when the step was complete."""
    clock, session = ManualClock(), TinySession(3)
    detector = SlowDetector(clock)
    n_frames = tiny_clip().n_frames
    pipeline = Pipeline(set_up(tiny_model(), detector=detector), session.specs, clock)
    searched_before: list[int] = []
    latencies = []
    for chunk in session.chunks():
        before = detector.n_searched
        for prediction in pipeline.push(chunk):
            latencies.append(prediction.latency_ms)
            searched_before.append(before)
    assert len(latencies) >= 2
    for step, (latency, before) in enumerate(zip(latencies, searched_before, strict=True)):
        n_left = n_frames * (step + 1) - before
        assert n_left <= 1
        assert latency.preprocess == pytest.approx(3.0 * n_frames)
        assert latency.end_to_end == pytest.approx(3.0 * n_left, abs=0.1)


def test_a_modality_that_is_spared_is_not_searched() -> None:
    clock, session = ManualClock(), TinySession(3)
    detector = SlowDetector(clock)
    setup = set_up(tiny_model(), detector=detector, missing={"visual": "mask"})
    pipeline = Pipeline(setup, session.specs, clock)
    pipeline.relieve(Relief(spared=frozenset({"visual"})))
    searched = []
    for chunk in session.chunks():
        if pipeline.push(chunk):
            searched.append(detector.n_searched)
    assert searched[1] == searched[0]  # from the first hop on
