"""8-bit weights as pairs of Q and DQ: the same numbers, and nothing in 8 bits that a parser could refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_mer.bundle.onnx_expand import with_pairs
from edge_mer.bundle.read import open_bundle


def outputs(model: bytes, feed: dict[str, np.ndarray]) -> list[np.ndarray]:  # type: ignore[type-arg]
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    return session.run(None, feed)  # type: ignore[no-any-return]


def int8_constants_behind_dq(model: bytes) -> list[str]:
    graph = onnx.load_from_string(model).graph
    int8 = {one.name for one in graph.initializer if one.data_type == TensorProto.INT8 and len(one.dims)}
    return [
        node.input[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in int8
    ]


@pytest.mark.parametrize("stage", ["visual", "audio", "fusion"])
def test_a_stage_computes_the_very_same(stage: str, shared_bundle: Path) -> None:
    bundle = open_bundle(shared_bundle)
    model = bundle.read_stage("int8-trt", stage)
    expanded = with_pairs(model)
    assert int8_constants_behind_dq(model)
    assert not int8_constants_behind_dq(expanded)
    onnx.checker.check_model(onnx.load_from_string(expanded), full_check=True)
    rng = np.random.default_rng(0)
    fusion = bundle.manifest.model.fusion
    inputs = (
        fusion.inputs
        if stage == "fusion"
        else (next(one.input for one in bundle.manifest.model.encoders if one.stage == stage),)
    )
    feed = {}
    for spec in inputs:
        shape = spec.concrete(batch=1, steps=fusion.n_steps)
        values = rng.standard_normal(shape)
        feed[spec.name] = values > 0 if spec.dtype == "bool" else values.astype(spec.dtype)
    for before, after in zip(outputs(model, feed), outputs(expanded, feed), strict=True):
        assert np.array_equal(before, after)


def graph_of(scale: np.ndarray, *, axis: int | None, zero: bool) -> bytes:  # type: ignore[type-arg]
    rng = np.random.default_rng(1)
    weights = rng.integers(-127, 128, (3, 4), dtype=np.int8)
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(scale, "s")]
    if zero:
        constants.append(numpy_helper.from_array(np.zeros(scale.shape, np.int8), "z"))
    attributes = {} if axis is None else {"axis": axis}
    kind = helper.np_dtype_to_tensor_dtype(scale.dtype)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", *(["z"] if zero else [])], ["f"], **attributes),
        helper.make_node("MatMul", ["x", "f"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["batch", 3])],
        [helper.make_tensor_value_info("y", kind, ["batch", 4])],
        constants,
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()  # type: ignore[no-any-return]


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_scales_of_any_axis_and_type(kind: type, axis: int | None, zero: bool) -> None:
    rng = np.random.default_rng(2)
    n_channels = {None: 0, 0: 3, 1: 4, -1: 4}[axis]
    scale = rng.uniform(0.001, 0.1, n_channels or ()).astype(kind)
    model = graph_of(np.asarray(scale, kind), axis=axis, zero=zero)
    expanded = with_pairs(model)
    assert not int8_constants_behind_dq(expanded)
    feed = {"x": rng.standard_normal((2, 3)).astype(kind)}
    assert np.array_equal(outputs(model, feed)[0], outputs(expanded, feed)[0])


def test_what_has_no_8_bits_stays_as_it_is(shared_bundle: Path) -> None:
    model = open_bundle(shared_bundle).read_stage("fp32", "audio")
    assert with_pairs(model) == model


@pytest.mark.parametrize("data", [b"\xff", b"\x3a\x05ab", b"\x3a\x02\x08"])
def test_what_is_no_onnx_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        with_pairs(data)
