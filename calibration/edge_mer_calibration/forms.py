"""Kinds of candidates: how a stage comes into few bits, and how it is judged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

from edge_mer.bundle.manifest import StageQuantization
from edge_mer.engine.base import Engine
from edge_mer.engine.onnxruntime import OrtEngine, OrtOptions
from edge_mer.engine.threads import available_threads
from edge_mer_calibration.blocks import blocks
from edge_mer_calibration.half import LIMIT, half_stage
from edge_mer_calibration.half_arithmetic import in_half_arithmetic
from edge_mer_calibration.methods import Stage
from edge_mer_calibration.preparation import PREPARATIONS, errors, in_8_bits
from edge_mer_calibration.quantize import SCHEMES, Scheme, finish_stage


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

    def prepared(self, stage: Stage, how: StageQuantization) -> tuple[bytes, StageQuantization]:
        """The same after the stage was prepared in the way that errs least, or as it is where that does."""
        ...

    def part(self, stage: Stage, how: StageQuantization, nodes: Sequence[str]) -> bytes:
        """Only these nodes in few bits, in the way that `how` says."""
        ...

    def shipped(self, stage: Stage, data: bytes) -> bytes:
        """The form that goes into the bundle, from that in which it is searched."""
        ...

    def judged(self, shipped: bytes) -> bytes:
        """A graph that computes here what the shipped one says."""
        ...

    def engine(self, stage: Stage, data: bytes) -> Engine:
        """What runs a form of a stage, as it is searched or judged."""
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

    def prepared(self, stage: Stage, how: StageQuantization) -> tuple[bytes, StageQuantization]:
        """Balanced, with corrected biases, or both, each by the method that then errs least."""
        tried = dict(how.tried)
        for preparation in PREPARATIONS:
            tried |= errors(stage, preparation, self._scheme)
        best = min(tried, key=tried.__getitem__)
        made = how.model_copy(update={"method": best, "tried": tried})
        return in_8_bits(stage, best, self._scheme), made

    def part(self, stage: Stage, how: StageQuantization, nodes: Sequence[str]) -> bytes:
        """Only these nodes, in the way that was chosen for the whole stage."""
        return in_8_bits(stage, how.method, self._scheme, nodes)

    def shipped(self, stage: Stage, data: bytes) -> bytes:
        """For TensorRT the rest is in FP16, but for what half cannot hold."""
        too_large = [name for name in stage.overflow if "#" not in name] if self._scheme.half else []
        return finish_stage(data, self._scheme, too_large)

    def judged(self, shipped: bytes) -> bytes:
        """The rest in real half arithmetic, which ONNX Runtime's CPU does not compute by itself."""
        return in_half_arithmetic(shipped) if self._scheme.half else shipped

    def engine(self, stage: Stage, data: bytes) -> Engine:
        """ONNX Runtime, as a processor runs it, or for TensorRT as the graph is written."""
        # Fused kernels of processors saturate on signed 8-bit products, and erred 13 times as much as the
        # graph itself: what will not run here in earnest is judged as it is written.
        options = OrtOptions(threads=available_threads(), fuse_qdq=self.is_for_cpu)
        return OrtEngine(stage.name, data, stage.inputs, stage.outputs, stage.sizes, options)


class Half:
    """16 bits: everything but what half cannot hold."""

    kind = "fp16"
    is_for_cpu = False
    method = "half"

    def groups(self, stage: Stage) -> Mapping[str, tuple[str, ...]]:
        """Module path -> all its nodes."""
        return blocks(stage.nodes)

    def whole(self, stage: Stage) -> tuple[bytes, StageQuantization]:
        """All nodes but those that are near the largest number of half, or lose a constant in it."""
        data = half_stage(stage.model, stage.overflow)
        error = stage.once("errors.half", lambda: stage.error(in_half_arithmetic(data)))
        reasons: dict[str, list[str]] = defaultdict(list)
        for name, number in stage.overflow.items():
            reasons["reaches too far" if number >= LIMIT else "guards with a small constant"].append(name)
        in_float = {reason: tuple(names) for reason, names in reasons.items()}
        return data, StageQuantization(method=self.method, tried={self.method: error}, in_float=in_float)

    def prepared(self, stage: Stage, how: StageQuantization) -> tuple[bytes, StageQuantization]:
        """There is nothing to prepare."""
        return half_stage(stage.model, stage.overflow), how

    def part(self, stage: Stage, how: StageQuantization, nodes: Sequence[str]) -> bytes:
        """Only these nodes in half."""
        return half_stage(stage.model, {*stage.nodes, *stage.overflow} - ({*nodes} - {*stage.overflow}))

    def shipped(self, stage: Stage, data: bytes) -> bytes:
        """As it is."""
        return data

    def judged(self, shipped: bytes) -> bytes:
        """In real half arithmetic, which ONNX Runtime's CPU does not compute by itself."""
        return in_half_arithmetic(shipped)

    def engine(self, stage: Stage, data: bytes) -> Engine:
        """ONNX Runtime on the graph in half arithmetic."""
        options = OrtOptions(threads=available_threads())
        return OrtEngine(
            stage.name, in_half_arithmetic(data), stage.inputs, stage.outputs, stage.sizes, options
        )


FORMS: dict[str, Form] = {"fp16": Half(), **{name: Int8(scheme) for name, scheme in SCHEMES.items()}}
