"""What one machine computes from a bundle's own tensors and pictures, for `check.py` to compare.

    python probe.py BUNDLE OUT.npz [N_SHAKES]

Runs with nothing but edge-mer's core. OUT has, per candidate that a processor runs,

    <precision>/<encoder>/feature.<encoder>   (tensors, feature) of the golden step tensors
    <precision>/<fusion>/<output>             (windows, *value_shape) of PyTorch's features
    <precision>/shaken/<output>               (shakes, windows, *value_shape), the same with features whose
                                              last bit is drawn anew
    faces/box_px, faces/eyes_px               (pictures, 4) of every tenth picture; NaN where there is none

and in `about` what it ran on, as JSON.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.bundle.read import open_bundle
from edge_mer.preprocess.face import FaceDetector
from edge_mer.preprocess.face_detectors import open_face_detector
from edge_mer.runtime.golden import Arrays
from edge_mer.runtime.offline import Features, engine_fusion, offline_outputs
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.proof import golden_sessions
from edge_mer.runtime.setup import cpu_precisions, looks_at_faces, open_setup

EVERY_PICTURE = 10
NOWHERE = (np.nan,) * 4


def probe(bundle: Path, n_shakes: int) -> Arrays:
    """Everything that is compared."""
    opened = open_bundle(bundle)
    model, found = opened.manifest.model, {}
    sessions = golden_sessions(opened.manifest, opened.read_arrays)
    for precision in cpu_precisions(opened.manifest.candidates):
        setup = open_setup(opened, precision, None)
        for name, values in {**encoded(setup, sessions), **fused(setup, sessions, n_shakes)}.items():
            found[f"{precision}/{name}"] = values
    if looks_at_faces(model):
        found |= faces(open_face_detector(), sessions)
    return found


def encoded(setup: PipelineSetup, sessions: list[Arrays]) -> Arrays:
    """Features of the golden step tensors."""
    found = {}
    for encoder in setup.model.encoders:
        stage, engine = encoder.stage, setup.engines[encoder.stage]
        steps = [step[np.newaxis] for one in sessions for step in one[f"input.{stage}"]]
        rows = [engine.run({encoder.input.name: step})[encoder.output.name] for step in steps]
        found[f"{stage}/feature.{stage}"] = np.concatenate(rows)
    return found


def fused(setup: PipelineSetup, sessions: list[Arrays], n_shakes: int) -> Arrays:
    """Outputs of every window of PyTorch's features, and of the same shaken."""
    stages, fusion = [encoder.stage for encoder in setup.model.encoders], setup.model.fusion.stage
    golden = [{stage: one[f"feature.{stage}"] for stage in stages} for one in sessions]
    found = {f"{fusion}/{name}": values for name, values in windows(setup, sessions, golden).items()}
    rng = np.random.default_rng(0)
    trials = [windows(setup, sessions, [shaken(one, rng) for one in golden]) for _ in range(n_shakes)]
    if trials:
        found |= {f"shaken/{name}": np.stack([one[name] for one in trials]) for name in trials[0]}
    return found


def windows(setup: PipelineSetup, sessions: list[Arrays], features: list[Features]) -> Arrays:
    """Raw outputs of every session's windows."""
    model = setup.model
    run_fusion = engine_fusion(model, setup.engines[model.fusion.stage])
    outputs = [
        offline_outputs(model, own, {stage: one[f"present.{stage}"] for stage in own}, run_fusion)
        for one, own in zip(sessions, features, strict=True)
    ]
    return {name: np.concatenate([one[name] for one in outputs]) for name in outputs[0]}


def shaken(features: Features, rng: np.random.Generator) -> Features:
    """The same, each value the next float below or above, or as it is."""
    return {
        stage: np.asarray(values + np.spacing(values) * rng.integers(-1, 2, values.shape), np.float32)
        for stage, values in features.items()
    }


def faces(detector: FaceDetector, sessions: list[Arrays]) -> Arrays:
    """Boxes and eyes in golden pictures."""
    pictures = [picture for one in sessions for picture in one["visual.data"][::EVERY_PICTURE]]
    first = [next(iter(detector.detect(picture)), None) for picture in pictures]
    boxes = [NOWHERE if one is None else one.box_px for one in first]
    eyes = [NOWHERE if one is None or one.eyes_px is None else np.ravel(one.eyes_px) for one in first]
    return {"faces/box_px": np.array(boxes, float), "faces/eyes_px": np.array(eyes, float)}


def about() -> NDArray[np.str_]:
    """The machine, its Python and its packages."""
    packages = {one.metadata["Name"]: one.version for one in importlib.metadata.distributions()}
    libc = " ".join(platform.libc_ver())
    facts = {"machine": platform.machine(), "python": platform.python_version(), "libc": libc}
    return np.array(json.dumps({**facts, "packages": packages}))


if __name__ == "__main__":
    folder, out, *times = sys.argv[1:]
    arrays: dict[str, Any] = {"about": about(), **probe(Path(folder), int("".join(times) or 0))}
    np.savez(out, **arrays)
