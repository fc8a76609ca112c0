"""The tiny model with words and an emotion: a tokenizer, a session in which somebody speaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import Clock, ManualClock
from edge_mer.engine.base import Array, Engine
from edge_mer.runtime.pipeline import Pipeline, PipelineSetup, StepTrace
from edge_mer.types.model import (
    AffectOutput,
    EmotionOutput,
    Encoder,
    Fusion,
    ModelSpec,
    SceneClip,
    TensorSpec,
    Words,
    to_ns,
)
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk, StreamSpec
from tests.helpers.numpy_engines import NumpyEngine, mean_feature
from tests.helpers.tiny_model import FEATURE, FRAME, N_STEPS, STEP, audio_encoder, tiny_model, visual_encoder
from tests.helpers.tiny_session import SquareDetector, TinySession

MEAN, STD = 0.5, 4.0
PATH = "text/tokenizer.json"
TOKENS = ("[UNK]", "[CLS]", "[SEP]", "so", "mo", "sa", "##fe", "##mi", "##si", "ha", "new", "york")
LABELS = ("anger", "joy", "other")
TEXT = StreamSpec(
    name="test/text",
    modality="text",
    axes=("word", "field"),
    shape=(None, 3),
    dtype="str",
    rate_hz=None,
    unit="word",
    channels=("word", "start_ns", "end_ns"),
)

SpokenWord = tuple[str, float, float]
"""A word, its start and its end, the latter in steps."""


def tokenizer_bytes() -> bytes:
    """A WordPiece tokenizer of a dozen tokens, as it lies in a bundle."""
    import tokenizers

    made = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({token: i for i, token in enumerate(TOKENS)}, unk_token="[UNK]")  # noqa: S106
    )
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return str(made.to_str()).encode()


def text_encoder(**changes: Any) -> Encoder:
    """Reads words; `changes` replace what is declared."""
    declared: dict[str, Any] = {
        "stage": "text",
        "modality": "text",
        "input": TensorSpec(name="ids", axes=("batch", "token"), shape=("batch", "token"), dtype="int64"),
        "output": TensorSpec(
            name="vectors", axes=("batch", "token", "feature"), shape=("batch", "token", FEATURE)
        ),
        "period": STEP,
        "span": STEP,
        "preprocess": Words(tokenizer=PATH, max_tokens=8, mean=MEAN, std=STD),
    }
    return Encoder(**(declared | changes))


def scene_encoder(n_frames: int = 2, **changes: Any) -> Encoder:
    """Looks at the whole picture, 6 by 8 pixels of it; a model of one frame has no axis for frames."""
    clip = SceneClip(
        height_px=6,
        width_px=8,
        n_frames=n_frames,
        frame_interval=4 * FRAME,
        last_frame_before_end=FRAME,
        frame_tolerance=FRAME,
        mean=(0.4, 0.4, 0.4),
        std=(0.2, 0.2, 0.2),
    )
    frames = {"frame": n_frames} if n_frames > 1 else {}
    sizes: dict[str, int | str] = {"batch": "batch", "channel": 3, **frames, "height": 6, "width": 8}
    shape = TensorSpec(name="scene", axes=tuple(sizes), shape=tuple(sizes.values()))
    return visual_encoder(**({"preprocess": clip, "input": shape} | changes))


def token_vectors(ids: Array) -> tuple[Array, ...]:
    """Of each token: its number, its place, and how many tokens the utterance has."""
    place = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    return (np.stack([ids, place, np.full(ids.shape, ids.shape[1])], axis=-1).astype(np.float32),)


def running_means(*windows: Array) -> tuple[Array, ...]:
    """Valence of each step from all steps up to it; an emotion of the window, later steps counting more."""
    present = windows[-1] if windows[-1].dtype == np.bool_ else None
    features = np.stack(windows if present is None else windows[:-1], axis=1)  # (batch, modality, steps, 3)
    if present is not None:
        features = features * present[..., np.newaxis]
    mixed = np.tensordot(features, [0.02, 0.03, 0.05][: features.shape[1]], axes=([1], [0]))
    n_steps = mixed.shape[1]
    means = np.cumsum(mixed[:, :, 0], axis=1) / np.arange(1, n_steps + 1)
    logits = np.tensordot(mixed, np.arange(1, n_steps + 1) / n_steps, axes=([1], [0]))  # (batch, class)
    return means.astype(np.float32), logits.astype(np.float32)


def emotion_model(
    *encoders: Encoder, warm_up: Any = "withhold", n_steps: int = N_STEPS, hop: int = 1, **changes: Any
) -> ModelSpec:
    """Valence per step and an emotion per window, of any encoders; by default of scenes and voice."""
    encoders = encoders or (scene_encoder(), audio_encoder())
    steps: int | str = "steps" if warm_up == "shorten" else n_steps
    axes = ("batch", "steps", "feature")
    inputs = [TensorSpec(name=f"{e.stage}_in", axes=axes, shape=("batch", steps, FEATURE)) for e in encoders]
    if warm_up == "mask":
        shape = ("batch", len(encoders), steps)
        inputs.append(
            TensorSpec(name="present", axes=("batch", "modality", "steps"), shape=shape, dtype="bool")
        )
    fusion = Fusion(
        n_steps=n_steps,
        inputs=tuple(inputs),
        outputs=(
            TensorSpec(name="val", axes=("batch", "steps"), shape=("batch", steps)),
            TensorSpec(name="emo", axes=("batch", "class"), shape=("batch", len(LABELS))),
        ),
        has_present_input=warm_up == "mask",
        warm_up=warm_up,
        hop=hop,
    )
    outputs = (AffectOutput(name="valence"), EmotionOutput(labels=LABELS))
    return tiny_model(**({"encoders": encoders, "fusion": fusion, "outputs": outputs} | changes))


def wordy_model(text: Encoder | None = None, **changes: Any) -> ModelSpec:
    """Voice and words."""
    return emotion_model(audio_encoder(), text or text_encoder(), **changes)


def emotion_engines(model: ModelSpec, fusion: Any = running_means) -> dict[str, Engine]:
    """Stage -> engine."""
    sizes = {"batch": 1, "steps": model.fusion.n_steps, "token": 4}
    engines: dict[str, Engine] = {
        e.stage: NumpyEngine(
            e.stage,
            (e.input,),
            (e.output,),
            sizes,
            token_vectors if isinstance(e.preprocess, Words) else mean_feature,
        )
        for e in model.encoders
    }
    engines[model.fusion.stage] = NumpyEngine(
        model.fusion.stage, model.fusion.inputs, model.fusion.outputs, sizes, fusion
    )
    return engines


def utterance(*words: SpokenWord, seq: int = 0, at: float | None = None) -> Chunk:
    """A chunk of words; it comes when the last one is out, or at `at` steps."""
    rows = [(text, str(_ns(start)), str(_ns(end))) for text, start, end in words]
    data = np.array(rows) if rows else np.zeros((0, 3), "<U1")
    t_ns = _ns(max((end for _, _, end in words), default=0.0) if at is None else at)
    return Chunk(TEXT.name, "text", seq, t_ns, data)


def _ns(steps: float) -> int:
    return round(to_ns(STEP) * steps)


@dataclass
class WordySession(TinySession):
    """A session in which somebody speaks.

    Attributes:
        utterances: What is said.
        has_transcript: Whether there is a stream of words at all.
    """

    utterances: tuple[Chunk, ...] = field(default=())
    has_transcript: bool = True

    @property
    def specs(self) -> list[StreamSpec]:
        """Its streams."""
        return [*super().specs, *([TEXT] if self.has_transcript else [])]

    def chunks(self) -> Iterator[Chunk]:
        """All that comes."""
        yield from sorted([*super().chunks(), *self.utterances], key=lambda chunk: chunk.t_ns)


def feature_of(vector: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """What stands in a step in which a word of this vector is said, or none."""
    raw = np.zeros(FEATURE, np.float32) if vector is None else vector
    return (raw - np.float32(MEAN)) / np.float32(STD)


@dataclass(frozen=True)
class Played:
    """What came of a session."""

    predictions: list[Prediction]
    traces: list[StepTrace]
    pipeline: Pipeline
    setup: PipelineSetup

    @property
    def status(self) -> list[str]:
        """Of each prediction."""
        return [prediction.status for prediction in self.predictions]

    @property
    def reasons(self) -> list[tuple[str, ...]]:
        """Of each prediction."""
        return [prediction.reasons for prediction in self.predictions]

    def runs(self, stage: str) -> int:
        """How often a stage ran."""
        return self.setup.engines[stage].n_runs

    def features(self, stage: str) -> NDArray[np.float32]:
        """The newest feature of each step."""
        return np.stack([trace.features[stage][0, -1] for trace in self.traces])


def emotion_setup(model: ModelSpec, fusion: Any = running_means, **changes: Any) -> PipelineSetup:
    """What a pipeline runs on."""
    has_words = any(isinstance(encoder.preprocess, Words) for encoder in model.encoders)
    assets = {PATH: tokenizer_bytes()} if has_words else {}
    given = {"engines": emotion_engines(model, fusion), "detector": SquareDetector(), "assets": assets}
    return PipelineSetup(model=model, **(given | changes))


def play(
    session: TinySession,
    model: ModelSpec,
    *,
    clock: Clock | None = None,
    start_ns: int | None = None,
    **changes: Any,
) -> Played:
    """Play a session as fast as it goes; each prediction must be an honest one."""
    setup, traces = emotion_setup(model, **changes), list[StepTrace]()
    pipeline = Pipeline(setup, session.specs, clock or ManualClock(), start_ns, traces.append)
    predictions = [p for chunk in session.chunks() for p in pipeline.push(chunk)] + pipeline.finish()
    for prediction in predictions:
        assert (prediction.status == "withheld") == (prediction.affect is None)
        assert (prediction.affect is None) == (prediction.emotion is None)
        assert (prediction.status == "ok") == (prediction.reasons == ())
        assert len(set(prediction.reasons)) == len(prediction.reasons)
    return Played(predictions, traces, pipeline, setup)
