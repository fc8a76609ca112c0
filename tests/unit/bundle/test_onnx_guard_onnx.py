"""onnx_guard on files that the ONNX package wrote, and held against its own schema."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from onnx import TensorProto, helper, numpy_helper

from edge_mer.bundle.onnx_guard import _NESTED, OnnxFacts, inspect_onnx
from edge_mer.errors import BundleError
from tests.helpers import wire

pytestmark = pytest.mark.workbench

WEIGHTS = np.arange(4_096, dtype=np.float32)


def external(tensor: Any) -> Any:
    """The same tensor with its weights said to be in another file."""
    moved = TensorProto()
    moved.CopyFrom(tensor)
    moved.ClearField("raw_data")
    moved.data_location = TensorProto.EXTERNAL
    moved.external_data.add(key="location", value="../../etc/passwd")
    return moved


def weights() -> Any:
    return numpy_helper.from_array(WEIGHTS, "w")


def plain_model(*, initializer: Any = None, sparse: Any = None, nodes: Any = (), ir: int = 10) -> Any:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4_096])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4_096])
    add = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [*nodes, add],
        "g",
        [x],
        [y],
        initializer=[initializer if initializer is not None else weights()],
        sparse_initializer=[] if sparse is None else [sparse],
    )
    return helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", 20)])


def subgraph(tensor: Any) -> Any:
    return helper.make_graph([], "inner", [], [], initializer=[tensor])


def if_node(tensor: Any) -> Any:
    return helper.make_node("If", ["c"], ["z"], then_branch=subgraph(weights()), else_branch=subgraph(tensor))


def sparse(values: Any, indices: Any) -> Any:
    return helper.make_sparse_tensor(values, indices, [4_096])


def sparse_parts() -> tuple[Any, Any]:
    return numpy_helper.from_array(WEIGHTS[:3], "v"), numpy_helper.from_array(np.array([1, 5, 9]), "i")


def function_model(tensor: Any) -> Any:
    model = plain_model()
    constant = helper.make_node("Constant", [], ["k"], value=tensor)
    model.functions.append(
        helper.make_function("own", "F", [], ["k"], [constant], [helper.make_opsetid("", 20)])
    )
    return model


def function_default_model(tensor: Any) -> Any:
    model = function_model(weights())
    model.functions[0].attribute_proto.append(helper.make_attribute("value", tensor))
    return model


def training_model(tensor: Any) -> Any:
    model = plain_model()
    model.training_info.add().algorithm.CopyFrom(subgraph(tensor))
    return model


PLACES = {
    "initializer": lambda t: plain_model(initializer=t),
    "constant": lambda t: plain_model(nodes=[helper.make_node("Constant", [], ["k"], value=t)]),
    "branch_of_if": lambda t: plain_model(nodes=[if_node(t)]),
    "branch_in_branch": lambda t: plain_model(
        nodes=[
            helper.make_node(
                "If",
                ["c"],
                ["z"],
                then_branch=subgraph(weights()),
                else_branch=helper.make_graph([if_node(t)], "inner", [], []),
            )
        ]
    ),
    "sparse_values": lambda t: plain_model(sparse=sparse(t, sparse_parts()[1])),
    "sparse_indices": lambda t: plain_model(sparse=sparse(sparse_parts()[0], t)),
    "function": function_model,
    "function_default": function_default_model,
    "training": training_model,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_real_file_with_external_weights_is_refused_wherever_they_are(place: str) -> None:
    data = PLACES[place](external(weights())).SerializeToString()
    with pytest.raises(BundleError, match="other files"):
        inspect_onnx(data, "x")


@pytest.mark.parametrize("place", PLACES)
def test_a_real_file_with_its_weights_inside_is_accepted(place: str) -> None:
    data = PLACES[place](weights()).SerializeToString()
    assert inspect_onnx(data, "x") == OnnxFacts(10, 20)


def test_a_file_saved_with_external_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(plain_model(), str(path), save_as_external_data=True, size_threshold=0, location="m.bin")
    assert (tmp_path / "m.bin").stat().st_size >= WEIGHTS.nbytes
    with pytest.raises(BundleError, match="other files"):
        inspect_onnx(path.read_bytes(), "m.onnx")


def test_the_version_that_the_onnx_package_writes_by_default_is_refused() -> None:
    data = plain_model(ir=onnx.IR_VERSION).SerializeToString()
    with pytest.raises(BundleError, match=f"IR version {onnx.IR_VERSION}"):
        inspect_onnx(data, "x")


def test_every_way_to_a_tensor_in_the_schema_is_looked_at() -> None:
    """A new field of ONNX that may hold a tensor must be known here too."""
    seen: set[str] = set()
    waiting = [onnx.ModelProto.DESCRIPTOR]
    ways: dict[str, dict[int, str]] = {}
    while waiting:
        message = waiting.pop()
        if message.name in seen:
            continue
        seen.add(message.name)
        inner = [(field.number, field.message_type) for field in message.fields if field.message_type]
        ways[message.name] = {n: kind.name for n, kind in inner if _reaches_tensor(kind, set())}
        waiting += [kind for _, kind in inner]
    ways = {name: inner for name, inner in ways.items() if inner or name == "TensorProto"}
    known = {_proto(n): {f: _proto(kind) for f, kind in inner.items()} for n, inner in _NESTED.items()}
    assert known == ways


def _proto(name: str) -> str:
    return {"Training": "TrainingInfo"}.get(name, name) + "Proto"


def _reaches_tensor(message: Any, seen: set[str]) -> bool:
    if message.full_name == "onnx.TensorProto":
        return True
    if message.full_name in seen:
        return False
    seen.add(message.full_name)
    return any(_reaches_tensor(f.message_type, seen) for f in message.fields if f.message_type)


def test_hand_made_files_are_what_the_onnx_package_reads() -> None:
    """So the tests with hand-made files speak of ONNX."""
    data = wire.model(
        wire.block(5, wire.tensor(location="w.bin", flag=1))
        + wire.block(1, wire.node(wire.block(6, wire.block(5, wire.tensor()))))
        + wire.block(15, wire.block(1, wire.tensor()))
    )
    model = onnx.load_from_string(data)
    assert (model.ir_version, model.opset_import[0].version) == (10, 20)
    assert model.graph.initializer[0].external_data[0].value == "w.bin"
    assert model.graph.initializer[0].data_location == TensorProto.EXTERNAL
    assert model.graph.node[0].attribute[0].g.initializer[0].raw_data == b"\0\0\x80\x3f"
    assert model.graph.sparse_initializer[0].values.raw_data == b"\0\0\x80\x3f"
