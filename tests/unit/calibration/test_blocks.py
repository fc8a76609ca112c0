"""Nodes by block: no more than asked for, every node once, the largest split first."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mer_calibration.blocks import blocks

RESNET = [
    "resnet.conv1/Conv_0",
    "resnet.layer1.0.conv1/Conv_1",
    "resnet.layer1.0.conv2/Conv_2",
    "resnet.layer1.1.conv1/Conv_3",
    "resnet.layer1.1.conv2/Conv_4",
    "resnet.layer2.0.conv1/Conv_5",
    "resnet.layer2.0.conv2/Conv_6",
    "resnet.fc/Gemm_0",
]


@pytest.mark.parametrize(
    ("n_most", "expected"),
    [
        (1, ["resnet"]),
        (3, ["resnet"]),
        (4, ["resnet.conv1", "resnet.layer1", "resnet.layer2.0", "resnet.fc"]),
        (5, ["resnet.conv1", "resnet.layer1.0", "resnet.layer1.1", "resnet.layer2.0", "resnet.fc"]),
        (8, [name.rpartition("/")[0] for name in RESNET]),
        (99, [name.rpartition("/")[0] for name in RESNET]),
    ],
)
def test_the_largest_is_split_until_there_would_be_too_many(n_most: int, expected: list[str]) -> None:
    assert list(blocks(RESNET, n_most)) == expected


def test_what_is_in_no_module_is_a_block_too() -> None:
    assert blocks(["MatMul_0", "head/Gemm_0"], 5) == {"": ("MatMul_0",), "head": ("head/Gemm_0",)}
    assert blocks([], 5) == {}


PATHS = st.lists(st.sampled_from("abc"), max_size=4).map(".".join)


@given(st.lists(PATHS, min_size=1, max_size=30), st.integers(1, 12))
def test_every_node_is_in_one_block(paths: list[str], n_most: int) -> None:
    names = [f"{path}/Conv_{i}" if path else f"Conv_{i}" for i, path in enumerate(paths)]
    found = blocks(names, n_most)
    assert len(found) <= n_most
    assert sorted(chain.from_iterable(found.values())) == sorted(names)
    for block, nodes in found.items():
        assert list(nodes) == sorted(nodes, key=names.index)
        assert all(block == "" or name.startswith((f"{block}/", f"{block}.")) for name in nodes)
