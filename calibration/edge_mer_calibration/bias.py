"""Takes the mean of what rounding weights does to a product's outputs out of its bias.

Rounded weights Wq give another mean than W: an input whose mean is not 0 turns the rounding of its weights
into a constant error, (Wq - W) E[x] per output channel, which adds up over a network while random errors
cancel out. Both factors are known beforehand, so the error is subtracted from the bias (Nagel et al.,
"Data-free quantization", arXiv 1906.04721, section 4.2, with means of calibration windows in the place of
estimated ones).
Zeros that a convolution pads with are taken for values of that mean.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.quant_utils import quantize_data

from edge_mer_calibration.graphs import Edited, attribute, output_axis
from edge_mer_calibration.quantize import Scheme

Floats = NDArray[np.float32]
CORRECTED = "/corrected"
"""Behind the name of a product's output: the same with its correction, where the product had no bias."""
_Value = TypeVar("_Value")


def bias_corrected(
    model: bytes, scheme: Scheme, means: Mapping[str, NDArray[np.float32]], nodes: Collection[str]
) -> bytes:
    """The stage in FP32 with biases that will be right once its weights are rounded.

    Args:
        model: The stage in FP32.
        scheme: How its weights will be rounded.
        means: Tensor -> mean per channel, as `Histogram.means`.
        nodes: Names of products that will be in 8 bits, and of no others.
    """
    graph = _Graph(onnx.load_model_from_string(model))
    for node in list(graph.model.graph.node):
        if node.name not in nodes or node.input[1] not in graph.constants or node.input[0] not in means:
            continue
        if (error := _mean_error(graph, node, scheme, means[node.input[0]])) is not None:
            graph.add_bias(node, -error)
    onnx.checker.check_model(graph.model)
    return bytes(graph.model.SerializeToString(deterministic=True))


def with_corrected(model: bytes, known: Mapping[str, _Value]) -> dict[str, _Value]:
    """What is known of a stage's tensors, as ranges, also for those that `bias_corrected` added to it."""
    names = (name for node in onnx.load_model_from_string(model).graph.node for name in node.output)
    added = {name: name.removesuffix(CORRECTED) for name in names if name.endswith(CORRECTED)}
    return {**known, **{new: known[old] for new, old in added.items() if old in known}}


def _mean_error(graph: _Graph, node: NodeProto, scheme: Scheme, means: Floats) -> Floats | None:
    """(Wq - W) E[x] per output channel; None where channels of both do not fit each other."""
    weights = graph.array(node.input[1])
    axis = output_axis(node, weights.ndim)
    apart = np.moveaxis(rounded_weights(weights, axis, scheme) - weights, axis, 0)  # (output, …)
    if node.op_type != "Conv":
        return np.asarray(apart @ means, np.float32) if apart.shape[1:] == means.shape else None
    n_groups, n_inputs = attribute(node, "group", 1), apart.shape[1]
    if n_groups * n_inputs != len(means):
        return None
    sums = apart.reshape(n_groups, -1, n_inputs, int(np.prod(apart.shape[2:]))).sum(axis=-1)
    errors = np.einsum("goi,gi->go", sums, means.reshape(n_groups, n_inputs)).ravel()
    return np.asarray(errors, np.float32)


def rounded_weights(weights: Floats, axis: int, scheme: Scheme) -> Floats:
    """Weights as `quantize_stage` rounds them: symmetric int8, one scale per channel of an axis."""
    made = np.empty_like(weights)
    source, target = np.moveaxis(weights, axis, 0), np.moveaxis(made, axis, 0)
    for number, channel in enumerate(source):
        _, scale, values = quantize_data(
            channel.ravel(), QuantType.QInt8.tensor_type, True, reduce_range=scheme.narrow_weights
        )
        target[number] = (values.astype(np.float32) * np.float32(scale)).reshape(channel.shape)
    return made


class _Graph(Edited):
    """A graph whose products get biases."""

    def add_bias(self, node: NodeProto, change: Floats) -> None:
        """Add to a product's bias, or give it one."""
        if node.op_type == "MatMul":
            self._add_behind(node, change)
        elif len(node.input) > 2 and node.input[2]:
            self._add(node, 2, change)
        else:
            del node.input[2:]
            node.input.append(self.new(f"{node.name}/bias", change))

    def _add_behind(self, node: NodeProto, change: Floats) -> None:
        name = node.output[0]
        takers = self.takers.get(name, [])
        if len(takers) == 1 and takers[0].op_type == "Add":
            number = 1 - list(takers[0].input).index(name)
            held = self.constants.get(takers[0].input[number])
            if held is not None and np.prod(held.dims) == len(change):
                return self._add(takers[0], number, change)
        if not takers:
            return None  # an output of the stage, whose name has to stay
        return self._add_node(node, takers, change)

    def _add_node(self, node: NodeProto, takers: list[NodeProto], change: Floats) -> None:
        name = node.output[0]
        bias = self.new(f"{node.name}/bias", change)
        new = helper.make_node("Add", [name, bias], [name + CORRECTED], f"{node.name}_bias")
        self.insert(new, behind=node.name)
        for taker in takers:
            taker.input[:] = [name + CORRECTED if one == name else one for one in taker.input]
        self.takers[name + CORRECTED] = self.takers.pop(name)

    def _add(self, node: NodeProto, number: int, change: Floats) -> None:
        values = self.array(node.input[number])
        self.change(node, number, values + change.reshape(values.shape))
