"""The whole model as one ONNX file: encoders over the window's clips and the fusion in one graph.

It is joined from the bundle's FP32 stages, so that its weights are the same to the bit; every shape is fixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from benchmarks.speed.rivals.whole import DYNAMIC, FP32, STATIC, last_line
from benchmarks.speed.steps import Array, Steps, is_encoded
from edge_mer.types.model import Encoder, ModelSpec, TensorSpec

N_CALIBRATION = 3
"""Windows that ONNX Runtime's quantization in advance looks at."""


def join(spec: ModelSpec, stages: Mapping[str, bytes], n_steps: int | None = None) -> onnx.ModelProto:
    """One graph of all stages for a window of L steps.

    Args:
        spec: The model's declaration.
        stages: Stage -> ONNX.
        n_steps: L, where the fusion takes windows of any length.

    Returns:
        Inputs are the encoders' pieces "<stage>.<input>", (L / repeat, …); outputs the fusion's.
    """
    size = spec.fusion.n_steps if n_steps is None else n_steps
    fusion = spec.fusion.stage
    whole = _prepared(stages[fusion], fusion, spec.fusion.inputs, 1, size)
    for encoder, tensor in zip(spec.encoders, spec.fusion.inputs, strict=False):
        if not is_encoded(encoder):
            continue
        n_pieces = size // encoder.repeat
        part = _prepared(stages[encoder.stage], encoder.stage, (encoder.input,), n_pieces, size)
        feature = f"{encoder.stage}.{encoder.output.name}"
        window = _to_window(part, feature, encoder, n_pieces)
        pairs = [(window, f"{fusion}.{tensor.name}")]
        whole = compose.merge_models(part, whole, io_map=pairs)
    _fix_mask(whole, spec)
    del whole.graph.value_info[:]
    del whole.opset_import[1:]  # joining repeats it, which quantization refuses
    onnx.checker.check_model(whole, full_check=True)
    return whole


def feed_of(spec: ModelSpec, steps: Steps, window: int) -> dict[str, Array]:
    """What the joined graph takes of a window."""
    feed = {}
    for encoder, tensor in zip(spec.encoders, spec.fusion.inputs, strict=False):
        pieces = steps.pieces(spec, encoder, window)
        if is_encoded(encoder):
            feed[f"{encoder.stage}.{encoder.input.name}"] = np.ascontiguousarray(pieces)
        else:
            feed[f"{spec.fusion.stage}.{tensor.name}"] = pieces[np.newaxis]
    return feed


def output_names(spec: ModelSpec) -> list[str]:
    """Of the joined graph, in the order of the model's outputs."""
    return [f"{spec.fusion.stage}.{tensor.name}" for tensor in spec.fusion.outputs]


def quantize(folder: Path, feeds: Sequence[Mapping[str, Array]]) -> dict[str, str]:
    """Both of ONNX Runtime's ways to 8 bits with all its defaults; file -> why there is none.

    Args:
        folder: Where the FP32 file lies.
        feeds: What the way in advance looks at.
    """
    from onnxruntime.quantization import quantize_dynamic, quantize_static

    def static() -> None:
        quantize_static(folder / FP32, folder / STATIC, _Feeds(feeds))

    def dynamic() -> None:
        quantize_dynamic(folder / FP32, folder / DYNAMIC)

    refused = {}
    for file, make in ((STATIC, static), (DYNAMIC, dynamic)):
        try:
            make()
        except Exception as error:  # whatever a user would see
            refused[file] = last_line(error)
    return refused


class _Feeds:
    """What `quantize_static` reads."""

    def __init__(self, feeds: Sequence[Mapping[str, Array]]) -> None:
        self._left: Iterator[Mapping[str, Array]] = iter(feeds)

    def get_next(self) -> Mapping[str, Array] | None:
        """The next one; None when there is none left."""
        return next(self._left, None)


def _prepared(
    stage_onnx: bytes, stage: str, inputs: Sequence[TensorSpec], batch: int, n_steps: int
) -> onnx.ModelProto:
    """A stage with its name before all of its names, and its inputs' sizes fixed."""
    model = onnx.load_model_from_string(stage_onnx)
    for value, spec in zip(model.graph.input, inputs, strict=True):
        sizes = spec.concrete(batch=batch, steps=n_steps)
        for dim, size in zip(value.type.tensor_type.shape.dim, sizes, strict=True):
            dim.Clear()
            dim.dim_value = size
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in ("batch", "steps"):
                size = batch if dim.dim_param == "batch" else n_steps
                dim.Clear()
                dim.dim_value = size
    return compose.add_prefix(model, f"{stage}.")


def _to_window(part: onnx.ModelProto, feature: str, encoder: Encoder, n_pieces: int) -> str:
    """Behind an encoder: (pieces, feature) -> (1, L, feature), each piece as often as it serves."""
    graph, stage = part.graph, encoder.stage
    window = f"{stage}.window"
    joined = [1, n_pieces * encoder.repeat, encoder.feature]
    ways = [("Reshape", "joined", joined)]
    if encoder.repeat > 1:
        repeated = [n_pieces, encoder.repeat, encoder.feature]
        ways = [("Reshape", "apart", [n_pieces, 1, encoder.feature]), ("Expand", "repeated", repeated), *ways]
    for kind, name, shape in ways:
        sizes, result = f"{stage}.{name}.shape", window if name == "joined" else f"{stage}.{name}"
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), sizes))
        graph.node.append(helper.make_node(kind, [feature, sizes], [result], name=f"{stage}.{name}"))
        feature = result
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(window, TensorProto.FLOAT, joined))
    return window


def _fix_mask(whole: onnx.ModelProto, spec: ModelSpec) -> None:
    """In place of a mask input: everything is there."""
    if not spec.fusion.has_present_input:
        return
    name = f"{spec.fusion.stage}.{spec.fusion.inputs[-1].name}"
    given = next(value for value in whole.graph.input if value.name == name)
    shape = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    whole.graph.input.remove(given)
    whole.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.bool_), name))
