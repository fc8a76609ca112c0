"""edge-mer's candidates: a bundle's stages, each in the engine and precision that is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from benchmarks.speed.rivals.base import EachStepOnce, Executed, summed
from benchmarks.speed.rivals.products import openvino_products, products_of
from benchmarks.speed.steps import Steps, is_encoded
from edge_mer.bundle.manifest import candidate_of, kind_of
from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.engine.onnxruntime import OrtOptions
from edge_mer.engine.openvino import OvEngine, OvOptions
from edge_mer.engine.threads import available_threads
from edge_mer.errors import BundleError
from edge_mer.runtime.opening import open_chosen
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.setup import open_engine, open_setup
from edge_mer.runtime.target import Choice, CpuOptions
from edge_mer.types.model import ModelSpec

BUNDLE, CACHE = "bundle", "cache"


def in_onnxruntime(kind: str, folder: Path, spec: ModelSpec, steps: Steps) -> EachStepOnce:
    """A candidate with every stage in ONNX Runtime."""
    bundle = open_bundle(folder / BUNDLE)
    options = OrtOptions(threads=available_threads())
    return _rival(bundle, name_of(bundle, kind), dict.fromkeys(spec.stages, options), steps)


def in_openvino(kind: str, folder: Path, spec: ModelSpec, steps: Steps) -> EachStepOnce:
    """A candidate with every stage in OpenVINO that it takes; "bf16" is a way to run fp32."""
    bundle, threads = open_bundle(folder / BUNDLE), available_threads()
    precision = "bf16" if kind == "bf16" else name_of(bundle, kind)
    asked = OvOptions(threads, "bf16" if kind == "bf16" else "f32")
    ways: dict[str, CpuOptions] = {
        stage: asked if takes(bundle, precision, stage, asked) else OrtOptions(threads=threads)
        for stage in spec.stages
    }
    return _rival(bundle, precision, ways, steps)


def chosen(folder: Path, spec: ModelSpec, steps: Steps) -> EachStepOnce:
    """What `edge-mer build-engine` chose on this machine."""
    setup, choice = open_built(folder)
    bundle = open_bundle(folder / BUNDLE)
    return EachStepOnce(spec, setup.engines, steps, partial(_executed, bundle, setup, dict(choice.stages)))


def open_built(folder: Path) -> tuple[PipelineSetup, Choice]:
    """The bundle as a session would open it here."""
    os.environ["EDGE_MER_CACHE"] = str(folder / CACHE)
    setup, choice, _ = open_chosen(open_bundle(folder / BUNDLE), None)
    return setup, choice


def kernels(folder: Path) -> dict[str, Executed]:
    """Precision -> the kernels that OpenVINO takes for the products of all encoders."""
    bundle, threads = open_bundle(folder / BUNDLE), available_threads()
    model = bundle.manifest.model
    found = {}
    for precision in ("fp32", name_of(bundle, "int8-cpu")):
        encoders = [encoder.stage for encoder in model.encoders if is_encoded(encoder)]
        files = [bundle.read_stage(precision, stage) for stage in encoders]
        engines = [open_engine(model, *one, OvOptions(threads)) for one in zip(encoders, files, strict=True)]
        told = [
            openvino_products(one._compiled, "primitiveType") for one in engines if isinstance(one, OvEngine)
        ]
        found[kind_of(precision)] = summed(told)
    return found


def name_of(bundle: Bundle, kind: str) -> str:
    """The bundle's candidate of that kind, e.g. "int8-cpu+mixed"."""
    return next(name for name in bundle.manifest.candidates if kind_of(name) == kind)


def takes(bundle: Bundle, precision: str, stage: str, options: OvOptions) -> bool:
    """Whether OpenVINO takes a stage."""
    onnx = bundle.read_stage(candidate_of(precision), stage)
    try:
        open_engine(bundle.manifest.model, stage, onnx, options).close()
    except BundleError:
        return False
    return True


def _rival(bundle: Bundle, precision: str, ways: dict[str, CpuOptions], steps: Steps) -> EachStepOnce:
    setup = open_setup(bundle, precision, None, ways)
    ask = partial(_executed, bundle, setup, ways)
    return EachStepOnce(bundle.manifest.model, setup.engines, steps, ask)


def _executed(bundle: Bundle, setup: PipelineSetup, ways: dict[str, CpuOptions]) -> Executed:
    return summed(list(_told(bundle, setup, ways)))


def _told(bundle: Bundle, setup: PipelineSetup, ways: dict[str, CpuOptions]) -> Iterable[Executed]:
    for stage, engine in setup.engines.items():
        if isinstance(engine, OvEngine):
            yield engine.executed()
        else:
            yield products_of(bundle.read_stage(candidate_of(setup.precision), stage))
