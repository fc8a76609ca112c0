"""The blocks of a stage: what is quantized or left in float together.

Nodes carry the path of the PyTorch module that they come from: "resnet.layer1.0.conv1/Conv_3".
"""

from __future__ import annotations

from collections.abc import Sequence

MOST = 12
"""Blocks of a stage; finer ones cost time and tell little more."""


Prefix = tuple[str, ...]


def blocks(names: Sequence[str], n_most: int = MOST) -> dict[str, tuple[str, ...]]:
    """Nodes by block: the largest group is split by its next module until there would be too many.

    Args:
        names: Nodes, each as "module path/operator_number".
        n_most: Blocks at most.

    Returns:
        Module path -> its nodes, in their order; "" holds what is in no module.
    """
    groups: dict[Prefix, list[str]] = {(): list(names)} if names else {}
    while (found := _next_split(groups, n_most)) is not None:
        prefix, parts = found
        del groups[prefix]
        groups |= parts
    order = sorted(groups, key=lambda prefix: names.index(groups[prefix][0]))
    return {".".join(prefix): tuple(groups[prefix]) for prefix in order}


def _next_split(
    groups: dict[Prefix, list[str]], n_most: int
) -> tuple[Prefix, dict[Prefix, list[str]]] | None:
    """The largest group that can be split without there being too many, and its parts."""
    for prefix in sorted(groups, key=lambda one: -len(groups[one])):
        parts = _split(prefix, groups[prefix])
        if parts is not None and len(groups) - 1 + len(parts) <= n_most:
            return prefix, parts
    return None


def _split(prefix: Prefix, group: Sequence[str]) -> dict[Prefix, list[str]] | None:
    """By the next module; None where nothing is left to split by."""
    parts: dict[Prefix, list[str]] = {}
    for name in group:
        parts.setdefault(_path(name)[: len(prefix) + 1], []).append(name)
    return None if set(parts) == {prefix} else parts


def _path(name: str) -> Prefix:
    scope, slash, _ = name.rpartition("/")
    return tuple(scope.split(".")) if slash and scope else ()
