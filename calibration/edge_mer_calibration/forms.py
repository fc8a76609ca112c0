"""Kinds of candidates: how a stage comes into few bits, and how it is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from edge_mer.bundle.manifest import StageQuantization
from edge_mer.engine.base import Engine
from edge_mer.engine.onnxruntime import OrtEngine, OrtOptions, available_threads
from edge_mer_calibration.methods import Stage
from edge_mer_calibration.quantize import SCHEMES, Scheme, finish_stage
from edge_mer_calibration.ranges import Method


class Form(Protocol):
    """A kind of candidates.

    Attributes:
        kind: Its name.
        is_for_cpu: This machine's processor runs it in earnest.
    """

    kind: str
    is_for_cpu: bool

    def groups(self, stage: Stage) -> Mapping[str, tuple[str, ...]]:
        """Module path -> the nodes in it that can be in few bits."""
        ...

    def whole(self, stage: Stage) -> tuple[bytes, StageQuantization]:
        """Everything that can be in few bits, and how."""
        ...

    def prepared(self, stage: Stage, how: StageQuantization, whole: bytes) -> tuple[bytes, StageQuantization]:
        """The same after the stage was prepared, where that errs less; else what was given."""
        ...

    def part(self, stage: Stage, how: StageQuantization, nodes: Sequence[str]) -> bytes:
        """Only these nodes in few bits, in the way that `how` says."""
        ...

    def shipped(self, data: bytes) -> bytes:
        """The form that goes into the bundle, from that in which it is judged."""
        ...

    def engine(self, stage: Stage, data: bytes) -> Engine:
        """What judges a form of a stage."""
        ...


class Int8:
    """8 bits by a scheme.

    Args:
        scheme: How numbers become 8 bits.
    """

    def __init__(self, scheme: Scheme) -> None:
        self.kind, self._scheme = scheme.name, scheme
        self.is_for_cpu = not scheme.half

    def groups(self, stage: Stage) -> Mapping[str, tuple[str, ...]]:
        """Module path -> the nodes in it that can be quantized."""
        return stage.blocks

    def whole(self, stage: Stage) -> tuple[bytes, StageQuantization]:
        """By the method that errs least."""
        return stage.quantized(self._scheme)

    def prepared(self, stage: Stage, how: StageQuantization, whole: bytes) -> tuple[bytes, StageQuantization]:
        """Balanced, with corrected biases, or both."""
        return whole, how

    def part(self, stage: Stage, how: StageQuantization, nodes: Sequence[str]) -> bytes:
        """Only these nodes, by the method that was chosen for the whole stage."""
        return stage.by(_method(how), self._scheme, nodes)

    def shipped(self, data: bytes) -> bytes:
        """With the rest in FP16 where the scheme wants that."""
        return finish_stage(data, self._scheme)

    def engine(self, stage: Stage, data: bytes) -> Engine:
        """ONNX Runtime, as a processor runs it, or for TensorRT as the graph is written."""
        # Fused kernels of processors saturate on signed 8-bit products, and erred 13 times as much as the
        # graph itself: what will not run here in earnest is judged as it is written.
        options = OrtOptions(threads=available_threads(), fuse_qdq=self.is_for_cpu)
        return OrtEngine(stage.name, data, stage.inputs, stage.outputs, stage.sizes, options)


def _method(how: StageQuantization) -> Method:
    method: Method = how.method.split()[-1]  # type: ignore[assignment]
    return method


FORMS: dict[str, Form] = {name: Int8(scheme) for name, scheme in SCHEMES.items()}
