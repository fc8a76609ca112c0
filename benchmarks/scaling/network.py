"""Bytes a second of one bed, by where the network cuts its way; and the arithmetic of its model."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kept import Kept
from benchmarks.scaling.kept import SYSTEMS, Found, bundle_of, bundle_path, here
from edge_mer.bundle.read import open_bundle
from edge_mer.clock import ManualClock
from edge_mer.runtime.opening import open_all
from edge_mer.runtime.session import SessionReport, run_session
from edge_mer.types.model import Encoder, Fusion, ModelSpec, TensorSpec, Words

TOKENS_PER_S = 4
"""Assumed of somebody who talks."""

UTTERANCES_PER_S = 0.2
"""Assumed; an encoder of words runs once for each."""

LINE_S = 10
"""Of a session whose lines are weighed."""


def network() -> Found:
    """All systems whose bundles are there."""
    found = {
        name: tensors(open_bundle(path).manifest.model)
        for name in SYSTEMS
        if (path := bundle_of(name)) is not None
    }
    return here() | {"systems": found, "line_bytes": line_bytes(bundle_path())}


def tensors(model: ModelSpec) -> Found:
    """Bytes a second of each kind of tensor, and multiplications.

    Returns:
        "steps": inputs of all encoders; "features": their outputs; "window": inputs of the fusion, whole at
        every hop; "newest": of them what is new at a hop; "outputs": of the fusion; "hop_ms"; "window_s";
        "gmac_per_s" where `make systems` counted them.
    """
    hop_s = float(model.step * model.fusion.hop)
    size = {"steps": model.fusion.n_steps, "batch": 1}
    window = sum(_bytes_of(one, **size) for one in model.fusion.inputs) / hop_s
    return {
        "hop_ms": 1000 * hop_s,
        "window_s": float(model.step * model.fusion.n_steps),
        "steps": sum(_bytes_of(e.input) * per_s(e) for e in model.encoders),
        "features": sum(_bytes_of(e.output) * per_s(e) for e in model.encoders),
        "window": window,
        "newest": window * model.fusion.hop / model.fusion.n_steps,
        "outputs": sum(_bytes_of(one, **size) for one in model.fusion.outputs) / hop_s,
        "gmac_per_s": gmac_per_s(model, model.fusion, hop_s),
    }


def per_s(encoder: Encoder) -> float:
    """Pieces a second; of words, their numbers."""
    return TOKENS_PER_S if isinstance(encoder.preprocess, Words) else 1 / float(encoder.period)


def _bytes_of(tensor: TensorSpec, **sizes: int) -> int:
    free = {"batch": 1, "token": 1, "steps": 1} | sizes
    return math.prod(tensor.concrete(**free)) * np.dtype(tensor.dtype).itemsize


def gmac_per_s(model: ModelSpec, fusion: Fusion, hop_s: float) -> float | None:
    """10^9 multiplications, each with its addition, a second; None of a model that nobody counted."""
    counted = Kept("systems")
    if not counted.file_of(model.name).exists():
        return None
    stages: dict[str, Any] = counted.kept(model.name)["stages"]
    encoders = sum(
        stages[e.stage]["macs"] * (UTTERANCES_PER_S if isinstance(e.preprocess, Words) else per_s(e))
        for e in model.encoders
    )
    return round(float(encoders + stages[fusion.stage]["macs"] / hop_s) / 1e9, 3)


def line_bytes(bundle: Path) -> int:
    """A prediction as a line of JSON, the mean."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.jsonl"
        opened = open_all(bundle, [f"sim:seed=1&person=2&duration_s={LINE_S}"], [f"jsonl:{out}"])
        run_session(opened.setup, opened.sources, opened.sinks, ManualClock(), SessionReport(), fast=True)
        opened.setup.close()
        lines = [len(line) for line in out.read_bytes().splitlines(keepends=True) if json.loads(line)]
    return round(sum(lines) / len(lines))
