"""How cost grows: with the length of the window, and with the faces before the camera."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import onnx

from benchmarks.speed.kept import Found, say
from benchmarks.speed.made import load
from benchmarks.speed.rivals import pytorch
from benchmarks.speed.rivals.base import EachStepOnce, Rival
from benchmarks.speed.rivals.edge_mer import BUNDLE, open_built
from benchmarks.speed.rivals.registry import NAIVE, WholeRival
from benchmarks.speed.rivals.whole import InOpenVino
from benchmarks.speed.steps import Steps
from benchmarks.speed.turns import Player
from benchmarks.speed.whole import join
from edge_mer.bundle.manifest import candidate_of
from edge_mer.bundle.read import open_bundle
from edge_mer.clock import MonotonicClock
from edge_mer.preprocess.face_detectors import open_face_detector
from edge_mer.runtime.bench import Bench, Cost, from_sources
from edge_mer.runtime.setup import looks_at_faces, open_engines
from edge_mer.runtime.simulated import n_lead_in, simulated
from edge_mer.types.model import ModelSpec, Signal

FACES = (1, 2, 4)
SIZES = (0.25, 0.5, 2)
"""Lengths of windows, in those of the published model, which is among the others already."""
N_PREDICTIONS = 3
PERSON = 92_000


def has_free_length(spec: ModelSpec) -> bool:
    """Whether the fusion takes windows of any length."""
    return "steps" in spec.fusion.inputs[0].shape


def costs_by_length(folder: Path) -> Found:
    """L -> rival -> milliseconds per prediction; empty where the window's length is fixed."""
    spec, steps = load(folder)
    if not has_free_length(spec):
        return {}
    found: Found = {}
    for size in SIZES:
        n_steps = round(size * spec.fusion.n_steps)
        of_length = with_length(spec, n_steps)
        say(folder.name, f"windows of {n_steps} steps")
        rivals = _rivals(folder, of_length, steps)
        found[str(n_steps)] = {key: _cost_ms(one) for key, one in rivals}
    return found


def with_length(spec: ModelSpec, n_steps: int) -> ModelSpec:
    """The same model with other windows."""
    return spec.model_copy(update={"fusion": spec.fusion.model_copy(update={"n_steps": n_steps})})


def _rivals(folder: Path, spec: ModelSpec, steps: Steps) -> Iterator[tuple[str, Rival]]:
    """One after the other, so that only one is held at a time."""
    yield NAIVE, pytorch.naive(folder, spec, steps)
    bundle = open_bundle(folder / BUNDLE)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "whole.onnx"
        onnx.save(join(spec, {stage: bundle.read_stage("fp32", stage) for stage in spec.stages}), file)
        yield "whole-ov", WholeRival(InOpenVino(file, "f32"), spec, steps)
    setup, choice = open_built(folder)
    setup.close()
    stages = {stage: bundle.read_stage(candidate_of(choice.precision), stage) for stage in spec.stages}
    yield "chosen", EachStepOnce(spec, open_engines(spec, stages, dict(choice.stages)), steps)


def _cost_ms(rival: Rival) -> float:
    windows = range(N_PREDICTIONS)
    rival.warm_up(windows)
    player = Player(rival)
    player.play(windows)
    return round(median(player.rounds_ms[0]), 3)


def costs_by_faces(folder: Path) -> Iterator[tuple[int, Cost]]:
    """Faces -> what a prediction for one of them costs in a whole session.

    One only of models without faces, and of those with sensors on the body, which one person wears.
    """
    spec, _ = load(folder)
    setup, _ = open_built(folder)
    detector = open_face_detector() if looks_at_faces(spec) else None
    has_body = any(isinstance(encoder.preprocess, Signal) for encoder in spec.encoders)
    for n_faces in FACES if detector is not None and not has_body else (1,):
        people = n_faces if n_faces > 1 else None
        say(folder.name, f"whole sessions, faces: {n_faces}")
        uri, of_faces = _uri(spec, n_faces), replace(setup, detector=detector, people=people)
        bench = Bench(of_faces, from_sources([uri]), MonotonicClock())
        bench.warm_up()
        bench.turn(2 * N_PREDICTIONS * n_faces)
        yield n_faces, bench.cost()


def _uri(spec: ModelSpec, n_faces: int) -> str:
    n_steps = spec.fusion.n_steps + n_lead_in(spec) + 4 * N_PREDICTIONS * spec.fusion.hop
    keys = f"people={n_faces}&width={160 * n_faces}" if n_faces > 1 else ""
    return simulated(spec, seed=9, person=PERSON, n_steps=n_steps, keys=keys)
