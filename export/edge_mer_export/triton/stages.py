"""The files that a repository is made of: which candidate runs on what, and where its bytes come from."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_mer.bundle.manifest import RUN_OF, in_order, kind_of
from edge_mer.bundle.read import Bundle
from edge_mer.engine.cache import read_file
from edge_mer.engine.onnxruntime import OrtOptions
from edge_mer.errors import MissingError, UsageError
from edge_mer.runtime.blank import blank_feature
from edge_mer.runtime.build import fitting_build
from edge_mer.runtime.setup import CPU_KINDS, open_engine
from edge_mer.runtime.target_tensorrt import TensorRtTarget
from edge_mer_export.triton.names import STREAM
from edge_mer_export.triton.options import Options
from edge_mer_export.triton.stream_graph import stream_model

DEFAULT_MAX_BATCH = 8
GPU_KINDS = ("fp32", "fp16")
"""What ONNX Runtime multiplies on a GPU; 8 bits would go back and forth to the processor."""


@dataclass(frozen=True)
class StageFile:
    """What a server is to run for a stage.

    Attributes:
        platform: Triton's name of what runs it.
        precision: The candidate.
        data: ONNX or plan.
        max_batch: Most requests at once.
        profile: The plan's optimization profile that takes such batches; None for ONNX.
    """

    platform: str
    precision: str
    data: bytes
    max_batch: int
    profile: int | None = None

    @property
    def file_name(self) -> str:
        """As Triton looks for it."""
        return "model.plan" if self.platform == "tensorrt_plan" else "model.onnx"


def stage_files(bundle: Bundle, options: Options) -> dict[str, StageFile]:
    """Every stage of a bundle and its streaming model, read or made.

    Raises:
        UsageError: The candidate does not run on what was asked for, or the bundle has none of that name.
        MissingError: No plans were built here, or not those that were asked for.
        BundleError: The bundle is broken or altered.
    """
    if STREAM in bundle.manifest.model.stages:
        raise UsageError(f"bundle {bundle.path} has a stage named {STREAM!r}, which the repository needs")
    precision = onnx_precision(bundle, options)
    if options.platform == "tensorrt":
        found = _plans(bundle, options)
        precision = "fp32"
    else:
        found = _onnx_files(bundle, options, precision)
    most = options.max_batch or DEFAULT_MAX_BATCH
    found[STREAM] = StageFile("onnxruntime_onnx", precision, stream_bytes(bundle, precision), most)
    return found


def onnx_precision(bundle: Bundle, options: Options) -> str:
    """The candidate whose ONNX files run, checked against what is to run them.

    Raises:
        UsageError: It does not run there, or there is none of that name.
    """
    precision = options.precision or "fp32"
    if precision not in bundle.manifest.candidates:
        near = difflib.get_close_matches(precision, bundle.precisions, 1)
        raise UsageError(
            f"bundle {bundle.path} has no precision {precision!r}",
            expected=" or ".join(in_order(bundle.precisions)),
            hint=f"did you mean {near[0]}?" if near and precision not in RUN_OF else None,
        )
    if options.platform == "tensorrt":
        if any(one.processor == "cpu" for one in options.instances):
            raise UsageError("TensorRT runs on a GPU only", expected="--instances gpu:COUNT")
        return precision
    for one in options.processors:
        kinds = CPU_KINDS if one.processor == "cpu" else GPU_KINDS
        if kind_of(precision) not in kinds:
            raise UsageError(
                f"ONNX Runtime does not run {precision} well on a {one.processor.upper()}",
                expected=" or ".join(name for name in bundle.precisions if kind_of(name) in kinds),
                hint="name another --precision or --instances"
                + ("" if kind_of(precision) in CPU_KINDS else ", or --platform tensorrt"),
            )
    return precision


def _onnx_files(bundle: Bundle, options: Options, precision: str) -> dict[str, StageFile]:
    most = options.max_batch or DEFAULT_MAX_BATCH
    return {
        stage: StageFile("onnxruntime_onnx", precision, bundle.read_stage(precision, stage), most)
        for stage in bundle.manifest.model.stages
    }


def stream_bytes(bundle: Bundle, precision: str) -> bytes:
    """The streaming model of a candidate, the same bytes each time."""
    model = bundle.manifest.model
    blanks = {}
    if model.fusion.warm_up == "pad":
        for encoder in model.encoders:
            # one thread: a blank must not depend on how many the writer's machine has
            engine = open_engine(
                model, encoder.stage, bundle.read_stage(precision, encoder.stage), OrtOptions(threads=1)
            )
            blanks[encoder.stage] = blank_feature(encoder, engine)
            engine.close()
    return stream_model(model, bundle.read_stage(precision, model.fusion.stage), blanks)


def _plans(bundle: Bundle, options: Options) -> dict[str, StageFile]:
    hint = "run edge-mer build-engine --target tensorrt on the server's machine"
    record = fitting_build(bundle, TensorRtTarget())
    if record is None:
        raise MissingError(f"bundle {bundle.path} was not built for TensorRT here", hint=hint)
    if options.precision not in (None, record["precision"]):
        raise MissingError(
            f"bundle {bundle.path} was not built for TensorRT here in what was asked for",
            expected=str(options.precision),
            found=str(record["precision"]),
            hint="leave out --precision, or build again",
        )
    found = {}
    for stage in bundle.manifest.model.stages:
        profiles = record["built"]["stages"][stage]["profiles"]
        index, most = _largest(profiles)
        wanted = options.max_batch or most
        if wanted > most:
            raise UsageError(
                f"bundle {bundle.path}: the plan of {stage} does not take batches of {wanted}",
                expected=f"--max-batch {most} or less",
                hint=f"{hint} --max-batch {wanted} --force",
            )
        plan = read_file(record, f"{stage}.plan")
        found[stage] = StageFile("tensorrt_plan", record["precision"], plan, wanted, index)
    return found


def _largest(profiles: list[Mapping[str, Any]]) -> tuple[int, int]:
    """The profile that takes the largest batches, and how large they are."""
    sizes = [int(one["largest"]["batch"]) for one in profiles]
    return sizes.index(max(sizes)), max(sizes)
