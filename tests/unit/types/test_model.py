"""What a model declares: contradictions are refused, fractions stay exact."""

from __future__ import annotations

import json
import math
import re
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from edge_mer.types.model import (
    AffectOutput,
    Course,
    EmotionOutput,
    Encoder,
    FaceClip,
    LogMel,
    ModelSpec,
    PreprocessSpec,
    Seconds,
    Signal,
    TensorSpec,
    VggishLogMel,
    to_ns,
)
from tests.helpers.front_ends import FRAME, JMT_CLIP, JMT_LOG_MEL
from tests.helpers.tiny_model import (
    STEP,
    audio_encoder,
    tiny_clip,
    tiny_log_mel,
    tiny_model,
    visual_encoder,
)
from tests.helpers.tiny_words import text_encoder, wordy_model

SECONDS: TypeAdapter[Fraction] = TypeAdapter(Seconds)


def through_json(model: ModelSpec) -> ModelSpec:
    return ModelSpec.model_validate(json.loads(json.dumps(model.model_dump(mode="json"))))


# -- durations ------------------------------------------------------------------------------------


@given(numerator=st.integers(-(10**17), 10**17), denominator=st.integers(1, 10**17))
def test_a_duration_survives_json_exactly(numerator: int, denominator: int) -> None:
    duration = Fraction(numerator, denominator)
    text = SECONDS.dump_json(duration)
    assert SECONDS.validate_json(text) == duration


@pytest.mark.parametrize(
    ("written", "meant"),
    [("16/15", Fraction(16, 15)), ("32/30", Fraction(16, 15)), ("-1/3", Fraction(-1, 3)), ("2", Fraction(2))],
)
def test_a_duration_is_written_as_a_fraction(written: str, meant: Fraction) -> None:
    assert SECONDS.validate_python(written) == meant


@pytest.mark.parametrize("written", ["5.5", "0.96"])
def test_a_decimal_is_read_exactly(written: str) -> None:
    assert SECONDS.validate_python(written) == Fraction(written)


@pytest.mark.parametrize(
    "bad", [1.0667, True, None, "", "x", "1/0", "16:15", "1e3", "inf", "nan", "1/2/3", [1, 2]]
)
def test_what_is_no_exact_duration_is_refused(bad: object) -> None:
    with pytest.raises(ValidationError, match="fraction such as '16/15'"):
        SECONDS.validate_python(bad)


@pytest.mark.parametrize("bomb", ["1e999999999", "9" * 100_000, "1/" + "9" * 100_000])
def test_a_number_without_end_is_refused_at_once(bomb: str) -> None:
    began_s = time.monotonic()
    with pytest.raises(ValidationError):
        SECONDS.validate_python(bomb)
    assert time.monotonic() - began_s < 1


@pytest.mark.parametrize(
    ("seconds", "ns"),
    [
        (Fraction(1, 3), 333_333_333),
        (Fraction(2, 3), 666_666_666),
        (Fraction(-1, 3), -333_333_334),
        (5, 5 * 10**9),
    ],
)
def test_nanoseconds_are_rounded_down(seconds: str, ns: int) -> None:
    assert to_ns(Fraction(seconds)) == ns


# -- grid -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [Fraction(16, 15), Fraction(1, 30), Fraction(1001, 30_000), STEP])
@pytest.mark.parametrize("index", [0, 1, 2, 3, 1_000_003, 10**9, 10**9 + 1])
def test_a_grid_point_is_exact_however_late(step: Fraction, index: int) -> None:
    model = tiny_model(step=step, encoders=(visual_encoder(period=step), audio_encoder(period=step)))
    exact = step * index * 10**9
    assert model.step_start_ns(index) == exact.numerator // exact.denominator
    assert 0 <= exact - model.step_start_ns(index) < 1


@given(index=st.integers(0, 10**10))
def test_a_step_ends_where_the_next_one_starts(index: int) -> None:
    model = tiny_model()
    assert model.step_end_ns(index) == model.step_start_ns(index + 1)


# -- json -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm_up", ["mask", "shorten", "withhold"])
def test_a_model_survives_json(warm_up: Any) -> None:
    model = tiny_model(warm_up=warm_up, visual="hold", hold_max_age=Fraction(7, 3))
    again = through_json(model)
    assert again == model
    assert again.encoders[0].hold_max_age == Fraction(7, 3)
    assert isinstance(again.encoders[0].preprocess, FaceClip)
    assert isinstance(again.encoders[1].preprocess, LogMel)


def test_durations_are_text_in_json() -> None:
    raw = tiny_model().model_dump(mode="json")
    assert raw["step"] == "4/15"
    assert raw["encoders"][0]["preprocess"]["frame_interval"] == "1/15"


@pytest.mark.parametrize("spec", [JMT_CLIP, JMT_LOG_MEL])
def test_a_front_end_is_recognised_by_its_kind(spec: FaceClip | LogMel) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(PreprocessSpec)
    assert adapter.validate_python(spec.model_dump(mode="json")) == spec


def test_a_declaration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        tiny_model().step = Fraction(1)  # type: ignore[misc]


# -- contradictions -------------------------------------------------------------------------------


def refused(reason: str, **changes: Any) -> None:
    with pytest.raises(ValidationError, match=reason):
        tiny_model(**changes)


@pytest.mark.parametrize("step", [Fraction(0), Fraction(-1)])
def test_a_step_takes_time(step: Fraction) -> None:
    refused("must be positive", step=step)


@pytest.mark.parametrize("span", [Fraction(0), Fraction(-1, 30)])
def test_a_piece_takes_time(span: Fraction) -> None:
    refused("visual: a piece takes time", encoders=(visual_encoder(span=span), audio_encoder()))


def test_every_encoder_needs_its_input_of_the_fusion() -> None:
    refused("declares 3 inputs where its encoders give 2", encoders=(visual_encoder(),))


def test_a_present_input_is_an_input() -> None:
    fusion = tiny_model(warm_up="withhold").fusion.model_copy(update={"has_present_input": True})
    refused("declares 2 inputs where its encoders give 3", fusion=fusion)


def test_every_output_of_the_fusion_is_named() -> None:
    refused("has 2 outputs, 1 are named", outputs=(AffectOutput(name="valence"),))


def test_two_stages_cannot_share_a_name() -> None:
    refused("share a name", encoders=(visual_encoder(), audio_encoder(stage="visual")))
    refused("share a name", encoders=(visual_encoder(stage="fusion"), audio_encoder()))


def test_two_encoders_cannot_read_one_modality() -> None:
    refused("same modality", encoders=(visual_encoder(), audio_encoder(modality="visual")))


def test_a_period_is_a_whole_number_of_steps() -> None:
    refused("audio: period", encoders=(visual_encoder(), audio_encoder(period=STEP / 2)))
    refused("is not 4 steps", encoders=(visual_encoder(), audio_encoder(repeat=4)))
    four = (visual_encoder(), audio_encoder(period=4 * STEP, repeat=4))
    refused("which a hop of 1 does not divide into", encoders=four)
    hopping = tiny_model().fusion.model_copy(update={"hop": 8})
    tiny_model(encoders=four, fusion=hopping)
    faces = (visual_encoder(period=4 * STEP, repeat=4), audio_encoder())
    refused("only samples can serve 4 steps", encoders=faces, fusion=hopping)


def test_a_mask_needs_a_present_input() -> None:
    refused("policy 'mask' needs", warm_up="withhold", visual="mask")
    tiny_model(warm_up="mask", visual="mask")


def test_a_model_needs_an_encoder_and_an_output() -> None:
    refused("at least 1 item", encoders=())
    refused("at least 1 item", outputs=())


@pytest.mark.parametrize("stage", ["", "Visual", "../x", "a b", "9x", "x\n"])
def test_a_stage_has_a_plain_name(stage: str) -> None:
    with pytest.raises(ValidationError, match="stage"):
        visual_encoder(stage=stage)


@pytest.mark.parametrize("min_coverage", [0, -0.1, 1.1])
def test_coverage_is_a_share(min_coverage: float) -> None:
    with pytest.raises(ValidationError, match="min_coverage"):
        visual_encoder(min_coverage=min_coverage)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="surprise"):
        ModelSpec.model_validate({**tiny_model().model_dump(mode="json"), "surprise": 1})


def test_a_tensor_has_a_name_for_every_axis() -> None:
    with pytest.raises(ValidationError, match="2 axis names for 3 sizes"):
        TensorSpec(name="x", axes=("batch", "feature"), shape=("batch", 3, 4))


def test_free_axes_are_set_by_their_names() -> None:
    spec = TensorSpec(name="x", axes=("batch", "steps", "feature"), shape=("batch", "steps", 3))
    assert spec.concrete(batch=1, steps=16) == (1, 16, 3)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"win_samples": 257}, "does not fit an FFT of 256"),
        ({"f_min_hz": 4_000.0}, "bands from"),
        ({"f_min_hz": 5_000.0}, "bands from"),
        ({"rate_hz": 0}, "rate_hz"),
        ({"hop_samples": 0}, "hop_samples"),
        ({"std": 0.0}, "std"),
        ({"amin": 0.0}, "amin"),
        ({"n_fft": 10**6}, "n_fft"),
        ({"width": 0}, "width"),
    ],
)
def test_an_impossible_spectrogram_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        tiny_log_mel(**changes)


@pytest.mark.parametrize("size", ["time", "batch", 0, -1])
def test_a_free_axis_is_one_that_is_known(size: Any) -> None:
    with pytest.raises(ValidationError, match=r"tensor x: the size of axis 'time' is a number from 1 on"):
        TensorSpec(name="x", axes=("batch", "time"), shape=("batch", size))
    with pytest.raises(ValidationError, match="one of batch, steps, token, not 'feature'"):
        TensorSpec(name="x", axes=("batch", "feature"), shape=("batch", "feature"))


@pytest.mark.parametrize("dtype", ["floaty", "float64", "float16", "uint8", ""])
def test_an_unknown_dtype_is_refused(dtype: str) -> None:
    with pytest.raises(ValidationError, match="a dtype is one of float32, int64, bool, not "):
        TensorSpec(name="x", axes=("batch",), shape=("batch",), dtype=dtype)


@pytest.mark.parametrize("std", [(0.2, 0.0, 0.2), (-1.0, 1.0, 1.0)])
def test_no_channel_is_divided_by_nothing(std: tuple[float, float, float]) -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        tiny_clip(std=std)


@pytest.mark.parametrize(("low", "high"), [(1.0, -1.0), (1.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_an_affect_goes_from_low_to_high(low: float, high: float) -> None:
    with pytest.raises(ValidationError, match="arousal goes from a number to a larger one"):
        AffectOutput(name="arousal", low=low, high=high)


@pytest.mark.parametrize("age", [None, Fraction(0), Fraction(-1)])
def test_what_is_held_has_an_age(age: Fraction | None) -> None:
    with pytest.raises(ValidationError, match="visual: policy 'hold' needs a `hold_max_age` above 0 s"):
        visual_encoder(missing="hold", hold_max_age=age)


# -- tensors are what is written into them --------------------------------------------------------


def tensor(dtype: str = "float32", **sizes: int | str) -> TensorSpec:
    return TensorSpec(name="x", axes=tuple(sizes), shape=tuple(sizes.values()), dtype=dtype)


FACES = tensor(batch="batch", channel=3, frame=4, height=8, width=8)
WAVE: dict[str, Any] = {"preprocess": Signal(rate_hz=30, unit="uS"), "span": Fraction(3, 10)}
VGGISH: dict[str, Any] = {"preprocess": VggishLogMel(), "span": Fraction(39, 40)}


@pytest.mark.parametrize(
    ("encoder", "right", "wrong"),
    [
        (visual_encoder(), FACES, tensor(batch="batch", frame=4, channel=3, height=8, width=8)),
        (visual_encoder(), FACES, tensor(batch="batch", channel=3, frame=4, width=8, height=8)),
        (visual_encoder(), FACES, tensor(batch="batch", channel=3, frame=4, height=10, width=10)),
        (visual_encoder(), FACES, tensor(batch=1, channel=3, frame=4, height=8, width=8)),
        (visual_encoder(), FACES, tensor(batch="batch", channel=3, height=8, width=8)),
        (
            visual_encoder(tiny_clip(n_frames=1)),
            tensor(batch="batch", channel=3, height=8, width=8),
            tensor(batch="batch", height=8, width=8, channel=3),
        ),
        (
            audio_encoder(tiny_log_mel(n_mels=9)),
            tensor(batch="batch", channel=1, mel=9, column=9),
            tensor(batch="batch", channel=1, column=9, mel=9),
        ),
        (
            audio_encoder(),
            tensor(batch="batch", channel=1, mel=6, column=9),
            tensor("int64", batch="batch", channel=1, mel=6, column=9),
        ),
        (
            audio_encoder(**VGGISH),
            tensor(batch="batch", column=96, mel=64),
            tensor(batch="batch", channel=1, column=96, mel=64),
        ),
        (
            audio_encoder(**WAVE),
            tensor(batch="batch", channel=1, sample=9),
            tensor(batch="batch", channel=1, sample=10),
        ),
        (audio_encoder(**WAVE), tensor(batch="batch", channel=1, sample=9), tensor(batch="batch", sample=9)),
    ],
)
def test_an_encoders_input_is_what_its_preprocessing_writes(
    encoder: Encoder, right: TensorSpec, wrong: TensorSpec
) -> None:
    def model(declared: TensorSpec) -> ModelSpec:
        one = encoder.model_copy(update={"input": declared})
        both = (one, audio_encoder()) if one.stage == "visual" else (visual_encoder(), one)
        return tiny_model(encoders=both)

    model(right)
    with pytest.raises(ValidationError) as caught:
        model(wrong)
    assert f"{encoder.stage}: its input x is float32 (batch, " in str(caught.value)
    assert f"{right}, as {encoder.preprocess.kind} is written, not {wrong} " in str(caught.value)


def test_an_encoder_of_words_takes_their_numbers() -> None:
    words = text_encoder()
    wordy_model(words)
    for wrong in (tensor(batch="batch", token="token"), tensor("int64", batch="batch", token=8)):  # noqa: S106
        with pytest.raises(ValidationError, match=r"text: its input x is int64 \(batch, token\)"):
            wordy_model(words.model_copy(update={"input": wrong}))
    with pytest.raises(ValidationError, match=r"its output x is float32 \(batch, token, feature=N\)"):
        wordy_model(words.model_copy(update={"output": tensor(batch="batch", feature=3)}))


def test_an_encoder_gives_one_feature() -> None:
    for wrong in (tensor(batch="batch", part=1, feature=3), tensor("int64", batch="batch", feature=3)):
        encoders = (visual_encoder(output=wrong), audio_encoder())
        refused(r"visual: its output x is float32 \(batch, feature=N\), not", encoders=encoders)


def test_two_tensors_of_a_stage_cannot_share_a_name() -> None:
    face = visual_encoder(output=TensorSpec(name="clip", axes=("batch", "feature"), shape=("batch", 3)))
    refused("visual: two of its tensors are called clip", encoders=(face, audio_encoder()))
    fusion = tiny_model().fusion
    voice = fusion.inputs[1].model_copy(update={"name": "val"})
    changed = fusion.model_copy(update={"inputs": (fusion.inputs[0], voice, fusion.inputs[2])})
    refused("fusion: two of its tensors are called val", fusion=changed)


WINDOW, MASK = r"float32 \(batch, steps=4, feature=N\)", r"bool \(batch, modality=2, steps=4\)"


@pytest.mark.parametrize(
    ("place", "wrong", "right"),
    [
        (0, tensor(batch="batch", feature=3, steps=4), WINDOW),
        (1, tensor(batch="batch", steps=5, feature=3), WINDOW),
        (2, tensor("bool", batch="batch", modality=3, steps=4), MASK),
        (2, tensor(batch="batch", modality=2, steps=4), MASK),
    ],
)
def test_a_fusion_takes_windows(place: int, wrong: TensorSpec, right: str) -> None:
    fusion = tiny_model().fusion
    inputs = tuple(wrong if i == place else one for i, one in enumerate(fusion.inputs))
    refused(f"fusion: its input x is {right}, not", fusion=fusion.model_copy(update={"inputs": inputs}))


@pytest.mark.parametrize("wrong", [tensor(batch="batch", steps=5), tensor(batch=1, steps=4)])
def test_a_fusion_gives_each_step_its_number(wrong: TensorSpec) -> None:
    fusion = tiny_model().fusion
    changed = fusion.model_copy(update={"outputs": (wrong, fusion.outputs[1])})
    refused(r"fusion: its output x is float32 \(batch, steps=4, …\), not", fusion=changed)


# -- ways to warm up ------------------------------------------------------------------------------


@pytest.mark.parametrize("warm_up", ["withhold", "shorten", "pad"])
def test_a_fusion_with_a_mask_warms_up_masked(warm_up: str) -> None:
    fusion = tiny_model(warm_up="mask").fusion.model_copy(update={"warm_up": warm_up})
    refused(f"its warm_up is 'mask', not '{warm_up}'", fusion=fusion)


def test_a_fusion_without_a_mask_cannot_warm_up_masked() -> None:
    fusion = tiny_model(warm_up="withhold").fusion.model_copy(update={"warm_up": "mask"})
    refused("warm_up 'mask' needs a fusion with a `present` input", fusion=fusion)


def test_windows_of_one_length_cannot_be_shortened() -> None:
    fusion = tiny_model(warm_up="withhold").fusion.model_copy(update={"warm_up": "shorten"})
    refused("warm_up 'shorten' needs windows of any length", fusion=fusion)


# -- what follows from it -------------------------------------------------------------------------


def test_stages_are_the_encoders_and_then_the_fusion() -> None:
    assert tiny_model().stages == ("visual", "audio", "fusion")
    assert tiny_model().modalities == ("visual", "audio")


@pytest.mark.parametrize(
    ("visual", "audio", "latency"),
    [(0, 0, 0), (FRAME, 2 * FRAME, 2 * FRAME), (-FRAME, -FRAME, 0), (-FRAME, FRAME, FRAME)],
)
def test_latency_is_the_longest_look_ahead(visual: Fraction, audio: Fraction, latency: Fraction) -> None:
    model = tiny_model(encoders=(visual_encoder(offset=visual), audio_encoder(offset=audio)))
    assert model.latency == latency


def test_nothing_measured_means_no_policy() -> None:
    assert [encoder.missing for encoder in tiny_model().encoders] == [None, None]
    assert Encoder.model_fields["missing"].default is None


# -- emotions, and outputs of a whole window ------------------------------------------------------


def test_two_emotions_do_not_share_a_name() -> None:
    with pytest.raises(ValidationError, match="two emotions share a name: joy, joy"):
        EmotionOutput(labels=("joy", "joy"))
    with pytest.raises(ValidationError):
        EmotionOutput(labels=("joy",))


def test_an_output_has_a_number_for_each_class_with_or_without_steps() -> None:
    emotion = EmotionOutput(labels=("anger", "joy", "other"))
    steps = TensorSpec(name="emo", axes=("batch", "steps", "class"), shape=("batch", 4, 3))
    window = TensorSpec(name="emo", axes=("batch", "class"), shape=("batch", 3))
    for tensor in (steps, window):
        fusion = tiny_model().fusion.model_copy(update={"outputs": (tensor,)})
        model = tiny_model(fusion=fusion, outputs=(emotion,))
        assert through_json(model) == model
    row = [[1, 2, 3], [4, 5, 6]]
    assert steps.step_of(row, 1) == [4, 5, 6]
    assert window.step_of([1, 2, 3], 1) == [1, 2, 3]
    for wrong in (("batch", 4), ("batch",)):
        tensor = TensorSpec(name="emo", axes=("batch", "class")[: len(wrong)], shape=wrong)
        fusion = tiny_model().fusion.model_copy(update={"outputs": (tensor,)})
        with pytest.raises(ValidationError, match=r"output emotion takes \(3,\) numbers per step"):
            tiny_model(fusion=fusion, outputs=(emotion,))


# -- sound as VGGish hears it ---------------------------------------------------------------------


def test_a_vggish_spectrogram_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="a window of 600 samples does not fit an FFT of 512"):
        VggishLogMel(win_samples=600)
    with pytest.raises(ValidationError, match=r"bands from 7500\.0 Hz up to 7500\.0 Hz"):
        VggishLogMel(f_min_hz=7_500.0)


def test_a_vggish_span_is_that_of_its_columns() -> None:
    shape = TensorSpec(name="x", axes=("batch", "column", "mel"), shape=("batch", 96, 64))
    good = audio_encoder(preprocess=VggishLogMel(), input=shape, span=Fraction(39, 40))
    assert tiny_model(encoders=(visual_encoder(), good)).encoders[1] == good
    short = good.model_copy(update={"span": Fraction(96, 100)})
    with pytest.raises(ValidationError, match=r"96 columns are made of 15600 samples, its span .* has 15360"):
        tiny_model(encoders=(visual_encoder(), short))


# -- courses of biosignals --------------------------------------------------------------------------

LEVEL = Course(kind="level", floor=0.1)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"courses": None}, "given together, or none"),
        ({"course_hz": None}, "given together, or none"),
        ({"normalise_memory": None}, "given together, or none"),
        ({"course_hz": 3}, "courses at 3 Hz do not divide a stream of 4 Hz"),
        ({"normalise_memory": Fraction(1, 3)}, "2 to 100000 whole values of a course, not 1/3"),
        ({"normalise_memory": Fraction(10**6)}, "2 to 100000 whole values"),
        ({"courses": ()}, "at least 1 item"),
        ({"courses": (Course(kind="heart_rate", floor=1),)}, "a pulse is read at 20 Hz or more, not at 4 Hz"),
    ],
)
def test_courses_that_cannot_be_are_refused(changed: dict[str, Any], said: str) -> None:
    good = {"courses": (LEVEL,), "course_hz": 1, "normalise_memory": Fraction(60)}
    assert Signal(rate_hz=4, unit="uS", **good).piece_hz == 1
    with pytest.raises(ValidationError, match=re.escape(said)):
        Signal(rate_hz=4, unit="uS", **good | changed)


def test_a_piece_has_a_channel_for_each_course_at_their_rate() -> None:
    spec = Signal(rate_hz=30, unit="uS", courses=(LEVEL, LEVEL), course_hz=10, normalise_memory=Fraction(6))
    shape = TensorSpec(name="x", axes=("batch", "channel", "sample"), shape=("batch", 2, 20))
    good = audio_encoder(modality="eda", preprocess=spec, input=shape, span=Fraction(2))
    assert tiny_model(encoders=(visual_encoder(), good)).encoders[1] == good
    raw = TensorSpec(name="x", axes=("batch", "channel", "sample"), shape=("batch", 1, 60))
    with pytest.raises(ValidationError, match="channel=2, sample=20"):
        tiny_model(encoders=(visual_encoder(), good.model_copy(update={"input": raw})))


@pytest.mark.parametrize(
    ("stream_hz", "said"),
    [
        (
            (0, 64),
            "from a rate above 0 to one of at most 100000 Hz, with rate_hz (32) between them, not from 0 to",
        ),
        ((33, 64), "not from 33 to 64 Hz"),
        ((4, 31.5), "not from 4 to 31.5 Hz"),
        ((4, math.inf), "not from 4 to inf Hz"),
        ((math.nan, 64), "not from nan to 64 Hz"),
        ((4,), "Field required"),
    ],
)
def test_rates_that_cannot_be_taken_are_refused(stream_hz: tuple[float, ...], said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        Signal(rate_hz=32, unit="uS", stream_hz=stream_hz)


def test_courses_take_no_other_rate() -> None:
    courses = {"courses": (LEVEL,), "course_hz": 1, "normalise_memory": Fraction(60)}
    with pytest.raises(ValidationError, match="courses are made of a stream of exactly `rate_hz`"):
        Signal(rate_hz=4, unit="uS", stream_hz=(4, 64), **courses)


def test_a_range_of_rates_is_written_and_read_again() -> None:
    spec = Signal(rate_hz=32, unit="uS", stream_hz=(4, 130.5))
    written = spec.model_dump_json(exclude_none=True)
    assert '"stream_hz":[4.0,130.5]' in written
    assert Signal.model_validate_json(written) == spec


def test_the_slowest_stream_has_samples_to_join() -> None:
    def eda(slowest_hz: float) -> Encoder:
        spec = Signal(rate_hz=32, unit="uS", stream_hz=(slowest_hz, 64))
        shape = TensorSpec(name="x", axes=("batch", "channel", "sample"), shape=("batch", 1, 64))
        return audio_encoder(modality="eda", preprocess=spec, input=shape, span=Fraction(2))

    assert tiny_model(encoders=(visual_encoder(), eda(1.0))).encoders[1] == eda(1.0)
    with pytest.raises(ValidationError, match=r"span of 2 s has fewer than 2 samples .* of 0\.9 Hz"):
        tiny_model(encoders=(visual_encoder(), eda(0.9)))


def test_a_signal_without_courses_is_written_as_ever() -> None:
    assert Signal(rate_hz=4, unit="uS").model_dump(exclude_none=True) == {
        "kind": "signal",
        "rate_hz": 4,
        "unit": "uS",
        "mean": 0.0,
        "std": 1.0,
    }
