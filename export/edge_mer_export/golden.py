"""Makes golden sessions: simulated people, PyTorch's numbers for them, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_mer.bundle.manifest import Golden
from edge_mer.preprocess.face_detectors import open_face_detector
from edge_mer.runtime.golden import Arrays, RecordingDetector, session_arrays
from edge_mer.runtime.proof import Features, offline_outputs
from edge_mer.runtime.session import merged
from edge_mer.sources.registry import open_source
from edge_mer.types.model import FaceClip, ModelSpec
from edge_mer_export.models.zoo import ZooModel
from edge_mer_export.reference import encode, frame_indices, step_tensors, torch_fusion

EXTRA_STEPS = 4
PEOPLE = (900, 901)


@dataclass(frozen=True)
class GoldenSession:
    """A session as it is stored, and its step tensors, stage -> (steps, …)."""

    arrays: Arrays
    steps: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]


def make_sessions(model: ZooModel) -> list[GoldenSession]:
    """One session per simulated person, a few steps longer than the window."""
    n_steps = model.spec.fusion.n_steps + EXTRA_STEPS
    return [_make_session(model, person, n_steps) for person in PEOPLE]


def _make_session(model: ZooModel, person: int, n_steps: int) -> GoldenSession:
    spec = model.spec
    raw = _record(f"sim:seed=11&person={person}&duration_s={float(spec.step * n_steps) + 0.2:.3f}")
    detector = RecordingDetector(open_face_detector())
    steps = step_tensors(spec, raw, n_steps, detector)
    features: Features = {stage: encode(model, stage, tensors) for stage, tensors in steps.items()}
    outputs = offline_outputs(spec, features, torch_fusion(model))
    arrays = _only_used(spec, raw, n_steps) | detector.arrays()
    arrays |= {f"input.{stage}": tensors[[0, -1]] for stage, tensors in steps.items()}
    arrays |= {f"feature.{stage}": np.asarray(values, np.float32) for stage, values in features.items()}
    arrays |= {f"output.{name}": values.astype(np.float32) for name, values in outputs.items()}
    return GoldenSession(arrays, steps)


def _record(uri: str) -> Arrays:
    source = open_source(uri)
    source.ensure_ready()
    source.start()
    try:
        return session_arrays(merged([source]), source.specs)
    finally:
        source.ensure_stopped()


def _only_used(spec: ModelSpec, raw: Arrays, n_steps: int) -> Arrays:
    """Without the frames that no step looks at, and without the sound after the last step."""
    kept: Arrays = {}
    for encoder in spec.encoders:
        modality, clip = encoder.modality, encoder.preprocess
        if isinstance(clip, FaceClip):
            used = sorted({i for step in range(n_steps) for i in frame_indices(encoder, clip, raw, step)})
            kept |= {
                f"{modality}.t_ns": raw[f"{modality}.t_ns"][used],
                f"{modality}.data": raw[f"{modality}.data"][used],
            }
        else:
            end = (encoder.period * n_steps + encoder.offset) * clip.rate_hz
            kept |= {key: value for key, value in raw.items() if key.startswith(f"{modality}.")}
            kept[f"{modality}.data"] = raw[f"{modality}.data"][: int(end)]
    return kept


def describe(model: ZooModel, sessions: list[GoldenSession]) -> Golden:
    """The manifest's entry for the sessions."""
    names = [f"output.{o.name}" for o in model.spec.outputs] + [
        f"feature.{e.stage}" for e in model.spec.encoders
    ]
    deviation = {
        name.removeprefix("output."): float(np.nanstd(np.concatenate([one.arrays[name] for one in sessions])))
        for name in names
    }
    n_steps = len(next(iter(sessions[0].steps.values())))
    return Golden(
        sessions=tuple(f"golden/session-{i}.npz" for i in range(len(sessions))),
        n_steps=n_steps,
        deviation=deviation,
    )
