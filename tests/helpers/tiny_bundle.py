"""A small whole bundle of the tiny model; its stages are ONNX by their outside only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edge_mer.bundle.manifest import Candidate, FileEntry, Golden, Lineage, Manifest, OutputError
from edge_mer.bundle.write import pack_arrays, write_bundle
from edge_mer.types.model import ModelSpec
from tests.helpers import wire
from tests.helpers.tiny_model import tiny_model

SESSIONS = ("golden/first.npz", "golden/second.npz")


def stage_path(stage: str) -> str:
    """Where a stage lies in the bundle."""
    return f"stages/{stage}.fp32.onnx"


def tiny_files() -> dict[str, bytes]:
    """Path -> content of everything but the manifest."""
    files = {
        stage_path(stage): wire.model(block_of_weights(stage)) for stage in ("visual", "audio", "fusion")
    }
    for index, name in enumerate(SESSIONS):
        files[name] = pack_arrays({"output.valence": np.full(5, index, np.float32)})
    return files


def block_of_weights(stage: str) -> bytes:
    """A graph with one initializer, different for each stage."""
    return wire.block(5, wire.tensor(stage.encode()))


def tiny_manifest(files: Mapping[str, FileEntry], model: ModelSpec | None = None) -> Manifest:
    """The manifest over a table of files."""
    model = model or tiny_model()
    stages = {stage: stage_path(stage) for stage in model.stages}
    perfect = OutputError(max=0.0, rms=0.0, ccc=1.0)
    return Manifest(
        model=model,
        candidates={
            "fp32": Candidate(
                stages=stages,
                n_bytes=sum(files[name].n_bytes for name in stages.values()),
                golden={"valence": perfect, "arousal": perfect},
            )
        },
        golden=Golden(sessions=SESSIONS, n_steps=5, deviation={"valence": 0.3, "arousal": 0.3}),
        lineage=Lineage(made_by=("tests",), weights="none", n_params=3, n_params_pruned=0),
        files=dict(files),
    )


def write_tiny_bundle(path: Path, *, replace: bool = False) -> Manifest:
    """Write it to `path`."""
    return write_bundle(path, tiny_files(), tiny_manifest, replace=replace)
