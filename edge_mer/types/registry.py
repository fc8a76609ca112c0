"""Finds a source or a sink by the scheme of its URI, loading only the one asked for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from edge_mer.errors import UsageError
from edge_mer.types.uri_keys import shown


def open_uri(kind: str, uri: str, builtin: Mapping[str, str], example: str) -> Any:
    """What `uri` names, built from the part behind its scheme.

    Args:
        kind: "source" or "sink"; outsiders register under the entry-point group `edge_mer.<kind>s`.
        uri: `scheme:rest`.
        builtin: Scheme -> "module:class".
        example: A URI to show when this one is wrong.

    Raises:
        UsageError: Unknown scheme, or a rest that the class refuses.
    """
    outside = {entry.name: entry.value for entry in entry_points(group=f"edge_mer.{kind}s")}
    known = {**outside, **builtin}
    scheme, separator, rest = uri.partition(":")
    if not separator or scheme not in known:
        near = difflib.get_close_matches(scheme, known, n=1)
        raise UsageError(
            f"unknown {kind} {shown(uri)!r}",
            expected=f"one of {', '.join(f'{s}:' for s in sorted(known))}",
            hint=f"did you mean {near[0]}:{shown(uri).partition(':')[2]}?"
            if near
            else f"write it as scheme:rest, e.g. {example}",
        )
    module_name, _, attribute = known[scheme].partition(":")
    return getattr(import_module(module_name), attribute)(rest)
