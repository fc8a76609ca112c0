"""Opens a bundle's engines: what `run`, `verify`, `build-engine` and `calibrate` start from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from edge_mer.bundle.manifest import candidate_of, kind_of
from edge_mer.bundle.read import Bundle
from edge_mer.engine.base import Engine, buffer_sizes
from edge_mer.engine.onnxruntime import OrtEngine, OrtOptions
from edge_mer.engine.openvino import OvEngine, OvOptions
from edge_mer.engine.threads import available_threads
from edge_mer.errors import UsageError
from edge_mer.preprocess.face import FaceDetector
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.target import CpuOptions
from edge_mer.types.model import FaceClip, MissingPolicy, ModelSpec, Words
from edge_mer.types.signals import Modality


def looks_at_faces(model: ModelSpec) -> bool:
    """Whether a face detector is needed."""
    return any(isinstance(encoder.preprocess, FaceClip) for encoder in model.encoders)


def open_engines(
    model: ModelSpec, stages: Mapping[str, bytes], options: CpuOptions | Mapping[str, CpuOptions]
) -> dict[str, Engine]:
    """One engine of the processor per stage.

    Args:
        model: Declares the stages' tensors.
        stages: Stage -> ONNX.
        options: How they run: all in the same way, or each in its own.
    """
    engines: dict[str, Engine] = {}
    try:
        for stage in model.stages:
            one = options[stage] if isinstance(options, Mapping) else options
            engines[stage] = open_engine(model, stage, stages[stage], one)
    except BaseException:
        for engine in engines.values():
            engine.close()
        raise
    return engines


def open_engine(model: ModelSpec, stage: str, onnx: bytes, options: CpuOptions) -> Engine:
    """The engine of one stage.

    Args:
        model: Declares the stage's tensors.
        stage: Its name.
        onnx: Its file.
        options: How it runs.
    """
    inputs, outputs = model.tensors[stage]
    sizes = buffer_sizes(model)
    if isinstance(options, OvOptions):
        return OvEngine(stage, onnx, inputs, outputs, sizes, options)
    return OrtEngine(stage, onnx, inputs, outputs, sizes, options)


def usual_options(precision: str) -> CpuOptions:
    """How a processor runs a candidate when nothing was measured."""
    threads = available_threads()
    return OvOptions(threads, "bf16") if precision == "bf16" else OrtOptions(threads=threads)


CPU_KINDS = ("fp32", "int8-cpu")
"""What ONNX Runtime's CPU runs rightly. It computes half precision in ways that differ from version
to version, so `fp16` and `int8-trt` can neither be run nor judged there."""


def cpu_precisions(candidates: Iterable[str]) -> list[str]:
    """Those candidates that a CPU runs."""
    return [name for name in candidates if kind_of(name) in CPU_KINDS]


def open_setup(
    bundle: Bundle,
    precision: str,
    detector: FaceDetector | None,
    options: CpuOptions | Mapping[str, CpuOptions] | None = None,
    missing: Mapping[Modality, MissingPolicy] | None = None,
    hop: int | None = None,
) -> PipelineSetup:
    """Everything a pipeline needs, from a bundle whose files are hashed on the way.

    Raises:
        BundleError: The bundle is broken or altered.
        UsageError: A policy or a hop that the model cannot follow.
    """
    candidate = candidate_of(precision)
    if precision in bundle.manifest.candidates and kind_of(precision) not in CPU_KINDS:
        raise UsageError(
            f"{precision} is made for TensorRT and does not run on a CPU",
            expected=" or ".join(cpu_precisions(bundle.manifest.candidates)),
        )
    model = bundle.manifest.model
    check_policies(model, missing or {})
    stages = {stage: bundle.read_stage(candidate, stage) for stage in model.stages}
    engines = open_engines(model, stages, usual_options(precision) if options is None else options)
    return PipelineSetup(
        model=model,
        engines=engines,
        detector=detector,
        engine_name=engine_name(engines.values()),
        precision=precision,
        bundle_id=bundle.manifest.bundle_id,
        missing=missing or {},
        assets=assets_of(bundle),
        hop=hop,
        findings=bundle.manifest.candidates[candidate].findings,
    )


def engine_name(engines: Iterable[Engine]) -> str:
    """For the records: "openvino-cpu", or what runs most stages first where there are two."""
    return "+".join(name for name, _ in Counter(engine.name for engine in engines).most_common())


def assets_of(bundle: Bundle) -> dict[str, bytes]:
    """The files that preprocessing reads, by their paths in the bundle."""
    specs = (encoder.preprocess for encoder in bundle.manifest.model.encoders)
    return {spec.tokenizer: bundle.read(spec.tokenizer) for spec in specs if isinstance(spec, Words)}


def check_policies(model: ModelSpec, missing: Mapping[Modality, MissingPolicy]) -> None:
    """Whether a model can follow policies.

    Raises:
        UsageError: It cannot; says why.
    """
    for modality, policy in missing.items():
        if modality not in model.modalities:
            raise UsageError(
                f"model {model.name} has no modality {modality}", expected=" or ".join(model.modalities)
            )
        if policy == "mask" and not model.fusion.has_present_input:
            raise UsageError(
                f"model {model.name} cannot mask {modality}: it has no `present` input",
                expected="zero_feature, blank_input, hold or abstain",
            )
        encoder = next(e for e in model.encoders if e.modality == modality)
        if policy == "hold" and encoder.hold_max_age is None:
            raise UsageError(f"model {model.name} declares no maximum age to hold {modality}")
