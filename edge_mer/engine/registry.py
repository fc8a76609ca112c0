"""Servers that run stages, by the scheme of their URI. A new one costs one file and one line here."""

from __future__ import annotations

from edge_mer.engine.standby import Server
from edge_mer.types.registry import open_uri

SERVERS = {
    "triton": "edge_mer.engine.triton:TritonServer",
    "tritons": "edge_mer.engine.triton:open_secure",
}


def open_server(uri: str) -> Server:
    """The server that `uri` names; nobody is called yet.

    Args:
        uri: E.g. "triton://gpu-box:8001/jmt".

    Raises:
        UsageError: Unknown scheme, or a rest that cannot be read.
    """
    server: Server = open_uri("engine", uri, SERVERS, "triton://gpu-box:8001/jmt")
    return server
