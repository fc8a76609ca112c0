"""Sizes read from the shapes in a state_dict: what can be read, and what keeps its default."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

from edge_mer_export.models.shapes import n_numbered, size, under

pytestmark = pytest.mark.workbench

SHAPES = {
    "body.0.weight": (4, 3),
    "body.1.weight": (5, 4),
    "body.10.weight": (6, 5),
    "head.bias": (7,),
    "empty": (0, 3),
}


def test_keys_under_a_prefix_lose_it() -> None:
    assert under(SHAPES, "body.1.") == {"weight": (5, 4)}


def test_a_size_is_read() -> None:
    assert size(SHAPES, "body.0.weight", 1, 2, 99) == 3


@pytest.mark.parametrize("key", ["absent", "empty", "head.bias"])
def test_a_tensor_that_is_absent_empty_or_of_another_rank_keeps_the_default(key: str) -> None:
    assert size(SHAPES, key, 1, 2, 99) == 99


def test_numbered_parts_are_counted_up_to_the_first_gap() -> None:
    assert n_numbered(SHAPES, "body.", 9) == 2


@pytest.mark.parametrize("prefix", ["absent.", "head."])
def test_no_numbered_part_keeps_the_default(prefix: str) -> None:
    assert n_numbered(SHAPES, prefix, 9) == 9
