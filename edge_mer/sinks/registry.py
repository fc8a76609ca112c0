"""Sinks by the scheme of their URI. A new sink costs one file and one line here."""

from __future__ import annotations

from edge_mer.sinks.base import Sink
from edge_mer.types.registry import open_uri

SINKS = {
    "jsonl": "edge_mer.sinks.jsonl:JsonlSink",
}


def open_sink(uri: str) -> Sink:
    """The sink that `uri` names, not yet opened.

    Args:
        uri: E.g. "jsonl:out.jsonl".

    Raises:
        UsageError: Unknown scheme, or a rest that the sink cannot read.
    """
    sink: Sink = open_uri("sink", uri, SINKS, "jsonl:out.jsonl")
    return sink
