"""Sizes read from the shapes in a state_dict, for networks built to fit weights that already exist.

Nothing here raises: what cannot be read keeps its default, and whoever compares the network's own keys
and shapes with the weights then names every difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Shape of a tensor by its key."""


def under(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    """The shapes whose keys begin with `prefix`, by the rest of their keys."""
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}


def size(shapes: Shapes, key: str, axis: int, rank: int, default: int) -> int:
    """Size of one axis of a tensor; `default` if the tensor is absent, empty or not of this rank."""
    shape = shapes.get(key, ())
    return shape[axis] if len(shape) == rank and all(shape) else default


def n_numbered(shapes: Shapes, prefix: str, default: int) -> int:
    """How many of `<prefix>0.`, `<prefix>1.` and so on have keys; `default` if there is none."""
    numbers = {key.removeprefix(prefix).partition(".")[0] for key in shapes if key.startswith(prefix)}
    n = 0
    while str(n) in numbers:
        n += 1
    return n or default
