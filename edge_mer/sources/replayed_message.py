"""From a recorded message back to its chunk."""

from __future__ import annotations

import json
import struct
from base64 import b64decode
from typing import Any, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mer.sources.file_open import MAX_PICTURE_PX
from edge_mer.types.recording import COMPRESSED_IMAGE, RAW_AUDIO, SAMPLES, WORDS
from edge_mer.types.signals import Chunk, StreamSpec, TimeBasis

_BASES: dict[object, TimeBasis] = {basis: basis for basis in get_args(TimeBasis)}
_PNG = b"\x89PNG\r\n\x1a\n"
_IHDR_AT = len(_PNG) + 8
_S16 = np.float32(32768)


def to_chunk(data: bytes, spec: StreamSpec, schema: str, t_ns: int) -> Chunk:
    """The chunk that a message keeps; its `arrived_ns` is the session's time up to which all had been given.

    Args:
        data: The message.
        spec: The stream of its channel.
        schema: What its channel says that it follows.
        t_ns: The session's time of its capture.

    Raises:
        ValueError: It keeps none; says why.
    """
    try:
        fields = json.loads(data)
        own = fields["edge_mer"]
        seq, basis = int(own["seq"]), _BASES[own["time_basis"]]
        heard_ns = int(own["heard_ns"]) if "heard_ns" in own else None
        values = _READERS[schema](fields, spec)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError, struct.error) as error:
        raise ValueError(
            f"{schema} without {error}" if isinstance(error, KeyError) else str(error)
        ) from error
    except cv2.error as error:
        raise ValueError(f"a picture that cannot be decoded: {error.err}") from error
    sizes = zip(spec.shape, values.shape, strict=False)
    if values.ndim != len(spec.shape) or any(wanted not in (None, size) for wanted, size in sizes):
        raise ValueError(f"data of shape {values.shape} in a stream of {spec.shape}")
    return Chunk(spec.name, spec.modality, seq, t_ns, values, basis, heard_ns)


def _samples(fields: dict[str, Any], spec: StreamSpec) -> NDArray[np.generic]:
    values = np.array(fields["values"], spec.dtype)
    return values if values.size else values.reshape(0, len(spec.channels))


def _words(fields: dict[str, Any], spec: StreamSpec) -> NDArray[np.generic]:
    rows = fields["words"]
    if not all(isinstance(text, str) for row in rows for text in row):
        raise ValueError("words that are no text")
    return np.array(rows, np.str_).reshape(len(rows), -1) if rows else np.empty((0, 3), "U1")


def _sound(fields: dict[str, Any], spec: StreamSpec) -> NDArray[np.generic]:
    data, n_channels = b64decode(fields["data"], validate=True), fields["number_of_channels"]
    if fields["format"] == "pcm-s16":
        return (np.frombuffer(data, "<i2") / _S16).astype(np.float32).reshape(-1, n_channels)
    if fields["format"] != "pcm-f32":
        raise ValueError(f"sound in {fields['format']}")
    return np.frombuffer(data, "<f4").astype(np.float32).reshape(-1, n_channels)


def _png(fields: dict[str, Any], spec: StreamSpec) -> NDArray[np.generic]:
    data = b64decode(fields["data"], validate=True)
    if fields["format"] != "png" or not data.startswith(_PNG):
        raise ValueError(f"a picture in {fields['format']}")
    width, height = struct.unpack_from(">II", data, _IHDR_AT)
    if width * height > MAX_PICTURE_PX:
        raise ValueError(f"a picture of {width} x {height} pixels")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError("a picture that cannot be decoded")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


_READERS = {
    SAMPLES: _samples,
    WORDS: _words,
    RAW_AUDIO: _sound,
    COMPRESSED_IMAGE: _png,
}
