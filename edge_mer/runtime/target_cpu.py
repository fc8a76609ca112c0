"""ONNX Runtime on this processor: nothing to build, only to choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnxruntime

from edge_mer.bundle.read import Bundle
from edge_mer.engine.cache import processor
from edge_mer.engine.onnxruntime import GraphLevel, OrtOptions, available_threads
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.setup import cpu_precisions, open_setup
from edge_mer.runtime.target import Choice, Prepared, Say, Target


class CpuTarget(Target):
    """Precisions, threads and graph levels of ONNX Runtime."""

    name = "cpu"

    def environment(self) -> dict[str, Any]:
        """Version, processor and how much of it may be used."""
        return {
            "onnxruntime": onnxruntime.__version__,
            "processor": processor(),
            "threads": available_threads(),
        }

    def choices(self, bundle: Bundle) -> list[Choice]:
        """All that a processor runs; `int8-trt` and `fp16` are for TensorRT."""
        threads = sorted({1, available_threads()})
        graphs: tuple[GraphLevel, ...] = ("extended", "all")
        return [
            Choice(precision, OrtOptions(threads=n, graph=graph))
            for precision in cpu_precisions(bundle.manifest.candidates)
            for n in threads
            for graph in graphs
        ]

    def prepare(self, bundle: Bundle, choice: Choice, say: Say) -> Prepared:
        """Nothing: the bundle's files run as they are."""
        return Prepared()

    def open(self, bundle: Bundle, choice: Choice, files: Mapping[str, bytes]) -> PipelineSetup:
        """One ONNX Runtime session per stage."""
        return open_setup(bundle, choice.precision, None, choice.options)

    def choice_of(self, record: Mapping[str, Any]) -> Choice:
        """As `describe` wrote it."""
        return Choice(record["precision"], OrtOptions(threads=record["threads"], graph=record["graph"]))

    def describe(self, choice: Choice) -> dict[str, Any]:
        """Precision, threads, graph level."""
        options = choice.options
        return {"precision": choice.precision, "threads": options.threads, "graph": options.graph}
