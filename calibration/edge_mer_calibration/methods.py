"""Chooses how the values of a stage become 8 bits: by the method that errs least of all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_mer.bundle.manifest import StageQuantization
from edge_mer.engine.onnxruntime import OrtEngine, OrtOptions
from edge_mer.engine.threads import available_threads
from edge_mer.runtime.proof import deviation_of
from edge_mer.types.model import TensorSpec
from edge_mer_calibration.blocks import blocks
from edge_mer_calibration.graphs import lift_constants, name_nodes
from edge_mer_calibration.kept import Kept
from edge_mer_calibration.overflow import near_overflow, peaks_of
from edge_mer_calibration.quantize import OPERATORS, Scheme, placement, quantizable, quantize_stage
from edge_mer_calibration.ranges import METHODS, Feed, Histogram, Method, Ranges, clipped

Floats = NDArray[np.floating]
_LEAST_DEVIATION = 1e-12
NOT_A_NUMBER = 1e6


@dataclass(frozen=True)
class Stage:
    """A stage as it is quantized.

    Attributes:
        name: Of the stage.
        model: Its FP32 form.
        inputs: Declared inputs.
        outputs: Declared outputs.
        feeds: The calibration windows.
        histograms: Of its tensors, on them.
        held: Windows that no range is taken from.
        kept: Finished parts; None keeps nothing.
        variant: How it was prepared; "" for the stage as it is.
        variants: Prepared forms, by name.
    """

    name: str
    model: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    feeds: Sequence[Feed]
    histograms: Mapping[str, Histogram]
    held: Sequence[Feed]
    kept: Kept | None = None
    variant: str = ""
    variants: dict[str, Stage] = field(default_factory=dict, repr=False, compare=False)
    _known: dict[tuple[Method, bool], dict[str, tuple[float, float]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    _noted: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def quantizable(self) -> tuple[str, ...]:
        """Nodes that can be quantized."""
        return tuple(quantizable(onnx.load_model_from_string(self.model)))

    @cached_property
    def blocks(self) -> dict[str, tuple[str, ...]]:
        """Module path -> the nodes in it that can be quantized."""
        return blocks(self.quantizable)

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """All nodes, by the names under which FP16 knows them."""
        model = onnx.load_model_from_string(self.model)
        lift_constants(model)
        name_nodes(model)
        return tuple(node.name for node in model.graph.node)

    @cached_property
    def overflow(self) -> dict[str, float]:
        """Node -> the number that half cannot hold: near its largest, or a constant that is lost in it."""
        peaks = self.once("peaks", lambda: peaks_of(self.model, self.feeds, available_threads()))
        return near_overflow(self.model, peaks)

    @cached_property
    def in_float(self) -> dict[str, tuple[str, ...]]:
        """Why -> the products that stay in float in any case."""
        found: dict[str, list[str]] = defaultdict(list)
        for node, reason in placement(onnx.load_model_from_string(self.model)).items():
            if reason is not None:
                found[reason].append(node)
        return {reason: tuple(nodes) for reason, nodes in found.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """Of free axes, for an engine whose buffers nobody fills."""
        return {"batch": 1, "steps": 1, "token": 1}

    def quantized(self, scheme: Scheme) -> tuple[bytes, StageQuantization]:
        """The stage in 8 bits by the method that errs least, and what each came to."""
        errors: dict[str, float] = self.once(f"errors.{scheme.name}", lambda: self._errors(scheme))
        best = min(METHODS, key=errors.__getitem__)
        how = StageQuantization(method=best, tried=errors, in_float=self.in_float)
        return self.by(best, scheme), how

    def by(self, method: Method, scheme: Scheme, nodes: Sequence[str] | None = None) -> bytes:
        """The stage in 8 bits by one method; `nodes` names those to take, None takes all that can be."""
        return quantize_stage(self.model, self.ranges(method, symmetric=scheme.symmetric), scheme, nodes)

    def ranges(self, method: Method, *, symmetric: bool) -> dict[str, tuple[float, float]]:
        """Tensor -> what 8 bits shall hold of it; entropy takes its time, and once is enough."""
        key = (method, symmetric and method != "entropy")  # which is symmetric in any case
        if key not in self._known:
            self._known[key] = self.once(
                f"ranges.{method}.{key[1]}",
                lambda: {n: clipped(one, method, symmetric=symmetric) for n, one in self.histograms.items()},
            )
        return self._known[key]

    def error(self, model: bytes) -> float:
        """How far a form of the stage is from FP32 on the windows that no range was taken from."""
        return relative_error(self._outputs(model), self._expected)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Something about this stage that JSON can hold: of an interrupted calibration, or made now."""
        if name not in self._noted and self.kept is not None:
            return self.kept.numbers(self._part(name), make)
        return self._noted[name] if name in self._noted else make()

    def knows(self, name: str) -> bool:
        """Whether `once` need not make it."""
        return name in self._noted or (self.kept is not None and self.kept.has_numbers(self._part(name)))

    def note(self, name: str, made: Any) -> None:
        """Something that `once` would make was made by somebody else."""
        self._noted[name] = made if self.kept is None else self.kept.numbers(self._part(name), lambda: made)

    def _part(self, name: str) -> str:
        return ".".join(filter(None, (self.name, self.variant.replace(" ", "-"), name)))

    def _errors(self, scheme: Scheme) -> dict[str, float]:
        return {method: self.error(self.by(method, scheme)) for method in METHODS}

    @cached_property
    def _expected(self) -> dict[str, list[Floats]]:
        return self._outputs(self.model)

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


def histograms_of(
    model: bytes, feeds: Sequence[Feed], step: Callable[[int, int], None] = lambda _done, _of: None
) -> dict[str, Histogram]:
    """What a stage's tensors hold on calibration windows; `step` is told how many of how many are done."""
    ranges = Ranges(model, OPERATORS, available_threads())
    for number, feed in enumerate(feeds, 1):
        ranges.add(feed)
        step(number, len(feeds))
    return ranges.histograms()


def relative_error(found: Mapping[str, list[Floats]], expected: Mapping[str, list[Floats]]) -> float:
    """Root mean square error of the worst output, in units of what it varies by from window to window.

    One with a number that is none errs by `NOT_A_NUMBER`.
    """
    errors = []
    for name, parts in expected.items():
        truth, values = _rows(parts), _rows(found[name])
        deviation = max(deviation_of(truth), _LEAST_DEVIATION)
        error = float(np.sqrt(np.mean((values - truth) ** 2))) / deviation
        errors.append(error if np.isfinite(error) else NOT_A_NUMBER)
    return max(errors)


def _rows(parts: Sequence[Floats]) -> Floats:
    """A row per window, or per token where windows have several: (rows, last axis)."""
    return np.concatenate([part.reshape(-1, part.shape[-1] if part.ndim > 1 else 1) for part in parts])
