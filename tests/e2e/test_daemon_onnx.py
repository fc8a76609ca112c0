"""Bundles that are whole and must not serve all the same: the daemon finds out, and goes on as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="alters graphs with onnx: pip install 'edge-mer[export]'")

import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_mer.bundle.read import open_bundle
from tests.helpers.daemon import are_whole, ask_to_swap, running, variant, write_config

pytestmark = [pytest.mark.live, pytest.mark.workbench]

FUSION = "stages/fusion.fp32.onnx"
SIDE = 1500
"""Of square matrices; the product of two is 7 billion operations."""

N_PRODUCTS = 6


def altered(bundle: Path, nodes_of: object) -> bytes:
    """The fusion with something between its first output and whoever reads it."""
    model = onnx.load_from_string(open_bundle(bundle).read(FUSION))
    graph = model.graph
    output = graph.output[0].name
    inner = f"{output}_inner"
    for node in graph.node:
        node.output[:] = [inner if name == output else name for name in node.output]
        node.input[:] = [inner if name == output else name for name in node.input]
    graph.node.extend(nodes_of(inner, output))  # type: ignore[operator]
    return bytes(model.SerializeToString())


def not_finite(inner: str, output: str) -> list[onnx.NodeProto]:
    nan = helper.make_node(
        "Constant", [], ["edge_nan"], value=numpy_helper.from_array(np.array(np.nan, np.float32))
    )
    return [nan, helper.make_node("Mul", [inner, "edge_nan"], [output])]


def slow(inner: str, output: str) -> list[onnx.NodeProto]:
    """The same numbers, after products of matrices that nobody needs."""
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [1e-3])
    shape = numpy_helper.from_array(np.array([SIDE, SIDE], np.int64))
    zero = numpy_helper.from_array(np.array(0, np.float32))
    nodes = [
        helper.make_node("Constant", [], ["edge_shape"], value=shape),
        helper.make_node("Constant", [], ["edge_zero"], value=zero),
        helper.make_node("ConstantOfShape", ["edge_shape"], ["edge_matrix"], value=value),
        helper.make_node("ReduceMean", [inner], ["edge_mean"], keepdims=0),
        helper.make_node("Mul", ["edge_matrix", "edge_mean"], ["edge_product_0"]),
    ]
    for number in range(N_PRODUCTS):
        names = [f"edge_product_{number}", "edge_matrix"]
        nodes.append(helper.make_node("MatMul", names, [f"edge_product_{number + 1}"]))
    nodes += [
        helper.make_node("ReduceMean", [f"edge_product_{N_PRODUCTS}"], ["edge_work"], keepdims=0),
        helper.make_node("Mul", ["edge_work", "edge_zero"], ["edge_nothing"]),
        helper.make_node("Add", [inner, "edge_nothing"], [output]),
    ]
    return nodes


@pytest.mark.parametrize(
    ("nodes_of", "whys"),
    [
        (not_finite, ("verify refused it",)),
        pytest.param(slow, ("too slow for this device", "does worse"), marks=pytest.mark.slow),
    ],
)
def test_the_old_one_goes_on(
    nodes_of: object, whys: tuple[str, ...], shared_bundle: Path, tmp_path: Path
) -> None:
    bad = variant(shared_bundle, tmp_path / "bad", {FUSION: altered(shared_bundle, nodes_of)})
    config = write_config(tmp_path, shared_bundle)
    with running(config) as (daemon, listener):
        listener.wait_for_more(3)
        asked = ask_to_swap(config.parent / "run" / "link.sock", bad)
        assert isinstance(asked, dict), asked
        listener.wait_for(lambda: listener.swap["state"] in ("refused", "kept", "rolled_back"), 300)
        assert listener.swap["state"] == "refused"
        assert any(why in listener.swap["why"] for why in whys), listener.swap
        listener.wait_for_more(3)
        assert are_whole(listener.records, open_bundle(shared_bundle).hop_s)
        assert {one["bundle_id"] for one in listener.records} == {open_bundle(shared_bundle).bundle_id}
        assert daemon.stop() < 2
