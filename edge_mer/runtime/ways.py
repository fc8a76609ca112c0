"""Ways to run a bundle as users name them: which candidate, in which engine, on what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edge_mer.bundle.manifest import RUN_OF, candidate_of
from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.engine import onnxruntime, openvino
from edge_mer.engine.onnxruntime import OrtOptions
from edge_mer.engine.openvino import OvEngine, OvOptions
from edge_mer.engine.threads import available_threads
from edge_mer.errors import MissingError, UsageError
from edge_mer.preprocess.face_detectors import open_face_detector
from edge_mer.runtime.build import fitting_build, open_built
from edge_mer.runtime.opening import check_precision, open_chosen
from edge_mer.runtime.pipeline_setup import PipelineSetup
from edge_mer.runtime.setup import looks_at_faces, open_setup
from edge_mer.runtime.target import Choice
from edge_mer.runtime.target_cpu import CpuTarget
from edge_mer.runtime.targets import TARGETS

ENGINES = ("onnxruntime", "openvino", "tensorrt")


@dataclass(frozen=True)
class Way:
    """A way to run a bundle.

    Attributes:
        bundle: Its folder.
        precision: The candidate; None: as `build-engine` chose, else fp32.
        engine: One of `ENGINES`; None: as `build-engine` chose, else ONNX Runtime.
        face_detector: YuNet's ONNX file; None: OpenCV's cascades.
        sources: URIs of recordings; none: the bundle's golden sessions.
    """

    bundle: Path
    precision: str | None = None
    engine: str | None = None
    face_detector: Path | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class OpenedWay:
    """A way that was opened.

    Attributes:
        bundle: What runs.
        setup: Its engines and detector.
        choice: How its stages run.
        was_built: False: fp32, because `build-engine` was never run here.
    """

    bundle: Bundle
    setup: PipelineSetup
    choice: Choice
    was_built: bool


def open_way(way: Way) -> OpenedWay:
    """Open a bundle in a certain way.

    Raises:
        UsageError: The bundle has no such precision, or there is no such engine for it.
        BundleError: The bundle is broken or altered.
        MissingError: An engine or a file that is needed is not there.
    """
    bundle = open_bundle(way.bundle)
    model = bundle.manifest.model
    detector = open_face_detector(way.face_detector) if looks_at_faces(model) else None
    if way.engine is None:
        setup, choice, was_built = open_chosen(bundle, way.precision)
        return OpenedWay(bundle, replace(setup, detector=detector), choice, was_built)
    check_precision(bundle, way.precision)
    if way.engine == "tensorrt":
        setup, choice = _open_tensorrt(bundle, way.precision)
    else:
        choice = _choice_on_processor(bundle, way.engine, way.precision or _chosen_precision(bundle))
        setup = open_setup(bundle, choice.precision, None, dict(choice.stages))
    return OpenedWay(bundle, replace(setup, detector=detector), choice, was_built=True)


def _open_tensorrt(bundle: Bundle, precision: str | None) -> tuple[PipelineSetup, Choice]:
    target = TARGETS["tensorrt"]
    record = fitting_build(bundle, target)
    if record is None or precision not in (None, record["precision"]):
        built = "none" if record is None else str(record["precision"])
        raise MissingError(
            f"bundle {bundle.path} was not built for TensorRT here in what was asked for",
            expected=precision or "any precision",
            found=built,
            hint="run edge-mer build-engine --target tensorrt",
        )
    return open_built(bundle, target, record), target.choice_of(record)


def _chosen_precision(bundle: Bundle) -> str:
    record = fitting_build(bundle, TARGETS["cpu"])
    return "fp32" if record is None else str(record["precision"])


def _choice_on_processor(bundle: Bundle, engine: str, precision: str) -> Choice:
    """All stages in the same engine, with all threads."""
    threads = available_threads()
    if engine == "onnxruntime":
        if precision in RUN_OF:
            raise UsageError(
                f"ONNX Runtime does not compute in {precision}", hint="name --engine openvino, or no engine"
            )
        return Choice.alike(bundle.manifest.model, precision, OrtOptions(threads=threads))
    if engine != "openvino":
        raise UsageError(f"unknown engine {engine!r}", expected=" or ".join(ENGINES))
    if not openvino.is_installed():
        raise MissingError("OpenVINO is not installed", hint="pip install 'edge-mer[openvino]'")
    options = OvOptions(threads, "bf16" if precision == "bf16" else "f32")
    return CpuTarget().on_openvino(bundle, precision, options)


def executed(opened: OpenedWay) -> dict[str, Mapping[str, int]]:
    """Stage -> precision -> how many layers that multiply really run in it, as the engines say."""
    bundle, setup, choice = opened.bundle, opened.setup, opened.choice
    if choice.target != "cpu":
        record = fitting_build(bundle, TARGETS[choice.target]) or {"built": {"stages": {}}}
        return {stage: facts["precision"]["used"] for stage, facts in record["built"]["stages"].items()}
    found: dict[str, Mapping[str, int]] = {}
    for stage, options in choice.stages:
        engine = setup.engines[stage]
        if isinstance(engine, OvEngine):
            found[stage] = engine.executed()
        elif isinstance(options, OrtOptions):
            model = bundle.read_stage(candidate_of(choice.precision), stage)
            found[stage] = onnxruntime.executed(stage, model, engine.inputs, options)
    return found
