"""A model of face and voice, small enough that a test can compute by hand what must come out."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal

from edge_mer.types.model import (
    AffectOutput,
    Encoder,
    FaceClip,
    Fusion,
    LogMel,
    MissingPolicy,
    ModelSpec,
    TensorSpec,
)

FRAME = Fraction(1, 30)
STEP = 8 * FRAME
N_STEPS = 4
FEATURE = 3
RATE_HZ = 8_000


def tiny_clip(**changes: Any) -> FaceClip:
    """Four faces of 8 pixels per step, every other frame of nominal 30 fps."""
    numbers: dict[str, Any] = {
        "size_px": 8,
        "n_frames": 4,
        "frame_interval": 2 * FRAME,
        "last_frame_before_end": FRAME,
        "frame_tolerance": FRAME,
        "mean": (0.4, 0.4, 0.4),
        "std": (0.2, 0.2, 0.2),
    }
    return FaceClip(**(numbers | changes))


def tiny_log_mel(**changes: Any) -> LogMel:
    """Six bands of sound at 8 kHz; a step is 2133 samples, which is no whole number of columns."""
    numbers: dict[str, Any] = {
        "rate_hz": RATE_HZ,
        "n_fft": 256,
        "win_samples": 200,
        "hop_samples": 250,
        "n_mels": 6,
        "f_min_hz": 0.0,
        "f_max_hz": 4_000.0,
        "amin": 1e-10,
        "top_db": 80.0,
        "mean": -15.0,
        "std": 20.0,
        "width": 9,
    }
    return LogMel(**(numbers | changes))


def feature_spec(size: int = FEATURE) -> TensorSpec:
    """One step's feature."""
    return TensorSpec(name="feature", axes=("batch", "feature"), shape=("batch", size))


def visual_encoder(clip: FaceClip | None = None, **changes: Any) -> Encoder:
    """Looks at `clip`; `changes` replace what is declared."""
    clip = clip or tiny_clip()
    declared: dict[str, Any] = {
        "stage": "visual",
        "modality": "visual",
        "input": TensorSpec(
            name="clip",
            axes=("batch", "channel", "frame", "height", "width"),
            shape=("batch", 3, clip.n_frames, clip.size_px, clip.size_px),
        ),
        "output": feature_spec(),
        "period": STEP,
        "span": STEP,
        "preprocess": clip,
    }
    return Encoder(**(declared | changes))


def audio_encoder(log_mel: LogMel | None = None, **changes: Any) -> Encoder:
    """Listens to `log_mel`; `changes` replace what is declared."""
    log_mel = log_mel or tiny_log_mel()
    declared: dict[str, Any] = {
        "stage": "audio",
        "modality": "audio",
        "input": TensorSpec(
            name="log_mel",
            axes=("batch", "channel", "mel", "column"),
            shape=("batch", 1, log_mel.n_mels, log_mel.width),
        ),
        "output": feature_spec(),
        "period": STEP,
        "span": STEP,
        "preprocess": log_mel,
    }
    return Encoder(**(declared | changes))


def tiny_model(
    *,
    visual: MissingPolicy | None = None,
    audio: MissingPolicy | None = None,
    hold_max_age: Fraction | None = None,
    warm_up: Literal["mask", "shorten", "withhold"] = "mask",
    n_steps: int = N_STEPS,
    **changes: Any,
) -> ModelSpec:
    """The model.

    Args:
        visual: Policy for a missing face.
        audio: Policy for missing sound.
        hold_max_age: For the policy "hold", in seconds.
        warm_up: "mask" makes a fusion with a `present` input; "shorten" one of free length.
        n_steps: Length of a window.
        changes: Replace what is declared otherwise.
    """
    steps: int | str = "steps" if warm_up == "shorten" else n_steps
    axes = ("batch", "steps", "feature")
    inputs = [TensorSpec(name=name, axes=axes, shape=("batch", steps, FEATURE)) for name in ("face", "voice")]
    if warm_up == "mask":
        axes, shape = ("batch", "modality", "steps"), ("batch", 2, steps)
        inputs.append(TensorSpec(name="present", axes=axes, shape=shape, dtype="bool"))
    outputs = [
        TensorSpec(name=name, axes=("batch", "steps"), shape=("batch", steps)) for name in ("val", "aro")
    ]
    declared: dict[str, Any] = {
        "name": "tiny",
        "title": "A model for tests",
        "source": "none",
        "step": STEP,
        "encoders": (
            visual_encoder(missing=visual, hold_max_age=hold_max_age),
            audio_encoder(missing=audio, hold_max_age=hold_max_age),
        ),
        "fusion": Fusion(
            n_steps=n_steps,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            has_present_input=warm_up == "mask",
            warm_up=warm_up,
        ),
        "outputs": (AffectOutput(name="valence"), AffectOutput(name="arousal")),
        "intended_use": "Tests",
        "licence": "Apache-2.0",
    }
    return ModelSpec(**(declared | changes))
