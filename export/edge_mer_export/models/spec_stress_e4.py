"""Stress from a wristband: "stress-e4", trained on real people.

The tasks of its training sessions came in the same order for everyone, so that a clock alone tells stress.
No input may be one: every course is compared with its last five minutes only, the same five minutes at any
time, and nothing counts as present before they are full.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from torch import nn

from edge_mer.types.model import (
    Course,
    EmotionOutput,
    Encoder,
    Fusion,
    ModelSpec,
    Signal,
    TensorSpec,
)
from edge_mer.types.signals import Modality
from edge_mer_export.models.course_fusion import CourseFusion, CourseMlp
from edge_mer_export.models.zoo import Found, System, ZooModel

LABELS = ("calm", "stress")
STEP_S, SPAN_S, MEMORY_S, N_STEPS = 10, 120, 300, 6
WARM_UP_S = MEMORY_S + SPAN_S + (N_STEPS - 1) * STEP_S
"""From here on every window is whole: sooner, its mask tells how long the session has been going on."""


def _signal(rate_hz: int, unit: Literal["uS", "degC", "1"], course: Course) -> Signal:
    return Signal(
        rate_hz=rate_hz, unit=unit, courses=(course,), course_hz=1, normalise_memory=Fraction(MEMORY_S)
    )


STREAMS: dict[Modality, Signal] = {
    "eda": _signal(4, "uS", Course(kind="log_level", floor=0.02)),
    "ppg": _signal(64, "1", Course(kind="heart_rate", floor=2.0)),
    "skt": _signal(4, "degC", Course(kind="level", floor=0.05)),
}
"""The streams of an Empatica E4, and what is derived of them."""

POOL_S, HIDDEN, FEATURE = 12, 32, 8


def stress_e4(found: Found) -> ZooModel:
    """Calm or stress, every ten seconds."""
    return of_width(HIDDEN)


def of_width(hidden: int) -> ZooModel:
    """The model with other hidden layers than those that its weights have."""
    spec = ModelSpec(
        name="stress-e4",
        title="Stress from skin conductance, pulse and skin temperature of a wristband",
        source=(
            "edge-mer's own; trained on Stress-Predict (Iqbal et al. 2022, Sensors 22(21):8135, "
            "doi:10.3390/s22218135)"
        ),
        step=Fraction(STEP_S),
        encoders=tuple(_encoder(modality) for modality in STREAMS),
        fusion=_fusion(),
        outputs=(EmotionOutput(labels=LABELS),),
        intended_use=(
            "Research and trials with an Empatica E4 or a wristband of the same signals and rates, on adults "
            "at rest or at a desk. Learned from 19 healthy volunteers in one laboratory. Not a medical "
            "device, not for diagnosis, and not for decisions about people."
        ),
        licence="Apache-2.0; training data under the MIT License, Copyright (c) 2022 Talha Iqbal",
    )
    stages: dict[str, nn.Module] = {
        modality: CourseMlp(1, SPAN_S, POOL_S, hidden, FEATURE) for modality in STREAMS
    }
    stages["fusion"] = CourseFusion(len(STREAMS), FEATURE, hidden, len(LABELS))
    return ZooModel(spec, stages, {"emotion": "head.3"})


def _encoder(modality: Modality) -> Encoder:
    return Encoder(
        stage=modality,
        modality=modality,
        input=TensorSpec(name="piece", axes=("batch", "channel", "sample"), shape=("batch", 1, SPAN_S)),
        output=TensorSpec(name="feature", axes=("batch", "feature"), shape=("batch", FEATURE)),
        period=Fraction(STEP_S),
        span=Fraction(SPAN_S),
        preprocess=STREAMS[modality],
        min_coverage=1.0,
    )


def _fusion() -> Fusion:
    inputs = [
        TensorSpec(name=name, axes=("batch", "steps", "feature"), shape=("batch", N_STEPS, FEATURE))
        for name in STREAMS
    ]
    present = TensorSpec(
        name="present",
        axes=("batch", "modality", "steps"),
        shape=("batch", len(STREAMS), N_STEPS),
        dtype="bool",
    )
    logits = TensorSpec(name="emotion", axes=("batch", "class"), shape=("batch", len(LABELS)))
    return Fusion(
        n_steps=N_STEPS,
        inputs=(*inputs, present),
        outputs=(logits,),
        has_present_input=True,
        warm_up="mask",
    )


STRESS_E4 = System(
    "stress-e4",
    (*STREAMS, "fusion"),
    stress_e4,
    learned_from="19 real people of Stress-Predict, see docs/stress-e4.md",
)
