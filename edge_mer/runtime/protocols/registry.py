"""Evaluation protocols by name. A new one costs one file and one line here."""

from __future__ import annotations

from importlib import import_module

from edge_mer.errors import UsageError
from edge_mer.runtime.protocols.base import EvaluationProtocol

PROTOCOLS = {
    "affwild2": "edge_mer.runtime.protocols.affwild2:Affwild2",
    "biovid": "edge_mer.runtime.protocols.biovid:Biovid",
    "rjcma": "edge_mer.runtime.protocols.rjcma:Rjcma",
}


def open_protocol(name: str) -> EvaluationProtocol:
    """The protocol of that name.

    Raises:
        UsageError: There is none.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"unknown protocol {name!r}", expected=f"one of {', '.join(PROTOCOLS)}")
    module, _, kind = PROTOCOLS[name].partition(":")
    found: EvaluationProtocol = getattr(import_module(module), kind)()
    return found
