"""The numbers that everything is held against: whole sessions at once, in PyTorch, without the runtime."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from edge_mer.errors import DataError
from edge_mer.preprocess.audio import log_mel
from edge_mer.preprocess.face import FaceDetector
from edge_mer.preprocess.visual import FaceClipMaker
from edge_mer.runtime.golden import Arrays
from edge_mer.runtime.pipeline import StepTrace
from edge_mer.runtime.proof import Features, RunFusion
from edge_mer.types.model import Encoder, FaceClip, LogMel, ModelSpec, to_ns
from edge_mer_export.models.zoo import ZooModel

_BATCH = 8
Floats = NDArray[np.float32]


def step_tensors(spec: ModelSpec, session: Arrays, n_steps: int, detector: FaceDetector) -> dict[str, Floats]:
    """Cut a whole recorded session into step tensors, by plain slicing.

    Args:
        spec: The model's declaration.
        session: `<modality>.t_ns`, `.data`, `.rate_hz` (see `edge_mer.runtime.golden`); sampled
            streams start at 0 at the rate that the model declares.
        n_steps: Steps to cut.
        detector: Finds faces.

    Returns:
        Stage -> (steps, …).

    Raises:
        DataError: Something is missing in a step.
    """
    tensors = {}
    for encoder in spec.encoders:
        steps = np.zeros((n_steps, *encoder.input.concrete(batch=1)[1:]), np.float32)
        if isinstance(encoder.preprocess, FaceClip):
            _cut_clips(encoder, encoder.preprocess, session, detector, steps)
        else:
            _cut_sound(encoder, encoder.preprocess, session, steps)
        tensors[encoder.stage] = steps
    return tensors


def _cut_clips(
    encoder: Encoder, spec: FaceClip, session: Arrays, detector: FaceDetector, steps: Floats
) -> None:
    maker = FaceClipMaker(spec, detector)
    for step, out in enumerate(steps):
        frames = [
            (int(session["visual.t_ns"][i]), session["visual.data"][i])
            for i in frame_indices(encoder, spec, session, step)
        ]
        report = maker.make([(t_ns, np.asarray(pixels, np.uint8)) for t_ns, pixels in frames], out)
        if report.coverage < 1:
            raise DataError(
                f"step {step} of a reference session lacks a face", found=f"coverage {report.coverage:.2f}"
            )


def frame_indices(encoder: Encoder, spec: FaceClip, session: Arrays, step: int) -> list[int]:
    """For each frame of a clip the recorded frame nearest in time (the earlier of two as near)."""
    end = encoder.period * (step + 1) + encoder.offset - spec.last_frame_before_end
    nominal_ns = [to_ns(end - spec.frame_interval * i) for i in reversed(range(spec.n_frames))]
    times_ns = session["visual.t_ns"].astype(np.int64)
    return [int(np.argmin(np.abs(times_ns - t_ns))) for t_ns in nominal_ns]


def _cut_sound(encoder: Encoder, spec: LogMel, session: Arrays, steps: Floats) -> None:
    data = session[f"{encoder.modality}.data"].astype(np.float32).mean(axis=1, dtype=np.float32)
    n = int(encoder.span * spec.rate_hz)
    for step, out in enumerate(steps):
        stop = int((encoder.period * (step + 1) + encoder.offset) * spec.rate_hz)
        if stop - n < 0 or stop > data.size:
            raise DataError(f"step {step} of a reference session lacks {encoder.modality}")
        log_mel(data[stop - n : stop], spec, out)


def encode(model: ZooModel, stage: str, steps: Floats) -> Floats:
    """All steps of a session through one encoder in PyTorch: (steps, …) -> (steps, feature)."""
    with torch.inference_mode():
        parts = [
            model.stages[stage](torch.from_numpy(steps[i : i + _BATCH])) for i in range(0, len(steps), _BATCH)
        ]
    return np.asarray(torch.cat(parts).numpy(), np.float32)


def encode_all(model: ZooModel, traces: list[StepTrace]) -> Features:
    """The features of a session whose step tensors were traced."""
    return {
        e.stage: encode(model, e.stage, np.concatenate([trace.inputs[e.stage] for trace in traces]))
        for e in model.spec.encoders
    }


def torch_fusion(model: ZooModel) -> RunFusion:
    """The window fusion in PyTorch as a function of one window."""
    fusion = model.stages[model.spec.fusion.stage]

    def run(features: Features, present: NDArray[np.bool_]) -> dict[str, float]:
        tensors = [torch.from_numpy(np.array(values[np.newaxis], np.float32)) for values in features.values()]
        if model.spec.fusion.has_present_input:
            tensors.append(torch.from_numpy(present[np.newaxis].copy()))
        with torch.inference_mode():
            found = fusion(*tensors)
        return {o.name: float(one[0, -1]) for o, one in zip(model.spec.outputs, found, strict=True)}

    return run
