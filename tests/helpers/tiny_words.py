"""The tiny model with words beside face and voice: a tokenizer, a session in which somebody speaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.engine.base import Array, Engine
from edge_mer.types.model import (
    AffectOutput,
    EmotionOutput,
    Encoder,
    Fusion,
    ModelSpec,
    TensorSpec,
    Words,
    to_ns,
)
from edge_mer.types.signals import Chunk, StreamSpec
from tests.helpers.numpy_engines import NumpyEngine, mean_feature
from tests.helpers.tiny_model import FEATURE, N_STEPS, STEP, audio_encoder, tiny_model, visual_encoder
from tests.helpers.tiny_session import TinySession

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
    """Valence per step and an emotion per window, of any of the encoders."""
    encoders = encoders or (visual_encoder(), audio_encoder())
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
    """Face, voice and words."""
    return emotion_model(visual_encoder(), audio_encoder(), text or text_encoder(), **changes)


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
