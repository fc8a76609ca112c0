"""The window fusion as a graph that keeps the window itself, as state that a server carries along.

A call brings the steps of one hop, most often a single one. The graph drops as many of the oldest steps of
each ring, appends the newest, runs the bundle's own fusion over the rings and hands out the newest step's
outputs beside the rings to come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from edge_mer.bundle.onnx_guard import inspect_onnx
from edge_mer.errors import BundleError
from edge_mer.types.model import Encoder, ModelSpec, TensorSpec
from edge_mer_export.triton.names import N_STEPS, N_STEPS_SEEN, NEXT, RING, START, STREAM

_FUSION = "fusion/"
_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
_BATCH = "batch"


@dataclass(frozen=True)
class Edge:
    """A tensor at the edge of the streaming model.

    Attributes:
        name: In the graph and in the configuration.
        dtype: "float32", "int64" or "bool".
        dims: Its sizes without the batch axis, which comes first.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class StreamEdges:
    """What goes into the streaming model and comes out.

    Attributes:
        inputs: The newest steps of each encoder, and which of them are there; without an axis for steps where
            a hop is one step.
        outputs: The newest step's numbers, then how many steps were seen.
        states: What is handed in and must be handed in again as it is handed out, under `next_name`.
    """

    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]
    states: tuple[Edge, ...]


def next_name(state: str) -> str:
    """What a state is called where it is handed out."""
    return f"{state}{NEXT}"


def is_withheld_early(model: ModelSpec) -> bool:
    """Whether outputs are no numbers until the window is full.

    A window of fewer steps ("shorten") would be a graph of another shape, so it waits like "withhold" does.
    """
    return model.fusion.warm_up in ("withhold", "shorten")


def stream_edges(model: ModelSpec) -> StreamEdges:
    """What the streaming model of a bundle takes, gives and keeps.

    Raises:
        BundleError: The fusion has a tensor of a name that the streaming model needs for its own.
    """
    fusion = model.fusion
    features = [(spec.name, encoder.feature) for encoder, spec in _pairs(model)]
    steps = () if fusion.hop == 1 else (fusion.hop,)
    inputs = [Edge(name, "float32", (*steps, size)) for name, size in features]
    states = [Edge(f"{RING}{name}", "float32", (fusion.n_steps, size)) for name, size in features]
    if fusion.has_present_input:
        name, n_modalities = fusion.inputs[-1].name, len(model.encoders)
        inputs.append(Edge(name, "bool", (n_modalities, *steps)))
        states.append(Edge(f"{RING}{name}", "bool", (n_modalities, fusion.n_steps)))
    states.append(Edge(N_STEPS, "int64", (1,)))
    values = zip(fusion.outputs, model.outputs, strict=True)
    outputs = [Edge(spec.name, "float32", output.value_shape or (1,)) for spec, output in values]
    found = StreamEdges((*inputs,), (*outputs, Edge(N_STEPS_SEEN, "int64", (1,))), (*states,))
    _check_names(model, found)
    return found


def _pairs(model: ModelSpec) -> list[tuple[Encoder, TensorSpec]]:
    return list(zip(model.encoders, model.fusion.inputs, strict=False))


def _check_names(model: ModelSpec, edges: StreamEdges) -> None:
    names = [START, *(edge.name for edge in (*edges.inputs, *edges.outputs, *edges.states))]
    names += [next_name(edge.name) for edge in edges.states]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise BundleError(
            f"model {model.name}: the fusion has a tensor of a name that its streaming form needs",
            found=", ".join(doubled),
            hint="name that input or output otherwise, and export again",
        )


@dataclass
class _Writer:
    """Nodes and constants as they are added."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def add(self, operator: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        name = f"{STREAM}/{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output or name], name=name, **attributes))
        return str(self.nodes[-1].output[0])

    def constant(self, value: NDArray[np.generic]) -> str:
        name = f"{STREAM}/constant_{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))


def stream_model(model: ModelSpec, fusion: bytes, blanks: Mapping[str, NDArray[np.float32]]) -> bytes:
    """The streaming form of a fusion.

    Args:
        model: Declares the fusion.
        fusion: Its ONNX.
        blanks: Stage -> (feature,) what its encoder makes of nothing; used where the model pads.

    Returns:
        An ONNX of the same opset, whose inputs, states and outputs `stream_edges` names, each with the batch
        axis first; START is bool (batch, 1). Until its window is full, a model that cannot do with fewer
        steps gives NaN.

    Raises:
        BundleError: It cannot be put together from this fusion.
    """
    edges = stream_edges(model)
    inner = compose.add_prefix(onnx.load_from_string(fusion), _FUSION)
    writer = _Writer()
    n_steps = _count(writer, model.fusion.hop)
    rings = {edge.name: _pushed(writer, model, edge) for edge in edges.states if edge.name != N_STEPS}
    n_used = writer.add("Min", [n_steps, writer.ints(model.fusion.n_steps)])
    for encoder, spec in _pairs(model):
        ring = rings[f"{RING}{spec.name}"]
        if model.fusion.warm_up == "pad":
            ring = _padded(writer, ring, n_used, model.fusion.n_steps, blanks[encoder.stage])
        writer.add("Identity", [ring], f"{_FUSION}{spec.name}")
    if model.fusion.has_present_input:
        present = model.fusion.inputs[-1].name
        writer.add("Identity", [rings[f"{RING}{present}"]], f"{_FUSION}{present}")
    n_before = len(writer.nodes)
    for spec, edge in zip(model.fusion.outputs, edges.outputs, strict=False):
        _hand_out(writer, model, spec, edge, n_steps, n_used)
    nodes = [*writer.nodes[:n_before], *inner.graph.node, *writer.nodes[n_before:]]
    made = _assembled(inner, edges, nodes, writer.constants)
    data = bytes(made.SerializeToString(deterministic=True))
    name = f"the streaming form of {model.name}"
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BundleError(f"{name} cannot be put together from its fusion", found=str(error)) from error
    inspect_onnx(data, name)
    return data


def _count(writer: _Writer, hop: int) -> str:
    """(batch, 1): steps since the sequence began, these too."""
    before = writer.add("Where", [START, writer.ints(0), N_STEPS])
    n_steps = writer.add("Add", [before, writer.ints(hop)], next_name(N_STEPS))
    writer.add("Identity", [n_steps], N_STEPS_SEEN)
    return n_steps


def _pushed(writer: _Writer, model: ModelSpec, state: Edge) -> str:
    """A ring without its oldest steps and with the newest; empty before that where a sequence starts."""
    is_present, name = state.dtype == "bool", state.name.removeprefix(RING)
    axis, hop, n_steps = 2 if is_present else 1, model.fusion.hop, model.fusion.n_steps
    starts = writer.add("Unsqueeze", [START, writer.ints(2)])
    newest = _with_steps(writer, name, axis, hop)
    if is_present:
        held = writer.add("And", [state.name, writer.add("Not", [starts])])
    else:
        held = writer.add("Where", [starts, writer.constant(np.zeros(1, np.float32)), state.name])
        newest = _masked(writer, model, name, newest)
    if hop > n_steps:
        newest = _from(writer, newest, hop - n_steps, axis)
    kept = _from(writer, held, min(hop, n_steps), axis)
    return writer.add("Concat", [kept, newest], next_name(state.name), axis=axis)


def _from(writer: _Writer, value: str, first: int, axis: int) -> str:
    return writer.add("Slice", [value, writer.ints(first), writer.ints(2**62), writer.ints(axis)])


def _with_steps(writer: _Writer, name: str, axis: int, hop: int) -> str:
    """An input with its axis of steps; of one step it comes without."""
    return name if hop > 1 else writer.add("Unsqueeze", [name, writer.ints(axis)])


def _masked(writer: _Writer, model: ModelSpec, name: str, newest: str) -> str:
    """Zeros where a step is not there, as a device has them in its ring."""
    if not model.fusion.has_present_input:
        return newest
    present = _with_steps(writer, model.fusion.inputs[-1].name, 2, model.fusion.hop)
    place = [spec.name for spec in model.fusion.inputs].index(name)
    there = writer.add("Gather", [present, writer.constant(np.array(place, np.int64))], axis=1)
    there = writer.add("Unsqueeze", [there, writer.ints(2)])
    return writer.add("Where", [there, newest, writer.constant(np.zeros(1, np.float32))])


def _padded(writer: _Writer, ring: str, n_used: str, n_steps: int, blank: NDArray[np.float32]) -> str:
    """The steps that are there, in front, and the features of nothing behind them."""
    lacking = writer.add("Sub", [writer.ints(n_steps), n_used])
    places = writer.add("Add", [writer.constant(np.arange(n_steps, dtype=np.int64)[None]), lacking])
    inside = writer.add("Min", [places, writer.ints(n_steps - 1)])
    rows = writer.add("GatherND", [ring, writer.add("Unsqueeze", [inside, writer.ints(2)])], batch_dims=1)
    is_there = writer.add("Unsqueeze", [writer.add("Less", [places, writer.ints(n_steps)]), writer.ints(2)])
    return writer.add("Where", [is_there, rows, writer.constant(blank.astype(np.float32)[None, None])])


def _hand_out(
    writer: _Writer, model: ModelSpec, spec: TensorSpec, edge: Edge, n_steps: str, n_used: str
) -> None:
    """The newest step's numbers, (batch, …); not a number while they are withheld."""
    value = f"{_FUSION}{spec.name}"
    if "steps" in spec.axes and model.fusion.warm_up == "pad":
        value = writer.add("GatherND", [value, writer.add("Sub", [n_used, writer.ints(1)])], batch_dims=1)
    elif "steps" in spec.axes:
        last = writer.constant(np.array(model.fusion.n_steps - 1, np.int64))
        value = writer.add("Gather", [value, last], axis=1)
    value = writer.add("Reshape", [value, writer.ints(-1, *edge.dims)])
    if is_withheld_early(model):
        early = writer.add("Less", [n_steps, writer.ints(model.fusion.n_steps)])
        value = writer.add("Where", [early, writer.constant(np.full(1, np.nan, np.float32)), value])
    writer.add("Identity", [value], edge.name)


def _assembled(
    inner: onnx.ModelProto,
    edges: StreamEdges,
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, onnx.TensorProto],
) -> onnx.ModelProto:
    given = [_declared(edge) for edge in (*edges.inputs, *edges.states)]
    states = [Edge(next_name(edge.name), edge.dtype, edge.dims) for edge in edges.states]
    graph = helper.make_graph(
        nodes,
        STREAM,
        [*given, _declared(Edge(START, "bool", (1,)))],
        [_declared(edge) for edge in (*edges.outputs, *states)],
        [*inner.graph.initializer, *constants.values()],
    )
    made = helper.make_model(graph, opset_imports=inner.opset_import, producer_name="edge-mer")
    made.ir_version = inner.ir_version
    return made


def _declared(edge: Edge) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(edge.name, _TYPES[edge.dtype], [_BATCH, *edge.dims])
