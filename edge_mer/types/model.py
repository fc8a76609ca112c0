"""What a model declares about itself, and what travels with it in a bundle.

The exporter, the runtime, the docs and the errors all read this one declaration.
Durations are exact fractions of a second, written "16/15".
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from edge_mer.clock import NS_PER_S
from edge_mer.types.signals import Modality

_WRITTEN_FRACTION = re.compile(r"-?[0-9]{1,18}([./][0-9]{1,18})?")
"""No exponents and no endless numbers: "1e999999999" alone would take hours to read."""


def _fraction(value: Any) -> Fraction:
    is_number = isinstance(value, (Fraction, int)) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and _WRITTEN_FRACTION.fullmatch(value)):
        try:
            return Fraction(value)
        except ZeroDivisionError:
            pass
    raise ValueError(f"a duration in seconds is a fraction such as '16/15', not {value!r}")


Seconds = Annotated[Fraction, BeforeValidator(_fraction), PlainSerializer(str, return_type=str)]
"""An exact duration in seconds."""


def to_ns(seconds: Fraction) -> int:
    """Integer nanoseconds, rounded down: the one rounding of every grid point."""
    return (seconds.numerator * NS_PER_S) // seconds.denominator


def line_ns(slope: Fraction, start: Fraction) -> Callable[[int], int]:
    """`to_ns(slope * n + start)` as a function of n, in whole numbers; fractions are slow, chunk by chunk."""
    below = math.lcm(slope.denominator, start.denominator)
    slope_ns, start_ns = (int(seconds * below) * NS_PER_S for seconds in (slope, start))
    return lambda n: (slope_ns * n + start_ns) // below


class Declared(BaseModel):
    """Base of everything declared: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


FREE_AXES = ("batch", "steps", "token")
"""Axes whose size may stay free."""

DTYPES = ("float32", "int64", "bool")
"""Types of tensors."""


class TensorSpec(Declared):
    """One tensor at the edge of a stage.

    Attributes:
        name: Its name in the ONNX graph.
        axes: Names of its axes, e.g. ("batch", "steps", "feature").
        shape: A size per axis, or the axis' own name where the size is free (`FREE_AXES`).
        dtype: NumPy name of its type (`DTYPES`).
    """

    name: str
    axes: tuple[str, ...]
    shape: tuple[int | str, ...]
    dtype: str = "float32"

    @model_validator(mode="after")
    def _is_possible(self) -> TensorSpec:
        if len(self.axes) != len(self.shape):
            raise ValueError(f"tensor {self.name}: {len(self.axes)} axis names for {len(self.shape)} sizes")
        for axis, size in zip(self.axes, self.shape, strict=True):
            is_free = isinstance(size, str) and size == axis and axis in FREE_AXES
            if not is_free and (isinstance(size, str) or size < 1):
                raise ValueError(
                    f"tensor {self.name}: the size of axis {axis!r} is a number from 1 on, or its own name "
                    f"where it is one of {', '.join(FREE_AXES)}, not {size!r}"
                )
        if self.dtype not in DTYPES:
            raise ValueError(f"tensor {self.name}: a dtype is one of {', '.join(DTYPES)}, not {self.dtype!r}")
        return self

    def concrete(self, **sizes: int) -> tuple[int, ...]:
        """The shape with its free axes set, e.g. `concrete(batch=1)`."""
        return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in self.shape)

    def __str__(self) -> str:
        return written(self.dtype, dict(zip(self.axes, self.shape, strict=True)))

    def step_of(self, row: Any, step: int) -> Any:
        """The numbers of one step in a row of a batch; a tensor without steps holds one step's only."""
        return row[step] if "steps" in self.axes else row


def written(dtype: str, sizes: Mapping[str, int | str]) -> str:
    """A type and the size of each axis in words, e.g. "float32 (batch, channel=1, sample=64)"."""
    axes = (axis if axis == size else f"{axis}={size}" for axis, size in sizes.items())
    return f"{dtype} ({', '.join(axes)})"


class FaceAlignment(Declared):
    """How a face must lie in its crop.

    Attributes:
        left_eye: Centre of the eye at the picture's left, (x, y) in fractions of the crop's side.
        right_eye: Centre of the eye at the picture's right, likewise.
        eyes_max_age_s: How long eye positions found in an earlier frame may stand in, moved along
            with the face box, before the crop counts as unaligned (blinks, glasses).
    """

    left_eye: tuple[float, float] = (38.2946 / 112, 51.6963 / 112)
    right_eye: tuple[float, float] = (73.5318 / 112, 51.5014 / 112)
    eyes_max_age_s: float = Field(default=1.0, ge=0)


_Positive = Annotated[float, Field(gt=0)]


class Clip(Declared):
    """Some frames of a camera: (channel, frame, height, width), channels R, G, B.

    A pixel becomes (value / 255 - mean) / std. A missing frame is zero before that normalisation.
    Sampling is bilinear; where the crop shrinks the picture, each pixel is the mean of a grid of
    bilinear samples (see `edge_mer.preprocess.image`).

    Attributes:
        n_frames: Frames in a clip.
        frame_interval: Time between two frames of the clip.
        last_frame_before_end: Time from the clip's last frame to the end of its span.
        frame_tolerance: A frame farther than this from its nominal time counts as missing.
        mean: Per channel, after division by 255.
        std: Per channel, after division by 255.
    """

    n_frames: int = Field(gt=0, le=1024)
    frame_interval: Seconds
    last_frame_before_end: Seconds
    frame_tolerance: Seconds
    mean: tuple[float, float, float]
    std: tuple[_Positive, _Positive, _Positive]

    @property
    @abstractmethod
    def shape_px(self) -> tuple[int, int]:
        """Height and width."""


class FaceClip(Clip):
    """A clip of aligned faces.

    Attributes:
        size_px: Side of the square crop.
        alignment: How the face lies in the crop.
    """

    kind: Literal["face_clip"] = "face_clip"
    size_px: int = Field(gt=0, le=1024)
    alignment: FaceAlignment = FaceAlignment()

    @property
    def shape_px(self) -> tuple[int, int]:
        """Height and width."""
        return self.size_px, self.size_px


class SceneClip(Clip):
    """A clip of the whole picture, shrunk to fit and centred; what it leaves free is black.

    Attributes:
        height_px: Of the clip's frames.
        width_px: Of the clip's frames.
    """

    kind: Literal["scene_clip"] = "scene_clip"
    height_px: int = Field(gt=0, le=1024)
    width_px: int = Field(gt=0, le=1024)

    @property
    def shape_px(self) -> tuple[int, int]:
        """Height and width."""
        return self.height_px, self.width_px


class LogMel(Declared):
    """A log-mel spectrogram: (channel = 1, mel, column), power in dB, then (dB - mean) / std.

    Periodic Hann window, centred frames with reflected edges, HTK mel scale without area
    normalisation, 10 log10(max(power, amin)), clamped to `top_db` below the spectrogram's maximum.

    Attributes:
        rate_hz: Samples per second; another rate is resampled, several channels are averaged.
        n_fft: FFT size in samples.
        win_samples: Window length in samples, centred in the FFT.
        hop_samples: Samples between two columns.
        n_mels: Mel bands.
        f_min_hz: Lowest frequency of the lowest band.
        f_max_hz: Highest frequency of the highest band.
        amin: Smallest power before the logarithm.
        top_db: Dynamic range kept below each spectrogram's maximum.
        mean: Subtracted from the dB values.
        std: Divides them.
        width: Columns; narrower spectrograms are padded at the left with 0 after normalisation,
            wider ones lose their oldest columns.
    """

    kind: Literal["log_mel"] = "log_mel"
    rate_hz: int = Field(gt=0, le=192_000)
    n_fft: int = Field(gt=0, le=65_536)
    win_samples: int = Field(gt=0, le=65_536)
    hop_samples: int = Field(gt=0)
    n_mels: int = Field(gt=0, le=1024)
    f_min_hz: float = Field(ge=0)
    f_max_hz: float = Field(gt=0)
    amin: float = Field(gt=0)
    top_db: float = Field(gt=0)
    mean: float
    std: float = Field(gt=0)
    width: int = Field(gt=0, le=65_536)

    @model_validator(mode="after")
    def _is_possible(self) -> LogMel:
        _check_bands(self)
        return self


class VggishLogMel(Declared):
    """A log-mel spectrogram as VGGish takes it: (column, mel), natural logarithm, not normalised.

    Periodic Hann window, no padding, magnitudes, HTK mel bands whose triangles are linear in mel,
    log(mel + offset). Columns lie on one grid of `hop_samples` from the stream's start.

    Attributes:
        rate_hz: Samples per second; another rate is resampled, several channels are averaged.
        n_fft: FFT size in samples.
        win_samples: Window length in samples.
        hop_samples: Samples between two columns.
        n_mels: Mel bands.
        f_min_hz: Lowest frequency of the lowest band.
        f_max_hz: Highest frequency of the highest band.
        offset: Added before the logarithm.
        width: Columns.
    """

    kind: Literal["vggish_log_mel"] = "vggish_log_mel"
    rate_hz: int = Field(default=16_000, gt=0, le=192_000)
    n_fft: int = Field(default=512, gt=0, le=65_536)
    win_samples: int = Field(default=400, gt=0, le=65_536)
    hop_samples: int = Field(default=160, gt=0)
    n_mels: int = Field(default=64, gt=0, le=1024)
    f_min_hz: float = Field(default=125.0, ge=0)
    f_max_hz: float = Field(default=7_500.0, gt=0)
    offset: float = Field(default=0.01, gt=0)
    width: int = Field(default=96, gt=0, le=65_536)

    @model_validator(mode="after")
    def _is_possible(self) -> VggishLogMel:
        _check_bands(self)
        return self

    @property
    def n_samples(self) -> int:
        """Samples of a piece."""
        return (self.width - 1) * self.hop_samples + self.win_samples


def _check_bands(spec: LogMel | VggishLogMel) -> None:
    if spec.win_samples > spec.n_fft:
        raise ValueError(f"a window of {spec.win_samples} samples does not fit an FFT of {spec.n_fft}")
    if spec.f_min_hz >= spec.f_max_hz:
        raise ValueError(f"bands from {spec.f_min_hz} Hz up to {spec.f_max_hz} Hz")


CourseKind = Literal["level", "log_level", "heart_rate"]
"""What can be derived from a biosignal, see `Course`."""

MAX_STREAM_HZ = 100_000
"""The fastest stream of a biosignal."""

PULSE_SPAN_S = 10
"""How far a heart rate looks back."""


class Course(Declared):
    """One course of a biosignal, judged against its own recent past.

    Each value stands for one cell of the grid of `Signal.course_hz` and is made of what came before the
    cell's end: the mean of the cell ("level", in the stream's unit), the logarithm of it ("log_level"), or
    the heart rate in the last `PULSE_SPAN_S` of a photoplethysmogram (beats per minute). It becomes
    (value - mean) / deviation, with mean and deviation of the memory that ends with it.

    Attributes:
        kind: What is derived.
        floor: Smallest deviation that is divided by, in the unit of the course: less is noise.
    """

    kind: CourseKind
    floor: float = Field(gt=0)


class Signal(Declared):
    """A piece of a biosignal: (channel, sample), (value - mean) / std.

    Without courses the stream itself is the one channel, and nothing is filtered. With courses each of
    them is a channel, at `course_hz`. Before the memory is full for the first time, and again after a gap
    longer than it, nothing counts as present: statistics over what is there would tell how long a
    session has been going on.

    A stream of another rate is refused, unless it lies in `stream_hz`: then each step's piece of it is
    resampled. A sample of the stream stands for the time halfway to its neighbours, and one of the piece for
    the mean over its own time, but over no less than a sample of the stream: slow samples are joined by
    straight lines, and fast ones averaged.

    Attributes:
        rate_hz: Samples per second of a piece, and of the stream.
        unit: Physical unit of the stream; another one is refused.
        mean: Subtracted from the values, in `unit`.
        std: Divides them, in `unit`.
        courses: What is derived of the stream; None: nothing.
        course_hz: Values of each course per second.
        normalise_memory: How far back a course is compared with itself.
        stream_hz: Slowest and fastest stream that is taken, with `rate_hz` between; None: only `rate_hz`.
            Not together with courses, which are made of the stream as it comes.
    """

    kind: Literal["signal"] = "signal"
    rate_hz: int = Field(gt=0, le=MAX_STREAM_HZ)
    unit: Literal["uS", "mV", "degC", "1"]
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    courses: Annotated[tuple[Course, ...], Field(min_length=1, max_length=16)] | None = None
    course_hz: int | None = Field(default=None, gt=0)
    normalise_memory: Seconds | None = None
    stream_hz: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _takes_its_own_rate(self) -> Signal:
        if self.stream_hz is None:
            return self
        if self.courses is not None:
            raise ValueError("courses are made of a stream of exactly `rate_hz`: leave out stream_hz")
        slowest, fastest = self.stream_hz
        if not 0 < slowest <= self.rate_hz <= fastest <= MAX_STREAM_HZ:
            raise ValueError(
                f"stream_hz goes from a rate above 0 to one of at most {MAX_STREAM_HZ} Hz, with rate_hz "
                f"({self.rate_hz}) between them, not from {slowest:g} to {fastest:g} Hz"
            )
        return self

    @model_validator(mode="after")
    def _goes_together(self) -> Signal:
        given = [one is not None for one in (self.courses, self.course_hz, self.normalise_memory)]
        if any(given) != all(given):
            raise ValueError("courses, course_hz and normalise_memory are given together, or none of them")
        if self.courses is None or self.course_hz is None or self.normalise_memory is None:
            return self
        if self.rate_hz % self.course_hz:
            raise ValueError(f"courses at {self.course_hz} Hz do not divide a stream of {self.rate_hz} Hz")
        n_kept = self.normalise_memory * self.course_hz
        if n_kept.denominator != 1 or not 2 <= n_kept <= MAX_KEPT:
            raise ValueError(f"a memory holds 2 to {MAX_KEPT} whole values of a course, not {n_kept}")
        is_pulse = any(course.kind == "heart_rate" for course in self.courses)
        if is_pulse and self.rate_hz < MIN_PULSE_HZ:
            raise ValueError(f"a pulse is read at {MIN_PULSE_HZ} Hz or more, not at {self.rate_hz} Hz")
        return self

    @property
    def n_channels(self) -> int:
        """Channels of a piece."""
        return 1 if self.courses is None else len(self.courses)

    @property
    def piece_hz(self) -> int:
        """Samples per second of a piece."""
        return self.course_hz or self.rate_hz

    @property
    def memory(self) -> Fraction:
        """How long a session goes on, in seconds, before anything counts as present."""
        return self.normalise_memory or Fraction(0)


MAX_KEPT = 100_000
"""Most values of a course that are remembered."""

MIN_PULSE_HZ = 20
"""The slowest stream that a pulse is read from."""


class Words(Declared):
    """Vectors of spoken words at the times at which they were spoken.

    Each utterance is encoded once, as a whole. A word's vector is the mean of its tokens' vectors; it
    stands in every step whose start lies in (word's start, word's end], zeros stand in the others, and
    (vector - mean) / std is taken of both. Of two words at one time the earlier one counts.

    Attributes:
        tokenizer: Path in the bundle of the tokenizer in the format of the `tokenizers` library.
        max_tokens: Longest utterance in tokens, with the two that begin and end it; a longer one is cut
            between words into several.
        mean: Subtracted from every number.
        std: Divides them.
    """

    kind: Literal["words"] = "words"
    tokenizer: str
    max_tokens: int = Field(default=256, ge=4, le=512)
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)


PreprocessSpec = Annotated[
    FaceClip | SceneClip | LogMel | VggishLogMel | Signal | Words, Field(discriminator="kind")
]

SampledSpec = LogMel | VggishLogMel | Signal
"""What turns samples at a fixed rate into a tensor."""

MissingPolicy = Literal["mask", "zero_feature", "blank_input", "hold", "abstain"]
"""What stands in for a modality that is not there: its mask (the model has a `present` input), a
zero feature, the encoder's feature of a blank input, the last feature up to a maximum age, or no
estimate at all."""


class Encoder(Declared):
    """One modality's way from its stream to a feature per step.

    Attributes:
        stage: Name of the stage (and of its ONNX files).
        modality: The stream it reads.
        input: The tensor of one step, or of words the token numbers of one utterance.
        output: The feature of one step, or of words one vector per token.
        period: Time between two pieces.
        span: How long a piece it sees.
        offset: Where the piece ends against the step's end; positive looks ahead. Of words: how long
            after a step's end a word may still come.
        repeat: For how many steps one feature serves, counted from the first step on; the piece ends
            against the last of them.
        preprocess: From raw chunks to `input`.
        min_coverage: Share of its span that must be there for the step to count as present.
        missing: What stands in for an absent step; None = never measured, which means abstain.
        hold_max_age: For "hold": how old the feature may be.
    """

    stage: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    modality: Modality
    input: TensorSpec
    output: TensorSpec
    period: Seconds
    span: Seconds
    offset: Seconds = Fraction(0)
    repeat: int = Field(default=1, ge=1)
    preprocess: PreprocessSpec
    min_coverage: float = Field(default=0.5, gt=0, le=1)
    missing: MissingPolicy | None = None
    hold_max_age: Seconds | None = None

    @model_validator(mode="after")
    def _holds_for_a_time(self) -> Encoder:
        if self.missing == "hold" and (self.hold_max_age is None or self.hold_max_age <= 0):
            raise ValueError(f"{self.stage}: policy 'hold' needs a `hold_max_age` above 0 s")
        return self

    @property
    def feature(self) -> int:
        """Size of one step's feature."""
        return int(self.output.shape[-1])


class Fusion(Declared):
    """From the features of a window of steps to the outputs.

    Attributes:
        stage: Name of the stage.
        n_steps: Steps in a full window (L).
        inputs: One tensor per modality (batch, steps, feature) in the order of the encoders;
            with `has_present_input`, then "present" (batch, modality, steps) of bool.
        outputs: One tensor per output: (batch, steps, …) gives every step's own, (batch, …) the
            last step's.
        has_present_input: The model takes a mask of what is there.
        warm_up: Before L steps are there: "mask" (run, absent steps masked: what a model with a mask does,
            and no other), "shorten" (run on fewer steps, the axis is free), "pad" (the encoders' features of
            a blank input stand behind the steps that are there), or "withhold".
        hop: Steps between two predictions.
    """

    stage: str = Field(default="fusion", pattern=r"^[a-z][a-z0-9_]*$")
    n_steps: int = Field(gt=0, le=4096)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    has_present_input: bool = False
    warm_up: Literal["mask", "shorten", "pad", "withhold"]
    hop: int = Field(default=1, ge=1, le=4096)


class AffectOutput(Declared):
    """A dimension of affect: one number per step.

    Attributes:
        name: "valence" or "arousal".
        low: Smallest value; the raw output is clipped to it.
        high: Largest value.
    """

    kind: Literal["affect"] = "affect"
    name: Literal["valence", "arousal"]
    low: float = -1.0
    high: float = 1.0

    @model_validator(mode="after")
    def _is_a_range(self) -> AffectOutput:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"{self.name} goes from a number to a larger one, not {self.low} to {self.high}")
        return self

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape of one step's raw output."""
        return ()


class PainOutput(Declared):
    """Levels of pain in rising order: one logit per level and step.

    Attributes:
        scale: What the levels are those of, e.g. "biovid-bl-pa4".
        levels: Their names; level k stands for the number k.
    """

    kind: Literal["pain"] = "pain"
    name: Literal["pain"] = "pain"
    scale: str
    levels: tuple[str, ...] = Field(min_length=2, max_length=64)

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape of one step's raw output."""
        return (len(self.levels),)

    @model_validator(mode="after")
    def _names_differ(self) -> PainOutput:
        if len(set(self.levels)) != len(self.levels):
            raise ValueError(f"two levels of pain share a name: {', '.join(self.levels)}")
        return self


class EmotionOutput(Declared):
    """Classes of emotion without an order: one logit per class.

    Attributes:
        labels: Their names.
    """

    kind: Literal["emotion"] = "emotion"
    name: Literal["emotion"] = "emotion"
    labels: tuple[str, ...] = Field(min_length=2, max_length=64)

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape of one step's raw output."""
        return (len(self.labels),)

    @model_validator(mode="after")
    def _names_differ(self) -> EmotionOutput:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"two emotions share a name: {', '.join(self.labels)}")
        return self


Output = Annotated[AffectOutput | PainOutput | EmotionOutput, Field(discriminator="kind")]
"""What the model estimates."""


class Tolerances(Declared):
    """How far numbers may be off, in units of each tensor's own standard deviation.

    Attributes:
        parity: FP32 stages and outputs against PyTorch, and streaming against offline.
        int8_drift: How much further than on the workbench a quantized candidate's outputs may be
            from PyTorch's on another device (root mean square), and its streaming from offline.
        min_fidelity: Smallest concordance with FP32 on other sessions that a quantized candidate
            must have to be chosen on a device.
    """

    parity: float = Field(default=1e-3, gt=0)
    int8_drift: float = Field(default=0.05, gt=0)
    min_fidelity: float = Field(default=0.98, le=1)


class ModelSpec(Declared):
    """Everything that a device must know about a model.

    Attributes:
        name: E.g. "jmt-tiny".
        title: One line for people.
        source: The publication it follows.
        step: Time between two steps of the grid.
        encoders: One per modality, in the order of the fusion's inputs.
        fusion: The window fusion.
        outputs: What the fusion's outputs mean, in their order.
        tolerances: What its proofs must keep.
        intended_use: What it is for, and what not.
        licence: Licence of the weights.
        max_skew_ms: How far streams may lie apart before an estimate is withheld; None = never measured,
            and nothing is withheld for it.
    """

    name: str
    title: str
    source: str
    step: Seconds
    encoders: tuple[Encoder, ...] = Field(min_length=1)
    fusion: Fusion
    outputs: tuple[Output, ...] = Field(min_length=1)
    tolerances: Tolerances = Tolerances()
    intended_use: str
    licence: str
    max_skew_ms: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _fits_together(self) -> ModelSpec:
        if self.step <= 0:
            raise ValueError("a step takes time: `step` must be positive")
        n_inputs = len(self.encoders) + (1 if self.fusion.has_present_input else 0)
        if len(self.fusion.inputs) != n_inputs:
            raise ValueError(
                f"fusion declares {len(self.fusion.inputs)} inputs where its encoders give {n_inputs}"
            )
        if len(self.fusion.outputs) != len(self.outputs):
            raise ValueError(f"fusion has {len(self.fusion.outputs)} outputs, {len(self.outputs)} are named")
        if len(set(self.stages)) != len(self.stages):
            raise ValueError(f"two stages share a name: {', '.join(self.stages)}")
        if len({encoder.modality for encoder in self.encoders}) != len(self.encoders):
            raise ValueError("two encoders read the same modality")
        if len({output.name for output in self.outputs}) != len(self.outputs):
            raise ValueError("two outputs share a name")
        _check_warm_up(self.fusion)
        for tensor, output in zip(self.fusion.outputs, self.outputs, strict=True):
            n_axes = 2 if "steps" in tensor.axes else 1
            if tensor.shape[n_axes:] != output.value_shape:
                raise ValueError(
                    f"output {output.name} takes {output.value_shape} numbers per step, "
                    f"tensor {tensor.name} has {tensor.shape[n_axes:]}"
                )
        for encoder in self.encoders:
            if encoder.span <= 0:
                raise ValueError(f"{encoder.stage}: a piece takes time, but its span is {encoder.span} s")
            spec = encoder.preprocess
            if isinstance(spec, VggishLogMel) and int(encoder.span * spec.rate_hz) != spec.n_samples:
                raise ValueError(
                    f"{encoder.stage}: {spec.width} columns are made of {spec.n_samples} samples, "
                    f"its span of {encoder.span} s has {int(encoder.span * spec.rate_hz)}"
                )
            if isinstance(spec, Signal) and spec.stream_hz and encoder.span * Fraction(spec.stream_hz[0]) < 2:
                raise ValueError(
                    f"{encoder.stage}: its span of {encoder.span} s has fewer than 2 samples of the slowest "
                    f"stream that it takes, of {spec.stream_hz[0]:g} Hz"
                )
            if encoder.period != self.step * encoder.repeat:
                raise ValueError(f"{encoder.stage}: period {encoder.period} s is not {encoder.repeat} steps")
            if encoder.repeat > 1 and isinstance(encoder.preprocess, (Clip, Words)):
                raise ValueError(f"{encoder.stage}: only samples can serve {encoder.repeat} steps at once")
            if self.fusion.hop % encoder.repeat:
                raise ValueError(
                    f"{encoder.stage}: a feature serves {encoder.repeat} steps, "
                    f"which a hop of {self.fusion.hop} does not divide into"
                )
            if encoder.missing == "mask" and not self.fusion.has_present_input:
                raise ValueError(f"{encoder.stage}: policy 'mask' needs a fusion with a `present` input")
            _check_names(encoder.stage, (encoder.input, encoder.output))
            _check_layout(encoder)
        _check_names(self.fusion.stage, (*self.fusion.inputs, *self.fusion.outputs))
        _check_window(self.fusion, len(self.encoders))
        return self

    @property
    def stages(self) -> tuple[str, ...]:
        """Stage names: encoders first, then the fusion."""
        return (*(encoder.stage for encoder in self.encoders), self.fusion.stage)

    @property
    def tensors(self) -> dict[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]]:
        """Stage -> its inputs and outputs."""
        encoders = {one.stage: ((one.input,), (one.output,)) for one in self.encoders}
        return {**encoders, self.fusion.stage: (self.fusion.inputs, self.fusion.outputs)}

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities in the order of the encoders."""
        return tuple(encoder.modality for encoder in self.encoders)

    @property
    def latency(self) -> Fraction:
        """Inherent latency in seconds: how far past a step's end the model must look."""
        return max(Fraction(0), *(encoder.offset for encoder in self.encoders))

    def step_start_ns(self, step: int) -> int:
        """Start of step `step` (from 0) on the grid, in nanoseconds."""
        return self.step.numerator * step * NS_PER_S // self.step.denominator

    def step_end_ns(self, step: int) -> int:
        """End of step `step`, which is the start of the next."""
        return self.step_start_ns(step + 1)


def _check_warm_up(fusion: Fusion) -> None:
    """Ways to warm up that the runtime cannot go."""
    if fusion.has_present_input and fusion.warm_up != "mask":
        raise ValueError(
            "a fusion with a `present` input runs from the first step on, the steps before it masked: "
            f"its warm_up is 'mask', not {fusion.warm_up!r}"
        )
    if fusion.warm_up == "mask" and not fusion.has_present_input:
        raise ValueError("warm_up 'mask' needs a fusion with a `present` input")
    if fusion.warm_up == "shorten" and not any("steps" in tensor.shape for tensor in fusion.inputs):
        raise ValueError(
            "warm_up 'shorten' needs windows of any length: write 'steps' for the size of the axis steps "
            "in the fusion's tensors"
        )


def _check_names(stage: str, tensors: tuple[TensorSpec, ...]) -> None:
    names = [tensor.name for tensor in tensors]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{stage}: two of its tensors are called {twice}, and they are told by their names")


def _last_size(tensor: TensorSpec) -> int | str:
    return tensor.shape[-1] if tensor.shape else 0


def _check_layout(encoder: Encoder) -> None:
    """An encoder takes what its preprocessing writes, and gives a feature of a fixed size."""
    layouts = _layouts(encoder)
    if str(encoder.input) not in layouts:
        raise ValueError(
            f"{encoder.stage}: its input {encoder.input.name} is {' or '.join(layouts)}, as "
            f"{encoder.preprocess.kind} is written, not {encoder.input}"
        )
    free = ("batch", "token") if isinstance(encoder.preprocess, Words) else ("batch",)
    sizes = dict(zip(free, free, strict=True)) | {"feature": _last_size(encoder.output)}
    if str(encoder.output) != written("float32", sizes):
        expected = written("float32", {**sizes, "feature": "N"})
        raise ValueError(
            f"{encoder.stage}: its output {encoder.output.name} is {expected}, not {encoder.output}"
        )


def _layouts(encoder: Encoder) -> list[str]:
    """What an encoder's preprocessing writes, as `str` of a tensor says it."""
    spec = encoder.preprocess
    sizes: dict[str, int | str]
    if isinstance(spec, Words):
        return [written("int64", {"batch": "batch", "token": "token"})]
    if isinstance(spec, Clip):
        height_px, width_px = spec.shape_px
        sizes = {"channel": 3, "frame": spec.n_frames, "height": height_px, "width": width_px}
    elif isinstance(spec, LogMel):
        sizes = {"channel": 1, "mel": spec.n_mels, "column": spec.width}
    elif isinstance(spec, VggishLogMel):
        sizes = {"column": spec.width, "mel": spec.n_mels}
    else:
        sizes = {"channel": spec.n_channels, "sample": int(encoder.span * spec.piece_hz)}
    layouts = [written("float32", {"batch": "batch", **sizes})]
    if sizes.get("frame") == 1:  # a model of single frames may have no axis for them
        del sizes["frame"]
        layouts.append(written("float32", {"batch": "batch", **sizes}))
    return layouts


def _check_window(fusion: Fusion, n_modalities: int) -> None:
    """A fusion's tensors hold a window's steps, all of them the same number."""
    steps: int | str = "steps" if "steps" in fusion.inputs[0].shape else fusion.n_steps
    window: dict[str, int | str] = {"batch": "batch", "steps": steps}
    for tensor in fusion.inputs[:n_modalities]:
        if str(tensor) != written("float32", {**window, "feature": _last_size(tensor)}):
            expected = written("float32", {**window, "feature": "N"})
            raise ValueError(f"{fusion.stage}: its input {tensor.name} is {expected}, not {tensor}")
    for tensor in fusion.inputs[n_modalities:]:
        expected = written("bool", {"batch": "batch", "modality": n_modalities, "steps": steps})
        if str(tensor) != expected:
            raise ValueError(f"{fusion.stage}: its input {tensor.name} is {expected}, not {tensor}")
    for tensor in fusion.outputs:
        begin = window if "steps" in tensor.axes else {"batch": "batch"}
        values = dict(zip(tensor.axes, tensor.shape, strict=True))
        if str(tensor) != written("float32", {**begin, **values, **begin}):
            expected = written("float32", {**begin, "…": "…"})
            raise ValueError(f"{fusion.stage}: its output {tensor.name} is {expected}, not {tensor}")
