"""Simulated people as a model needs them before it: its streams at its rates, long enough."""

from __future__ import annotations

from fractions import Fraction

from edge_mer.types.model import Encoder, ModelSpec, PainOutput, SceneClip, Signal

_SPARE_S = Fraction(1, 5)

N_COMPANY = 3
"""People before a model that looks at a whole scene."""

_SCENE_KEYS = f"people={N_COMPANY}&width=256&height=144"
"""A wide picture (16:9), of which each of them has 85 pixels."""


def n_lead_in(model: ModelSpec) -> int:
    """Steps at a session's start in which some piece still reaches before it, or before a memory is full."""
    reach = max(encoder.span - encoder.offset + _memory(encoder) for encoder in model.encoders)
    return max(0, -(-reach // model.step) - 1)


def simulated(model: ModelSpec, *, seed: int, person: int, n_steps: int, keys: str = "") -> str:
    """The URI of a simulated session.

    Args:
        model: Says which streams it looks at, and at what rates.
        seed: Chooses what the person feels.
        person: Chooses who it is; before a model of scenes, a company that shares nobody with any other.
        n_steps: Steps that the session is long enough for, with what the model looks ahead.
        keys: More of the URI, e.g. "fps=15&occlusion=0.1".
    """
    duration_s = float(model.step * n_steps + model.latency + _SPARE_S)
    is_scene = any(isinstance(encoder.preprocess, SceneClip) for encoder in model.encoders)
    first = N_COMPANY * person if is_scene else person
    parts = [f"sim:seed={seed}", f"person={first}", f"duration_s={duration_s:.3f}"]
    if set(model.modalities) != {"visual", "audio"}:
        parts.append(f"streams={'+'.join(model.modalities)}")
    parts += [
        f"{encoder.modality}_hz={encoder.preprocess.rate_hz}"
        for encoder in model.encoders
        if isinstance(encoder.preprocess, Signal)
    ]
    if any(isinstance(output, PainOutput) for output in model.outputs):
        parts.append("pain=1")
    if is_scene:
        parts.append(_SCENE_KEYS)
    return "&".join([*parts, keys] if keys else parts)


def _memory(encoder: Encoder) -> Fraction:
    spec = encoder.preprocess
    return spec.memory if isinstance(spec, Signal) else Fraction(0)
