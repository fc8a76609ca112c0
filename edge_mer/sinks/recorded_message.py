"""From a chunk to the message that keeps it, without loss."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.types.recording import COMPRESSED_IMAGE, RAW_AUDIO, SAMPLES, WORDS
from edge_mer.types.signals import Chunk, StreamSpec

# Of the ways to write a PNG, the one that takes least time for its size. Old OpenCV cannot choose the filter.
_PNG: tuple[int, ...] = (
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_RLE,
)
if hasattr(cv2, "IMWRITE_PNG_FILTER"):
    _PNG += (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG)
_S16 = np.float32(32768)


def schema_of(spec: StreamSpec) -> str:
    """The name of the schema that a stream's messages follow."""
    if spec.modality == "visual":
        return COMPRESSED_IMAGE
    if spec.modality == "text":
        return WORDS
    return RAW_AUDIO if spec.modality == "audio" and spec.dtype == "float32" else SAMPLES


def to_message(
    chunk: Chunk,
    spec: StreamSpec,
    schema: str,
    utc_ns: int,
    given_ns: int | None,
    heard_ns: int | None = None,
) -> bytes:
    """A chunk as a message of its stream's schema.

    Args:
        chunk: Of the session's own time.
        spec: Its stream.
        schema: As `schema_of` says.
        utc_ns: The wall time of its capture.
        given_ns: The time by the remote clock that stamped it; None where none did.
        heard_ns: The session's time up to which all that came had been given before it; None: a recording's.
    """
    own: dict[str, Any] = {"seq": chunk.seq, "time_basis": chunk.time_basis}
    if given_ns is not None:
        own["given_ns"] = given_ns
    if heard_ns is not None:
        own["heard_ns"] = heard_ns
    sec, nsec = divmod(utc_ns, NS_PER_S)
    fields: dict[str, Any] = {"timestamp": {"sec": sec, "nsec": nsec}, "edge_mer": own}
    if schema == WORDS:
        return json.dumps(fields | {"words": chunk.data.tolist()}).encode()
    if schema == SAMPLES:
        return json.dumps(fields | {"values": _rows(chunk.data)}, allow_nan=False).encode()
    if schema == RAW_AUDIO:
        return _sound(fields, chunk.data.astype(np.float32, copy=False), spec)
    return _picture(fields | {"frame_id": spec.name}, chunk.data.astype(np.uint8, copy=False))


def _rows(data: NDArray[np.generic]) -> list[list[Any]]:
    """Rows of numbers; what is none as text, since JSON has no such numbers."""
    rows: list[list[Any]] = data.tolist()
    if data.dtype.kind == "f" and not np.isfinite(data.astype(np.float64)).all():
        return [[one if abs(one) < float("inf") else str(one) for one in row] for row in rows]
    return rows


def _sound(fields: dict[str, Any], samples: NDArray[np.float32], spec: StreamSpec) -> bytes:
    """In 16 bits where that gives every sample back, as of most microphones; else as it is."""
    with np.errstate(invalid="ignore", over="ignore"):
        whole = np.clip(np.rint(samples * _S16), -32768, 32767).astype("<i2")
    is_exact = np.array_equal((whole / _S16).view(np.uint32), np.ascontiguousarray(samples).view(np.uint32))
    fields |= {
        "format": "pcm-s16" if is_exact else "pcm-f32",
        "sample_rate": round(spec.rate_hz or 0),
        "number_of_channels": samples.shape[1],
    }
    return _with_data(fields, whole.tobytes() if is_exact else samples.astype("<f4").tobytes())


def _picture(fields: dict[str, Any], pixels: NDArray[np.uint8]) -> bytes:
    swapped = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR)
    _, png = cv2.imencode(".png", swapped, _PNG)
    return _with_data(fields | {"format": "png"}, png.tobytes())


def _with_data(fields: dict[str, Any], data: bytes) -> bytes:
    """JSON with `data` in it, which is never looked through for characters to escape."""
    return b"".join((json.dumps(fields)[:-1].encode(), b', "data": "', b64encode(data), b'"}'))
