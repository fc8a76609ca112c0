"""ONNX Runtime and OpenVINO on this processor: nothing to build, only to choose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import onnxruntime

from edge_mer.bundle.manifest import candidate_of
from edge_mer.bundle.read import Bundle
from edge_mer.engine import openvino
from edge_mer.engine.cache import processor
from edge_mer.engine.onnxruntime import GraphLevel, OrtOptions
from edge_mer.engine.openvino import OvOptions
from edge_mer.engine.threads import available_threads
from edge_mer.errors import BundleError
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.setup import cpu_precisions, open_engine, open_setup
from edge_mer.runtime.target import Choice, CpuOptions, Prepared, Say, Target

MIX_GAIN = 0.05
"""Part of the time that engines of their own for single stages must save."""

_GRAPHS: tuple[GraphLevel, ...] = ("extended", "all")


class CpuTarget(Target):
    """Precisions, engines, threads, graph levels.

    Args:
        max_batch: The largest batch in which sessions may share an engine.
    """

    name = "cpu"

    def __init__(self, max_batch: int = 1) -> None:
        self.max_batch = max_batch
        self._untaken: dict[tuple[str, str], dict[str, str]] = {}

    def environment(self) -> dict[str, Any]:
        """Versions, processor and how much of it may be used."""
        return {
            "onnxruntime": onnxruntime.__version__,
            "openvino": openvino.version(),
            "processor": processor(),
            "threads": available_threads(),
        }

    def choices(self, bundle: Bundle) -> list[Choice]:
        """All that a processor runs, each stage in the same way; `int8-trt` and `fp16` are for TensorRT."""
        precisions = cpu_precisions(bundle.manifest.candidates)
        threads = sorted({1, available_threads()})
        model = bundle.manifest.model
        found = [
            Choice.alike(model, precision, OrtOptions(threads=n, graph=graph))
            for precision in precisions
            for n in threads
            for graph in _GRAPHS
        ]
        if openvino.is_installed():
            for precision in precisions:
                found += [self.on_openvino(bundle, precision, OvOptions(n)) for n in threads]
            if openvino.computes_bf16():
                found += [self.on_openvino(bundle, "bf16", OvOptions(n, "bf16")) for n in threads]
        return found

    def on_openvino(self, bundle: Bundle, precision: str, options: OvOptions) -> Choice:
        """All stages in OpenVINO; what it does not take stays in ONNX Runtime."""
        untaken = self.untaken(bundle, precision)
        ways: list[tuple[str, CpuOptions]] = [
            (stage, OrtOptions(threads=options.threads) if stage in untaken else options)
            for stage in bundle.manifest.model.stages
        ]
        return Choice(precision, tuple(ways))

    def untaken(self, bundle: Bundle, precision: str) -> dict[str, str]:
        """Stage -> why OpenVINO does not take it."""
        key = (bundle.bundle_id, candidate_of(precision))
        if key not in self._untaken:
            self._untaken[key] = dict(_refusals(bundle, candidate_of(precision)))
        return self._untaken[key]

    def mixed(self, timed: Sequence[tuple[Choice, Mapping[str, float]]]) -> list[Choice]:
        """Of each precision, every stage in the way that was its fastest, where that saves enough."""
        found = []
        for precision in dict.fromkeys(choice.precision for choice, _ in timed):
            tried = [(choice, times) for choice, times in timed if choice.precision == precision]
            stages = [stage for stage, _ in tried[0][0].stages]
            best = {stage: _fastest(stage, tried) for stage in stages}
            total_ms = sum(took_ms for took_ms, _ in best.values())
            if total_ms <= (1 - MIX_GAIN) * min(sum(times_ms.values()) for _, times_ms in tried):
                found.append(Choice(precision, tuple((stage, best[stage][1]) for stage in stages)))
        return found

    def prepare(self, bundle: Bundle, choice: Choice, say: Say) -> Prepared:
        """Nothing: the bundle's files run as they are."""
        uses_openvino = any(isinstance(options, OvOptions) for _, options in choice.stages)
        untaken = self.untaken(bundle, choice.precision) if uses_openvino else {}
        return Prepared(facts={"openvino_refused": untaken} if untaken else {})

    def open(self, bundle: Bundle, choice: Choice, files: Mapping[str, bytes]) -> PipelineSetup:
        """One engine per stage."""
        return open_setup(bundle, choice.precision, None, dict(choice.stages))

    def choice_of(self, record: Mapping[str, Any]) -> Choice:
        """As `describe` wrote it."""
        ways = tuple((told["stage"], _options_of(told)) for told in record["stages"])
        return Choice(record["precision"], ways)

    def describe(self, choice: Choice) -> dict[str, Any]:
        """Precision, and of each stage engine, threads, graph level and what float layers compute in."""
        return {
            "precision": choice.precision,
            "stages": [{"stage": stage, **_described(options)} for stage, options in choice.stages],
        }


def _fastest(stage: str, tried: Sequence[tuple[Choice, Mapping[str, float]]]) -> tuple[float, CpuOptions]:
    """How a stage ran fastest, and how long it took in milliseconds."""
    ways = [(times_ms[stage], dict(choice.stages)[stage]) for choice, times_ms in tried]
    return min(ways, key=lambda one: one[0])


def _refusals(bundle: Bundle, candidate: str) -> Iterator[tuple[str, str]]:
    model = bundle.manifest.model
    for stage in model.stages:
        try:
            open_engine(model, stage, bundle.read_stage(candidate, stage), OvOptions()).close()
        except BundleError as refusal:
            yield stage, str(refusal)


def _described(options: CpuOptions) -> dict[str, Any]:
    if isinstance(options, OvOptions):
        return {"engine": "openvino", **asdict(options)}
    return {"engine": "onnxruntime", "threads": options.threads, "graph": options.graph}


def _options_of(told: Mapping[str, Any]) -> CpuOptions:
    if told["engine"] == "openvino":
        return OvOptions(told["threads"], told["compute"])
    return OrtOptions(threads=told["threads"], graph=told["graph"])
