"""onnx_guard on hand-made files: versions, weights kept elsewhere, and broken bytes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_mer.bundle.onnx_guard import OnnxFacts, inspect_onnx
from edge_mer.errors import BundleError
from tests.helpers import wire

OUTSIDE = wire.tensor(location="weights.bin", flag=1)
INSIDE = wire.tensor()
GOOD = wire.model(
    wire.block(5, INSIDE) + wire.block(1, wire.node(wire.block(5, INSIDE), wire.number(3, 7))),
    more=wire.opset_import(3, "com.microsoft") + wire.block(2, b"a producer"),
)


def graph_of(tensor: bytes) -> bytes:
    return wire.block(5, tensor)


def refused(data: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        inspect_onnx(data, "stages/x.onnx")
    assert "stages/x.onnx" in str(caught.value)
    return str(caught.value)


# Each way from a model to a tensor inside it.
NESTINGS = {
    "initializer": lambda t: wire.model(graph_of(t)),
    "sparse_values": lambda t: wire.model(wire.block(15, wire.block(1, t))),
    "sparse_indices": lambda t: wire.model(wire.block(15, wire.block(2, t))),
    "node_tensor": lambda t: wire.model(wire.block(1, wire.node(wire.block(5, t)))),
    "node_tensors": lambda t: wire.model(wire.block(1, wire.node(wire.block(10, t)))),
    "node_sparse": lambda t: wire.model(wire.block(1, wire.node(wire.block(22, wire.block(1, t))))),
    "node_sparses": lambda t: wire.model(wire.block(1, wire.node(wire.block(23, wire.block(2, t))))),
    "subgraph": lambda t: wire.model(wire.block(1, wire.node(wire.block(6, graph_of(t))))),
    "subgraphs": lambda t: wire.model(wire.block(1, wire.node(wire.block(11, graph_of(t))))),
    "subgraph_of_subgraph": lambda t: wire.model(
        wire.block(1, wire.node(wire.block(6, wire.block(1, wire.node(wire.block(6, graph_of(t)))))))
    ),
    "training_start": lambda t: wire.model(more=wire.block(20, wire.block(1, graph_of(t)))),
    "training_step": lambda t: wire.model(more=wire.block(20, wire.block(2, graph_of(t)))),
    "function_node": lambda t: wire.model(more=wire.block(25, wire.block(7, wire.node(wire.block(5, t))))),
    "function_default": lambda t: wire.model(more=wire.block(25, wire.block(11, wire.block(5, t)))),
    "second_graph": lambda t: wire.model(more=wire.block(7, graph_of(t))),
    "later_tensor": lambda t: wire.model(graph_of(INSIDE) + graph_of(t)),
}


@pytest.mark.parametrize("nesting", NESTINGS)
def test_weights_in_another_file_are_refused_wherever_they_are_named(nesting: str) -> None:
    assert "other files" in refused(NESTINGS[nesting](OUTSIDE))


@pytest.mark.parametrize("nesting", NESTINGS)
def test_weights_inside_are_accepted_wherever_they_are(nesting: str) -> None:
    assert inspect_onnx(NESTINGS[nesting](INSIDE), "x") == OnnxFacts(ir_version=10, opset=20)


@pytest.mark.parametrize(
    "tensor",
    [wire.tensor(location="weights.bin"), wire.tensor(flag=1), wire.tensor(location="", flag=0)],
    ids=["location_alone", "flag_alone", "empty_location"],
)
def test_half_a_hint_at_another_file_is_enough(tensor: bytes) -> None:
    assert "other files" in refused(wire.model(graph_of(tensor)))


def test_a_tensor_that_says_its_weights_are_inside_is_accepted() -> None:
    inspect_onnx(wire.model(graph_of(wire.tensor(flag=0))), "x")


@pytest.mark.parametrize(("ir", "opset"), [(10, 18), (10, 20), (8, 19), (3, 20)])
def test_versions_that_every_target_reads_are_accepted(ir: int, opset: int) -> None:
    assert inspect_onnx(wire.model(ir=ir, opset=opset), "x") == OnnxFacts(ir, opset)


@pytest.mark.parametrize(
    ("ir", "opset"), [(11, 20), (14, 20), (2, 20), (0, 20), (10, 17), (10, 21), (10, 23), (2**64 - 1, 20)]
)
def test_other_versions_are_refused_with_both_sides_named(ir: int, opset: int) -> None:
    message = refused(wire.model(ir=ir, opset=opset))
    assert f"IR version {ir}, opset {opset}" in message
    assert "IR version at most 10, opset 18 to 20" in message


def test_the_opset_of_another_domain_does_not_count() -> None:
    data = wire.number(1, 10) + wire.opset_import(20, "com.microsoft")
    assert "opset 0" in refused(data)


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_the_standard_domain_has_two_names(domain: str) -> None:
    data = wire.number(1, 10) + wire.opset_import(19, domain)
    assert inspect_onnx(data, "x").opset == 19


def test_a_number_in_the_place_of_a_domain_is_no_domain() -> None:
    """As a count of bytes to reserve it would be four exabytes."""
    data = wire.number(1, 10) + wire.block(8, wire.number(1, 2**62) + wire.number(2, 20))
    assert "opset 0" in refused(data)


@pytest.mark.parametrize("data", [b"", b"\0", b"PK\x03\x04", b"{}", b"\x80", b"#!/bin/sh\n", b"\xff" * 40])
def test_what_is_no_onnx_is_refused(data: bytes) -> None:
    refused(data)


@pytest.mark.parametrize("end", range(1, len(GOOD)))
def test_a_file_cut_short_is_never_half_believed(end: int) -> None:
    """It is refused, or what is missing are whole fields behind those that were read."""
    try:
        facts = inspect_onnx(GOOD[:end], "x")
    except BundleError:
        return
    assert facts == OnnxFacts(10, 20)


def test_nesting_without_end_is_refused() -> None:
    graph = graph_of(INSIDE)
    for _ in range(500):
        graph = wire.block(1, wire.node(wire.block(6, graph)))
    assert "nested too deeply" in refused(wire.model(graph))


def test_a_length_beyond_the_end_is_refused() -> None:
    """A graph of 100 bytes of which three are there."""
    head = wire.number(1, 10) + wire.opset_import(20)
    assert "a field of 100 bytes in 3" in refused(head + b"\x3a" + wire.varint(100) + b"\x12\x01x")


@pytest.mark.parametrize("kind", [3, 4, 6, 7])
def test_wire_types_that_onnx_has_not_are_refused(kind: int) -> None:
    refused(GOOD + bytes([7 << 3 | kind]) + b"\0\0")


def test_an_endless_number_is_refused() -> None:
    refused(b"\x08" + b"\xff" * 11 + b"\x01")


@pytest.mark.parametrize(("kind", "n_bytes"), [(1, 8), (5, 4)])
def test_fixed_numbers_are_skipped_whole(kind: int, n_bytes: int) -> None:
    tag = wire.varint(99 << 3 | kind)
    inspect_onnx(GOOD + tag + b"\xff" * n_bytes, "x")
    refused(GOOD + tag + b"\xff" * (n_bytes - 1))


@settings(max_examples=200, deadline=2_000)
@given(data=st.binary(max_size=400))
@example(data=wire.number(1, 10) + wire.block(8, wire.number(1, 2**69)))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(BundleError):
        inspect_onnx(data, "x")


@settings(max_examples=300, deadline=2_000)
@given(
    nesting=st.sampled_from([None, *NESTINGS]),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=9)), max_size=4),
    cut=st.integers(0, 200),
)
def test_random_changes_never_raise_anything_else(
    nesting: str | None, changes: list[tuple[int, bytes]], cut: int
) -> None:
    data = bytearray(GOOD if nesting is None else NESTINGS[nesting](INSIDE))
    for place, piece in changes:
        place %= len(data)
        data[place : place + len(piece)] = piece
    with contextlib.suppress(BundleError):
        inspect_onnx(bytes(data[: max(1, len(data) - cut)]), "x")
