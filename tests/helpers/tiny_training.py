"""The tiny model as PyTorch trains it, and sessions made of numbers instead of pictures and sound."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edge_mer.types.model import EmotionOutput, Fusion, ModelSpec, PainOutput, TensorSpec
from edge_mer_export.models.voice_resnet import VoiceHead
from edge_mer_export.models.zoo import ZooModel
from edge_mer_export.training.sessions import Session
from tests.helpers.tiny_model import FEATURE, N_STEPS, audio_encoder, tiny_model

LEVELS = ("none", "some", "much")


class Flat(nn.Module):
    """(N, …) -> (N, FEATURE), one linear layer."""

    def __init__(self, n_numbers: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_numbers, FEATURE)

    def forward(self, steps: Tensor) -> Tensor:
        found: Tensor = self.linear(steps.flatten(1))
        return found


class TinyFusion(nn.Module):
    """Every step's outputs from its two features, one linear layer; (B, L) each, or (B, L, K)."""

    def __init__(self, n_numbers: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(2 * FEATURE, n_numbers)

    def forward(self, face: Tensor, voice: Tensor, present: Tensor | None = None) -> Any:
        found: Tensor = self.linear(self.dropout(torch.cat([face, voice], dim=-1)))  # (B, L, numbers)
        return (found[..., 0], found[..., 1]) if found.shape[-1] == 2 else found


class OneAnswer(TinyFusion):
    """One answer for a window, (B, K): that of its last step."""

    def forward(self, face: Tensor, voice: Tensor, present: Tensor | None = None) -> Any:
        return super().forward(face, voice, present)[:, -1]


def tiny_zoo(spec: ModelSpec | None = None) -> ZooModel:
    """The tiny model with weights by PyTorch's global generator."""
    spec = spec or tiny_model()
    sizes = {encoder.stage: int(np.prod(encoder.input.concrete(batch=1))) for encoder in spec.encoders}
    stages: dict[str, nn.Module] = {stage: Flat(size) for stage, size in sizes.items()}
    fusion = TinyFusion if "steps" in spec.fusion.outputs[0].axes else OneAnswer
    stages[spec.fusion.stage] = fusion(2 if len(spec.outputs) == 2 else len(LEVELS))
    return ZooModel(spec, stages, {}).eval()


def tiny_pain_model() -> ModelSpec:
    """The tiny model with levels of pain for an output."""
    axes = ("batch", "steps", "level")
    pain = TensorSpec(name="pain", axes=axes, shape=("batch", N_STEPS, len(LEVELS)))
    fusion = tiny_model().fusion.model_copy(update={"outputs": (pain,)})
    return tiny_model(fusion=fusion, outputs=(PainOutput(scale="test-0-2", levels=LEVELS),))


def tiny_emotion_model() -> ModelSpec:
    """The tiny model with classes for an output, one answer per window, and without a mask."""
    model = tiny_model(warm_up="withhold")
    emotion = TensorSpec(name="emotion", axes=("batch", "class"), shape=("batch", len(LEVELS)))
    fusion = model.fusion.model_copy(update={"outputs": (emotion,)})
    return tiny_model(warm_up="withhold", fusion=fusion, outputs=(EmotionOutput(labels=LEVELS),))


def tiny_voice() -> ZooModel:
    """The tiny model's voice alone, and classes from its newest step."""
    emotion = TensorSpec(name="emotion", axes=("batch", "class"), shape=("batch", len(LEVELS)))
    voice = TensorSpec(name="audio", axes=("batch", "steps", "feature"), shape=("batch", 1, FEATURE))
    fusion = Fusion(n_steps=1, inputs=(voice,), outputs=(emotion,), warm_up="withhold")
    encoder = audio_encoder()
    spec = tiny_model(encoders=(encoder,), fusion=fusion, outputs=(EmotionOutput(labels=LEVELS),))
    heard = Flat(int(np.prod(encoder.input.concrete(batch=1))))
    return ZooModel(spec, {"audio": heard, "fusion": VoiceHead(FEATURE, len(LEVELS))}, {}).eval()


def tiny_session(
    person: str,
    n_steps: int,
    seed: int = 0,
    absent: Mapping[str, Collection[int]] | None = None,
    spec: ModelSpec | None = None,
) -> Session:
    """A session whose step tensors show the labels through noise, the face more of the first one.

    Args:
        person: Who it is.
        n_steps: How many.
        seed: Of everything.
        absent: Stage -> steps in which it is not there.
        spec: Of the model; its outputs are labelled.
    """
    spec = spec or tiny_model()
    rng = np.random.default_rng([seed, *person.encode()])
    outputs = [output.name for output in spec.outputs]
    labels = {name: rng.uniform(-1, 1, n_steps).astype(np.float32) for name in outputs}
    if any(isinstance(output, PainOutput) for output in spec.outputs):
        labels = {name: np.abs(values) * (len(LEVELS) - 1) for name, values in labels.items()}
    if any(isinstance(output, EmotionOutput) for output in spec.outputs):
        labels = {name: np.floor((values + 1) / 2 * len(LEVELS)) for name, values in labels.items()}
    steps, present = {}, {}
    for index, encoder in enumerate(spec.encoders):
        shape = encoder.input.concrete(batch=1)[1:]
        shown = labels[outputs[index % len(outputs)]]
        pattern = np.random.default_rng(index).standard_normal(shape)
        noise = rng.standard_normal((n_steps, *shape))
        there = np.array([k not in (absent or {}).get(encoder.stage, ()) for k in range(n_steps)], np.bool_)
        values = shown.reshape(-1, *[1] * len(shape)) * pattern + 0.3 * noise
        steps[encoder.stage] = (values * there.reshape(-1, *[1] * len(shape))).astype(np.float32)
        present[encoder.stage] = there
    return Session(person, steps, present, labels)
