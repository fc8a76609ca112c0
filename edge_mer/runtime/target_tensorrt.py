"""TensorRT on the GPU that is here: a plan per stage, audited, and opened only if this host built it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edge_mer.bundle.manifest import in_order, kind_of
from edge_mer.bundle.onnx_expand import with_pairs
from edge_mer.bundle.read import Bundle
from edge_mer.clock import Clock, MonotonicClock
from edge_mer.cuda import Gpu, open_gpu
from edge_mer.engine import cache
from edge_mer.engine.base import Engine
from edge_mer.engine.tensorrt import TensorRtEngine
from edge_mer.engine.tensorrt_audit import audit, read_layers
from edge_mer.engine.tensorrt_build import BuildOptions, BuiltPlan, Profile, Sizes, build_plan
from edge_mer.engine.tensorrt_dla import dla_report
from edge_mer.engine.tensorrt_library import require_tensorrt
from edge_mer.errors import BundleError, MissingError
from edge_mer.preprocess.gpu import KERNELS, compile_kernels, load_kernels
from edge_mer.runtime.front import CpuFrontEnd, FrontEnd
from edge_mer.runtime.gpu_front import GpuFrontEnd
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.setup import assets_of
from edge_mer.runtime.target import Choice, Prepared, Say, Target
from edge_mer.types.model import ModelSpec, TensorSpec, Words

KINDS = ("fp32", "fp16", "int8-trt")
"""What TensorRT is given; `int8-cpu` has unsigned zero points that it does not take."""

_MIB = 1 << 20
_LEAST_WORKSPACE_MIB, _MOST_WORKSPACE_MIB = 256, 4096
_USUAL_TOKENS = 32
_TIMING_CACHE = "timing.cache"


@dataclass(frozen=True)
class TensorRtSettings:
    """What a user may say about a build.

    Attributes:
        workspace_mib: Most memory that a kernel may use; None: half of what is free, 256 to 4096 MiB.
        max_batch: Also build for batches up to this size, for sessions that share engines, and for work
            offline; 1: streaming only.
        report_dla: Say what a deep learning accelerator could run.
    """

    workspace_mib: int | None = None
    max_batch: int = 1
    report_dla: bool = False


class TensorRtTarget(Target):
    """Strongly typed engines of `fp32`, `fp16` and `int8-trt` candidates.

    Args:
        settings: What a user said.
        clock: What build times are taken from.
    """

    name = "tensorrt"
    is_bound_to_device = True

    def __init__(self, settings: TensorRtSettings | None = None, clock: Clock | None = None) -> None:
        self._settings = settings or TensorRtSettings()
        self.max_batch = self._settings.max_batch
        self._clock = clock or MonotonicClock()

    def environment(self) -> dict[str, Any]:
        """Versions of TensorRT and driver, and the GPU."""
        version = require_tensorrt()
        with open_gpu() as gpu:
            major, minor = gpu.capability
            return {
                "tensorrt": version,
                "cuda_driver": gpu.driver_version,
                "gpu": gpu.name,
                "compute_capability": f"{major}.{minor}",
            }

    def settings(self) -> dict[str, Any]:
        """Memory and shapes."""
        return {**super().settings(), "workspace_mib": self._settings.workspace_mib}

    def choices(self, bundle: Bundle) -> list[Choice]:
        """One per candidate that TensorRT takes."""
        names = [name for name in in_order(bundle.manifest.candidates) if kind_of(name) in KINDS]
        return [Choice(name, target=self.name) for name in names]

    # -- building ------------------------------------------------------------------------------

    def prepare(self, bundle: Bundle, choice: Choice, say: Say) -> Prepared:
        """Build the plan of each stage, and demand the precision that its ONNX asks for.

        Raises:
            MissingError: TensorRT or a GPU is not here, or there is not enough memory.
            BundleError: TensorRT does not take an ONNX.
            ParityError: An engine does not compute in the precision that was asked for.
        """
        with open_gpu() as gpu, gpu.current():
            workspace_bytes = self._workspace_bytes(gpu)
            files, preprocessing = _kernels(gpu.sm)
            stages: dict[str, Any] = {}
            for stage, (inputs, _) in stage_tensors(bundle.manifest.model).items():
                model = bundle.read_stage(choice.precision, stage)
                options = BuildOptions(self._profiles(bundle.manifest.model, stage), workspace_bytes)
                plan = self._built(stage, model, inputs, options, say, f"{choice.precision} {stage}")
                files[f"{stage}.plan"] = plan.plan
                stages[stage] = self._facts(stage, model, inputs, options, plan)
        flags = sorted({flag for facts in stages.values() for flag in facts["flags"]})
        facts = {"workspace_bytes": workspace_bytes, "strongly_typed": True, "tf32": False, "flags": flags}
        facts["preprocessing"] = preprocessing
        return Prepared(files, {**facts, "stages": stages})

    def _built(
        self,
        stage: str,
        model: bytes,
        inputs: tuple[TensorSpec, ...],
        options: BuildOptions,
        say: Say,
        what: str,
    ) -> BuiltPlan:
        """A plan, with what earlier builds on this device measured, and its precision demanded."""

        def tell(_: str, done: int, of: int) -> None:
            say(f"building {what}", done, of)

        timings = self._timing_cache()
        options = replace(options, timing_cache=timings)
        plan = build_plan(stage, model, inputs, options, self._clock, tell, with_pairs)
        audit(plan.asked, read_layers(plan.inspected)).demand(stage)
        if plan.timing_cache != timings:
            cache.store(self._timing_key(), {"kind": "timings"}, {_TIMING_CACHE: plan.timing_cache})
        return plan

    def _facts(
        self, stage: str, model: bytes, inputs: tuple[TensorSpec, ...], options: BuildOptions, plan: BuiltPlan
    ) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "onnx_sha256": hashlib.sha256(model).hexdigest(),
            "n_bytes": len(plan.plan),
            "seconds": round(plan.seconds, 3),
            "flags": list(plan.flags),
            "expanded": plan.expanded,
            "profiles": [profile.as_json() for profile in options.profiles],
            "precision": audit(plan.asked, read_layers(plan.inspected)).summary(),
            "timing_cache_sha256": hashlib.sha256(plan.timing_cache).hexdigest(),
            "warnings": list(plan.warnings),
        }
        if self._settings.report_dla:
            facts["dla"] = dla_report(stage, model, inputs, options).as_json()
        return facts

    def _workspace_bytes(self, gpu: Gpu) -> int:
        if self._settings.workspace_mib is not None:
            return self._settings.workspace_mib * _MIB
        return min(max(gpu.free_bytes() // 2, _LEAST_WORKSPACE_MIB * _MIB), _MOST_WORKSPACE_MIB * _MIB)

    def _profiles(self, model: ModelSpec, stage: str) -> tuple[Profile, ...]:
        """Streaming first; then batches, where they were asked for."""
        streaming = streaming_profile(model, stage)
        most = self.max_batch
        if most == 1:
            return (streaming,)
        batches = (
            {**sizes, "batch": batch}
            for sizes, batch in (
                (streaming.smallest, 1),
                (streaming.usual, max(1, most // 2)),
                (streaming.largest, most),
            )
        )
        return streaming, Profile(*batches)

    def _timing_key(self) -> str:
        return cache.cache_key({"kind": "timings", **self.environment()})

    def _timing_cache(self) -> bytes:
        """What was measured here before; nothing if that is not what was written."""
        record = cache.load(self._timing_key())
        if record is None:
            return b""
        try:
            return cache.read_file(record, _TIMING_CACHE)
        except BundleError:
            return b""

    # -- running -------------------------------------------------------------------------------

    def open(self, bundle: Bundle, choice: Choice, files: Mapping[str, bytes]) -> PipelineSetup:
        """One engine per stage, all on one GPU and its stream; closing the setup frees all of it."""
        model = bundle.manifest.model
        gpu = open_gpu()
        engines: dict[str, Engine] = {}
        try:
            for stage, (inputs, outputs) in stage_tensors(model).items():
                sizes = streaming_profile(model, stage).usual
                engines[stage] = TensorRtEngine(stage, files[f"{stage}.plan"], inputs, outputs, sizes, gpu)
            front_end = _front_end(gpu, files)
        except BaseException:
            for engine in engines.values():
                engine.close()
            gpu.close()
            raise
        return PipelineSetup(
            model=model,
            engines=engines,
            detector=None,
            engine_name="tensorrt",
            precision=choice.precision,
            bundle_id=bundle.manifest.bundle_id,
            assets=assets_of(bundle),
            findings=bundle.manifest.candidates[choice.precision].findings,
            resources=(gpu,),
            front_end=front_end,
        )

    def choice_of(self, record: Mapping[str, Any]) -> Choice:
        """As `describe` wrote it."""
        return Choice(record["precision"], target=self.name)


def _kernels(sm: str) -> tuple[dict[str, bytes], str]:
    """Cubins of the preprocessing kernels, and in words who preprocesses."""
    try:
        return {f"{source}bin": cubin for source, cubin in compile_kernels(sm).items()}, "GPU"
    except MissingError as missing:
        return {}, f"processor: {missing}"


def _front_end(gpu: Gpu, files: Mapping[str, bytes]) -> FrontEnd:
    cubins = {source: files[f"{source}bin"] for source in KERNELS if f"{source}bin" in files}
    return GpuFrontEnd(gpu, load_kernels(gpu, cubins)) if cubins else CpuFrontEnd()


def stage_tensors(model: ModelSpec) -> dict[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]]:
    """Stage -> its inputs and outputs, the encoders first."""
    tensors = {e.stage: ((e.input,), (e.output,)) for e in model.encoders}
    return {**tensors, model.fusion.stage: (model.fusion.inputs, model.fusion.outputs)}


def streaming_profile(model: ModelSpec, stage: str) -> Profile:
    """One size where it never changes; fewer steps where a window may be shorter, and any length of words."""
    usual: Sizes = {"batch": 1, "steps": model.fusion.n_steps, "token": _USUAL_TOKENS}
    smallest, largest = dict(usual), dict(usual)
    if stage == model.fusion.stage and model.fusion.warm_up == "shorten":
        smallest["steps"] = 1
    for encoder in model.encoders:
        if encoder.stage == stage and isinstance(encoder.preprocess, Words):
            smallest["token"], largest["token"] = 1, encoder.preprocess.max_tokens
            usual["token"] = min(_USUAL_TOKENS, largest["token"])
    return Profile(smallest, usual, largest)
