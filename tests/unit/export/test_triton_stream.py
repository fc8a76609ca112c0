"""The streaming model step by step against the fusion on whole windows, for every rule of warm-up."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="a streaming model is put together with onnx")
pytest.importorskip("torch", reason="the zoo declares its models in PyTorch: pip install 'edge-mer[export]'")

import onnxruntime

from edge_mer.bundle.onnx_guard import inspect_onnx
from edge_mer.bundle.read import open_bundle
from edge_mer.engine.onnxruntime import OrtOptions
from edge_mer.errors import BundleError
from edge_mer.runtime.blank import blank_feature
from edge_mer.runtime.setup import open_engine
from edge_mer.types.model import ModelSpec
from edge_mer_export.triton.names import START
from edge_mer_export.triton.stream_graph import is_withheld_early, next_name, stream_edges, stream_model
from tests.helpers.stand_in_bundle import published, session, stages

pytestmark = pytest.mark.workbench

Arrays = dict[str, Any]
RULES = {"jmt-tiny": "mask", "jmt": "shorten", "rjcma": "pad", "jca": "withhold", "group": "withhold"}
SYSTEMS = (*RULES, "jmt-pain", "pain-tiny", "group-tiny", "stress-e4", "voice-emodb")


class Streamed:
    """Two people in one batch; the second one comes later."""

    def __init__(self, model: ModelSpec, data: bytes) -> None:
        self.model, self.edges = model, stream_edges(model)
        self.session = run(data)
        kinds = {"float32": np.float32, "int64": np.int64, "bool": np.bool_}
        self.states = {
            edge.name: np.full((2, *edge.dims), 7).astype(kinds[edge.dtype]) for edge in self.edges.states
        }

    def step(self, newest: Arrays, start: tuple[bool, bool]) -> Arrays:
        """All outputs; the states are kept."""
        found = named(self.session, {**newest, **self.states, START: np.array(start)[:, None]})
        self.states = {edge.name: found[next_name(edge.name)] for edge in self.edges.states}
        return found


def run(data: bytes) -> Any:
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def named(one: Any, feed: Arrays) -> Arrays:
    names = [output.name for output in one.get_outputs()]
    return dict(zip(names, one.run(names, feed), strict=True))


def blanks_of(model: ModelSpec, graphs: dict[str, bytes]) -> Arrays:
    """As a device finds them; other than zeros."""
    found = {}
    for encoder in model.encoders:
        engine = open_engine(model, encoder.stage, graphs[encoder.stage], OrtOptions(threads=1))
        found[encoder.stage] = blank_feature(encoder, engine) + np.float32(0.125)
    return found


def newest_of(model: ModelSpec, sessions: list[Arrays], steps: tuple[int, int]) -> Arrays:
    """The hop that ends with each person's step."""
    hop = model.fusion.hop

    def taken(values: Any, last: int) -> Any:
        return values[last] if hop == 1 else values[last + 1 - hop : last + 1]

    feed = {
        spec.name: np.stack(
            [taken(one[f"feature.{encoder.stage}"], step) for one, step in zip(sessions, steps, strict=True)]
        )
        for encoder, spec in zip(model.encoders, model.fusion.inputs, strict=False)
    }
    if model.fusion.has_present_input:
        feed[model.fusion.inputs[-1].name] = np.array(
            [
                [taken(one[f"present.{encoder.stage}"], step) for encoder in model.encoders]
                for one, step in zip(sessions, steps, strict=True)
            ]
        )
    return feed


def on_whole_window(
    model: ModelSpec, fusion: Any, one: Arrays, step: int, blanks: Arrays
) -> tuple[Arrays, int]:
    """What a device computes after that step: outputs, and the place of the newest in them."""
    n_steps = model.fusion.n_steps
    n_there = min(step + 1, n_steps)
    feed = {}
    for encoder, spec in zip(model.encoders, model.fusion.inputs, strict=False):
        rows = one[f"feature.{encoder.stage}"][step + 1 - n_there : step + 1]
        if model.fusion.has_present_input:
            there = one[f"present.{encoder.stage}"][step + 1 - n_there : step + 1]
            rows = np.where(there[:, None], rows, np.float32(0))
        lacking = n_steps - n_there
        if model.fusion.warm_up == "pad":
            rows = np.concatenate([rows, np.broadcast_to(blanks[encoder.stage], (lacking, encoder.feature))])
        else:
            rows = np.concatenate([np.zeros((lacking, encoder.feature), np.float32), rows])
        feed[spec.name] = rows[None]
    if model.fusion.has_present_input:
        there = np.zeros((1, len(model.encoders), n_steps), bool)
        for index, encoder in enumerate(model.encoders):
            there[0, index, n_steps - n_there :] = one[f"present.{encoder.stage}"][
                step + 1 - n_there : step + 1
            ]
        feed[model.fusion.inputs[-1].name] = there
    return named(fusion, feed), n_there - 1 if model.fusion.warm_up == "pad" else -1


def compare(model: ModelSpec, data: bytes, graphs: dict[str, bytes], blanks: Arrays) -> tuple[int, int]:
    """Two people, the second two hops behind; numbers compared, and how many of them differ."""
    streamed, fusion = Streamed(model, data), run(graphs[model.fusion.stage])
    sessions = [gaps(model, session(model, seed, 3 * model.fusion.hop)) for seed in (0, 1)]
    n_compared = n_wrong = 0
    hop = model.fusion.hop
    for turn in range(-(-model.fusion.n_steps // hop) + 2):
        step, late = (turn + 1) * hop - 1, (max(0, turn - 2) + 1) * hop - 1
        found = streamed.step(newest_of(model, sessions, (step, late)), (turn == 0, turn <= 2))
        for person, at in enumerate((step, late)):
            assert found["n_steps_seen"][person].tolist() == [at + 1]
            expected, last = on_whole_window(model, fusion, sessions[person], at, blanks)
            for spec, edge in zip(model.fusion.outputs, streamed.edges.outputs, strict=False):
                value = found[spec.name][person]
                if is_withheld_early(model) and at + 1 < model.fusion.n_steps:
                    assert np.isnan(value).all()
                    continue
                wanted = np.asarray(spec.step_of(expected[spec.name][0], last)).reshape(edge.dims)
                n_compared += 1
                n_wrong += int(not np.array_equal(value, wanted))
    return n_compared, n_wrong


def gaps(model: ModelSpec, one: Arrays) -> Arrays:
    """A model with a mask misses some steps, whose features are not zero."""
    if model.fusion.has_present_input:
        for index, encoder in enumerate(model.encoders):
            one[f"present.{encoder.stage}"][index + 1 :: 3] = False
    return one


@pytest.mark.parametrize("name", SYSTEMS)
def test_stepping_gives_the_fusion_of_the_whole_window_bit_for_bit(name: str) -> None:
    model = published(name)
    assert RULES.get(name, model.fusion.warm_up) == model.fusion.warm_up
    graphs = stages(model)
    blanks = blanks_of(model, graphs) if model.fusion.warm_up == "pad" else {}
    data = stream_model(model, graphs[model.fusion.stage], blanks)
    n_compared, n_wrong = compare(model, data, graphs, blanks)
    assert n_compared > 2
    assert n_wrong == 0


@pytest.mark.parametrize(
    ("name", "hop"), [("jmt-tiny", 3), ("jmt-tiny", 8), ("jmt-tiny", 11), ("group", 2), ("group", 7)]
)
def test_a_request_brings_a_hop(name: str, hop: int) -> None:
    """Also one that does not divide the window, and one that is longer."""
    model = published(name)
    model = model.model_copy(update={"fusion": model.fusion.model_copy(update={"hop": hop})})
    graphs = stages(model)
    n_compared, n_wrong = compare(model, stream_model(model, graphs[model.fusion.stage], {}), graphs, {})
    assert n_compared > 2
    assert n_wrong == 0


def test_the_trained_fusion_too(shared_bundle: Path) -> None:
    bundle = open_bundle(shared_bundle)
    model = bundle.manifest.model
    for precision in ("fp32", "int8-cpu"):
        graphs = {stage: bundle.read_stage(precision, stage) for stage in model.stages}
        data = stream_model(model, graphs["fusion"], {})
        assert compare(model, data, graphs, {}) == (40, 0)


@pytest.mark.parametrize("name", ["jmt-tiny", "rjcma", "group"])
def test_a_ring_that_is_off_by_one_step_would_be_noticed(name: str) -> None:
    """The newest step goes to the front of the ring: every number changes."""
    model = published(name)
    graphs = stages(model)
    blanks = blanks_of(model, graphs) if model.fusion.warm_up == "pad" else {}
    made = onnx.load_from_string(stream_model(model, graphs[model.fusion.stage], blanks))
    for node in made.graph.node:
        if node.op_type == "Concat" and node.output[0].startswith("ring."):
            kept, newest = node.input
            del node.input[:]
            node.input.extend([newest, kept])
    n_compared, n_wrong = compare(model, made.SerializeToString(), graphs, blanks)
    assert n_wrong > n_compared // 2


def test_another_blank_would_be_noticed() -> None:
    model = published("rjcma")
    graphs = stages(model)
    blanks = blanks_of(model, graphs)
    wrong = {stage: blank + np.float32(1) for stage, blank in blanks.items()}
    n_compared, n_wrong = compare(model, stream_model(model, graphs["fusion"], wrong), graphs, blanks)
    assert n_compared > 0
    # numbers of the newest step look at what is there, and not at what stands behind it
    assert n_wrong == 0
    last = onnx.load_from_string(graphs["fusion"])
    for node in last.graph.node:
        if node.op_type == "CumSum":
            node.attribute.append(onnx.helper.make_attribute("reverse", 1))
    graphs["fusion"] = last.SerializeToString()
    n_compared, n_wrong = compare(model, stream_model(model, graphs["fusion"], wrong), graphs, blanks)
    assert n_wrong > n_compared // 2
    assert compare(model, stream_model(model, graphs["fusion"], blanks), graphs, blanks)[1] == 0


def test_the_file_is_one_that_every_target_reads() -> None:
    model = published("jmt-tiny")
    data = stream_model(model, stages(model)["fusion"], {})
    facts = inspect_onnx(data, "stream")
    assert (facts.opset, facts.ir_version) == (20, 10)
    for value in (made := onnx.load_from_string(data)).graph.input:
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {one.name for one in made.graph.input} == {
        "visual",
        "audio",
        "present",
        "ring.visual",
        "ring.audio",
        "ring.present",
        "ring.n_steps",
        "START",
    }


def test_the_same_bytes_each_time() -> None:
    model = published("jca")
    fusion = stages(model)["fusion"]
    assert stream_model(model, fusion, {}) == stream_model(model, fusion, {})


def test_names_that_it_needs_for_its_own_are_refused() -> None:
    model = published("group")
    (spec,) = model.fusion.outputs
    taken = spec.model_copy(update={"name": "n_steps_seen"})
    fusion = model.fusion.model_copy(update={"outputs": (taken,)})
    with pytest.raises(BundleError, match="n_steps_seen"):
        stream_edges(model.model_copy(update={"fusion": fusion}))


def test_a_fusion_of_other_inputs_is_refused() -> None:
    with pytest.raises(BundleError, match="cannot be put together"):
        stream_model(published("group"), stages(published("jca"))["fusion"], {})
