"""Chooses how the values of a stage become 8 bits: by the method that errs least of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_mer.bundle.manifest import StageQuantization
from edge_mer.engine.onnxruntime import OrtEngine, OrtOptions, available_threads
from edge_mer.types.model import TensorSpec
from edge_mer_calibration.blocks import blocks
from edge_mer_calibration.quantize import OPERATORS, Scheme, quantizable, quantize_stage
from edge_mer_calibration.ranges import METHODS, Feed, Histogram, Method, Ranges, clipped

Floats = NDArray[np.floating]
_LEAST_DEVIATION = 1e-12


@dataclass(frozen=True)
class Stage:
    """A stage as it is quantized.

    Attributes:
        name: Of the stage.
        model: Its FP32 form.
        inputs: Declared inputs.
        outputs: Declared outputs.
        histograms: Of its tensors, on the calibration windows.
        held: Windows that no range is taken from.
    """

    name: str
    model: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    histograms: Mapping[str, Histogram]
    held: Sequence[Feed]
    _known: dict[tuple[Method, bool], dict[str, tuple[float, float]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def blocks(self) -> dict[str, tuple[str, ...]]:
        """Module path -> the nodes in it that can be quantized."""
        return blocks(quantizable(onnx.load_model_from_string(self.model)))

    @property
    def sizes(self) -> dict[str, int]:
        """Of free axes, for an engine whose buffers nobody fills."""
        return {"batch": 1, "steps": 1, "token": 1}

    def quantized(self, scheme: Scheme) -> tuple[bytes, StageQuantization]:
        """The stage in 8 bits by the method that errs least, and what each came to."""
        expected = self._outputs(self.model)
        found: dict[Method, bytes] = {method: self.by(method, scheme) for method in METHODS}
        errors = {method: relative_error(self._outputs(data), expected) for method, data in found.items()}
        best = min(METHODS, key=errors.__getitem__)
        return found[best], StageQuantization(method=best, tried={str(m): e for m, e in errors.items()})

    def by(self, method: Method, scheme: Scheme, nodes: Sequence[str] | None = None) -> bytes:
        """The stage in 8 bits by one method; `nodes` names those to take, None takes all that can be."""
        return quantize_stage(self.model, self._ranges(method, symmetric=scheme.symmetric), scheme, nodes)

    def _ranges(self, method: Method, *, symmetric: bool) -> dict[str, tuple[float, float]]:
        """Tensor -> what 8 bits shall hold of it; entropy takes its time, and once is enough."""
        key = (method, symmetric and method != "entropy")  # which is symmetric in any case
        if key not in self._known:
            self._known[key] = {
                name: clipped(one, method, symmetric=symmetric) for name, one in self.histograms.items()
            }
        return self._known[key]

    def _outputs(self, model: bytes) -> dict[str, list[Floats]]:
        engine = OrtEngine(
            self.name,
            model,
            self.inputs,
            self.outputs,
            self.sizes,
            OrtOptions(threads=available_threads(), fuse_qdq=False),  # as it is written
        )
        runs = [engine.run(feed) for feed in self.held]
        return {spec.name: [run[spec.name] for run in runs] for spec in self.outputs}


def histograms_of(model: bytes, feeds: Sequence[Feed]) -> dict[str, Histogram]:
    """What a stage's tensors hold on calibration windows."""
    ranges = Ranges(model, OPERATORS, available_threads())
    for feed in feeds:
        ranges.add(feed)
    return ranges.histograms()


def relative_error(found: Mapping[str, list[Floats]], expected: Mapping[str, list[Floats]]) -> float:
    """Root mean square error of the worst output, in standard deviations of that output."""
    errors = []
    for name, parts in expected.items():
        truth = np.concatenate([part.ravel() for part in parts]).astype(np.float64)
        values = np.concatenate([part.ravel() for part in found[name]])
        deviation = max(float(truth.std()), _LEAST_DEVIATION)
        errors.append(float(np.sqrt(np.mean((values - truth) ** 2))) / deviation)
    return max(errors)
