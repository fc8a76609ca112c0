"""What tests ask of live sources of any kind."""

from __future__ import annotations

import time

import pytest

from edge_mer.errors import LostError
from edge_mer.sources.base import Source
from edge_mer.types.signals import Chunk


def read_chunks(source: Source, n_chunks: int, timeout_ms: int = 3_000) -> list[Chunk]:
    """So many chunks, each within `timeout_ms`."""
    chunks = []
    while len(chunks) < n_chunks:
        chunk = source.read(timeout_ms)
        assert chunk is not None, f"nothing came for {timeout_ms} ms"
        chunks.append(chunk)
    return chunks


def lost_within_s(source: Source, match: str, timeout_s: float = 5.0) -> float:
    """How long it takes until the source says that it is lost, in words that fit `match`."""
    begin = time.monotonic()
    with pytest.raises(LostError, match=match):
        _read_for(source, timeout_s)
    return time.monotonic() - begin


def _read_for(source: Source, duration_s: float) -> None:
    until = time.monotonic() + duration_s
    while time.monotonic() < until:
        source.read(500)
