"""Moves what is hard to hold in 8 bits from activations to weights.

Where a few channels of a product's input are much larger than the others, one scale for the whole tensor
leaves the others hardly a level. Weights have a scale per output channel and are more even, so each input
channel k is divided by s_k, and row k of the weights multiplied by it, which changes no output:

    s_k = max |x_k| ^ a / max |w_k| ^ (1 - a)

(equation 4 of Xiao et al., "SmoothQuant", arXiv 2211.10438, with the strength a). The division goes into what
makes the tensor where that can take it, a layer norm or another product's weights; else one multiplication
stands before the products that share the tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper

from edge_mer_calibration.graphs import Edited, attribute

Floats = NDArray[np.float32]
LEAST_SPREAD = 4.0
"""Times the median channel that the largest one must reach; evener tensors are left alone."""
_FLOOR = 1e-3
"""Of the largest channel, what a smaller one counts as: a channel that was 0 may not be so on a device."""


def balanced(
    model: bytes, peaks: Mapping[str, NDArray[np.float32]], nodes: Sequence[str], strength: float = 0.5
) -> bytes:
    """The same stage with evener inputs of its matrix products.

    Ranges have to be taken anew from what comes out, in which the same tensors hold other numbers.

    Args:
        model: The stage in FP32.
        peaks: Tensor -> largest absolute value per channel of its last axis, as `Histogram.peaks`.
        nodes: Names of products that will be in 8 bits; of them, `MatMul` and `Gemm` are balanced.
        strength: The exponent a: 0 leaves all of the spread in activations, 1 moves all of it into weights.
    """
    graph = _Graph(onnx.load_model_from_string(model))
    chosen = set(nodes)
    groups: dict[str, list[NodeProto]] = {}
    for node in graph.model.graph.node:
        if node.name in chosen and graph.is_product(node):
            groups.setdefault(node.input[0], []).append(node)
    for name, group in groups.items():
        if name in peaks and _spread(peaks[name]) >= LEAST_SPREAD:
            _balance(graph, name, group, _factors(peaks[name], [graph.rows(one) for one in group], strength))
    onnx.checker.check_model(graph.model)
    return bytes(graph.model.SerializeToString(deterministic=True))


def _spread(peaks: Floats) -> float:
    return float(peaks.max() / max(float(np.median(peaks)), 1e-30))


def _factors(peaks: Floats, rows: Sequence[Floats], strength: float) -> Floats:
    """s_k per input channel, with a geometric mean of 1 so that sizes stay what they were."""
    x = np.maximum(peaks, _FLOOR * peaks.max()).astype(np.float64)
    weights = np.max([np.abs(one).max(axis=1) for one in rows], axis=0).astype(np.float64)
    w = np.maximum(weights, max(_FLOOR * weights.max(), 1e-30))
    factors = x**strength / w ** (1 - strength)
    return np.asarray(factors / np.exp(np.log(factors).mean()), np.float32)


def _balance(graph: _Graph, name: str, group: Sequence[NodeProto], factors: Floats) -> None:
    for node in group:
        graph.scale_rows(node, factors)
    inverse = np.reciprocal(factors)
    is_theirs = len(group) == len(graph.takers[name])
    if not (is_theirs and graph.fold(name, inverse)):
        graph.divide(name, group, inverse)


class _Graph(Edited):
    """A graph whose tensors are multiplied along their last axis."""

    def is_product(self, node: NodeProto) -> bool:
        """Whether it multiplies activations by a matrix of weights."""
        if node.op_type not in ("MatMul", "Gemm") or attribute(node, "transA", 0):
            return False
        weights = self.constants.get(node.input[1])
        return weights is not None and len(weights.dims) == 2

    def rows(self, node: NodeProto) -> Floats:
        """A product's weights, (input, output)."""
        values = self.array(node.input[1])
        return values.T if attribute(node, "transB", 0) else values

    def scale_rows(self, node: NodeProto, factors: Floats) -> None:
        """Weights of each input channel times a factor."""
        is_transposed = attribute(node, "transB", 0)
        self._multiply(node, 1, factors if is_transposed else factors[:, np.newaxis])

    def fold(self, name: str, factors: Floats) -> bool:
        """Let what makes a tensor give it multiplied along its last axis; False if it cannot."""
        steps = self._steps(name, len(factors))
        for node, number, is_column in steps or ():
            self._multiply(node, number, factors[:, np.newaxis] if is_column else factors)
        return steps is not None

    def divide(self, name: str, group: Sequence[NodeProto], factors: Floats) -> None:
        """One multiplication of a tensor, for these products alone."""
        target = f"{name}/even"
        constant = self.new(f"{target}/factors", factors)
        first = group[0].name
        self.insert(helper.make_node("Mul", [name, constant], [target], f"{first}_even"), before=first)
        for node in group:
            node.input[0] = target

    def _steps(self, name: str, width: int) -> list[tuple[NodeProto, int, bool]] | None:
        """Constants to multiply for a tensor to come out so: node, input, along the first axis or not."""
        node = self.makers.get(name)
        if node is None or name in self.outputs:
            return None
        if node.op_type == "LayerNormalization" and attribute(node, "axis", -1) == -1:
            return self._held(node, [number for number in (1, 2) if number < len(node.input)], width)
        if self.is_product(node):
            held = self._held(node, [2] if len(node.input) > 2 else [], width)
            column = bool(attribute(node, "transB", 0))
            return None if held is None else [(node, 1, column), *held]
        if node.op_type in ("Relu", "Identity") and len(self.takers[node.input[0]]) == 1:
            return self._steps(node.input[0], width)
        return self._steps_of_pair(node, width) if node.op_type in ("Add", "Mul") else None

    def _steps_of_pair(self, node: NodeProto, width: int) -> list[tuple[NodeProto, int, bool]] | None:
        """Of a sum or a product with one constant per channel."""
        number = next((i for i, one in enumerate(node.input) if one in self.constants), None)
        held = None if number is None else self._held(node, [number], width)
        if held is None or number is None or node.op_type == "Mul":
            return held
        other = node.input[1 - number]
        before = self._steps(other, width) if len(self.takers.get(other, ())) == 1 else None
        return None if before is None else [*before, *held]

    def _held(
        self, node: NodeProto, numbers: Sequence[int], width: int
    ) -> list[tuple[NodeProto, int, bool]] | None:
        """These inputs, if each is a constant of one number per channel."""
        for number in numbers:
            tensor = self.constants.get(node.input[number])
            if tensor is None or not tensor.dims or tensor.dims[-1] != width or np.prod(tensor.dims) != width:
                return None
        return [(node, number, False) for number in numbers]

    def _multiply(self, node: NodeProto, number: int, factors: Floats) -> None:
        self.change(node, number, self.array(node.input[number]) * factors)
