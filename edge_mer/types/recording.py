"""What a recording holds, for whoever writes one and whoever reads it: channels, schemas, heads of parts.

A recording is an MCAP file. Its chunks, called parts here so that they are not taken for chunks of a stream,
are each whole in themselves: the first message of each says what session this is and what its channels carry.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Modality, StreamSpec

PROFILE = "edge-mer"
"""The profile in an MCAP's header."""

FORMAT = 1
"""Counts changes that older readers cannot follow."""

MAX_MESSAGE_BYTES = 64 << 20
"""A larger chunk is not recorded: a picture of 4096 x 2160 pixels is 27 MB before it is compressed."""

MAX_PART_BYTES = 80 << 20
"""A larger part is neither written nor read."""

SESSION_TOPIC = "/edge-mer/session"
CLOCKS_TOPIC = "/edge-mer/clock-offsets"
PREDICTIONS_TOPIC = "/edge-mer/predictions"
FEATURES_TOPIC = "/edge-mer/features/"
"""With the name of the encoder's stage behind it."""


@dataclass(frozen=True)
class SessionInfo:
    """What a recording says of its session.

    Attributes:
        edge_mer: The version that recorded it.
        bundle_id: Of the bundle that ran beside it; None: none did.
        utc_zero_ns: Wall time of the session's zero, nanoseconds since 1970. Times of MCAP are this plus the
            session's own.
        utc_synchronised: The host said that its wall clock follows a reference.
        redacted: Of these only the features of the bundle's encoders were kept.
        was_live: Its sources could not wait; its steps were given out by the clock.
    """

    edge_mer: str
    bundle_id: str | None
    utc_zero_ns: int
    utc_synchronised: bool
    redacted: tuple[Modality, ...] = ()
    was_live: bool = False


@dataclass(frozen=True)
class RecordedChannel:
    """What one channel carries.

    Attributes:
        topic: Its name in the file.
        schema: The name of its messages' schema.
        stream: The stream that it carries; None for what is beside the streams.
    """

    topic: str
    schema: str
    stream: StreamSpec | None = None


@dataclass(frozen=True)
class PartHead:
    """The first message of every part.

    Attributes:
        format: `FORMAT` when it was written.
        session: What session this is.
        channels: Number in the file -> what it carries.
        number: Counts parts from 0.
        n_dropped: Chunks that the recorder had dropped by then.
        is_last: Nothing comes after this part.
        was_cut: What came after this part was lost, and the file mended.
    """

    format: int
    session: SessionInfo
    channels: dict[int, RecordedChannel]
    number: int
    n_dropped: int
    is_last: bool = False
    was_cut: bool = False


_HEAD = TypeAdapter(PartHead)


def head_to_json(head: PartHead) -> bytes:
    """A head as a message."""
    return _HEAD.dump_json(head)


def head_from_json(data: bytes) -> PartHead:
    """A head from a message that nobody vouches for.

    Raises:
        ValueError: It is none; says why.
    """
    try:
        head = _HEAD.validate_json(data)
    except ValidationError as error:
        raise ValueError(f"{error.error_count()} fields are not as expected") from error
    if head.format > FORMAT:
        raise ValueError(f"format {head.format}, of a newer edge-mer; this one reads {FORMAT}")
    for channel in head.channels.values():
        if channel.stream is not None and (why := why_unrecordable(channel.stream)):
            raise ValueError(why)
    return head


def why_unrecordable(spec: StreamSpec) -> str | None:
    """What a recording cannot keep of a stream; None when it can."""
    if not len(spec.axes) == len(spec.shape) == (3 if spec.modality == "visual" else 2):
        return f"{spec.modality} with axes ({', '.join(spec.axes)})"
    if spec.modality == "visual":
        is_rgb = spec.dtype == "uint8" and spec.shape[2] == 3
        return None if is_rgb else f"pictures of {spec.dtype} and {spec.shape[2]} colours"
    if spec.rate_hz is not None and not (math.isfinite(spec.rate_hz) and spec.rate_hz > 0):
        return f"a rate of {spec.rate_hz} Hz"
    if spec.modality == "text":
        return None if spec.dtype == "str" else f"text of type {spec.dtype}"
    return None if spec.dtype in _NUMBERS else f"samples of type {spec.dtype}"


_NUMBERS = frozenset(np.dtype(code).name for code in "bBhHiIlLefd")

# -- schemas --------------------------------------------------------------------------------------


def _object(title: str, about: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {"title": title, "description": about, "type": "object", "properties": properties}


def _text(about: str) -> dict[str, Any]:
    return {"type": "string", "description": about}


def _count(about: str) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0, "description": about}


def _bytes(about: str) -> dict[str, Any]:
    return {"type": "string", "contentEncoding": "base64", "description": about}


_TIMESTAMP = {
    "type": "object",
    "title": "time",
    "description": "When it was captured",
    "properties": {
        "sec": {"type": "integer", "minimum": 0},
        "nsec": {"type": "integer", "minimum": 0, "maximum": 999_999_999},
    },
}

_OWN = {
    "type": "object",
    "description": "What edge-mer needs to give the chunk again as it came",
    "properties": {
        "seq": _count("Counts the stream's chunks from 0"),
        "time_basis": _text("Who stamped it: driver, arrival or remote"),
        "given_ns": {"type": "integer", "description": "The time by the remote clock that stamped it"},
    },
}

COMPRESSED_IMAGE, RAW_AUDIO = "foxglove.CompressedImage", "foxglove.RawAudio"
SAMPLES, WORDS = "edge_mer.Samples", "edge_mer.Words"
SESSION, CLOCK_OFFSET = "edge_mer.Session", "edge_mer.ClockOffset"
PREDICTION, FEATURE = "edge_mer.Prediction", "edge_mer.Feature"

SCHEMAS: dict[str, dict[str, Any]] = {
    COMPRESSED_IMAGE: _object(
        COMPRESSED_IMAGE,
        "A picture in a compressed form",
        timestamp=_TIMESTAMP,
        frame_id=_text("What took it"),
        data=_bytes("The compressed picture"),
        format=_text("How it is compressed, e.g. png"),
        edge_mer=_OWN,
    ),
    RAW_AUDIO: _object(
        RAW_AUDIO,
        "A piece of sound",
        timestamp=_TIMESTAMP,
        data=_bytes("Samples, little-endian, the channels of one moment side by side"),
        format=_text("pcm-s16, or pcm-f32 where 16 bits would lose something"),
        sample_rate=_count("In Hz"),
        number_of_channels=_count("1 is mono"),
        edge_mer=_OWN,
    ),
    SAMPLES: _object(
        SAMPLES,
        "Samples of a sensor; unit, rate and channels are in the channel's metadata",
        timestamp=_TIMESTAMP,
        values={
            "type": "array",
            "description": "One row per sample, one number per channel",
            "items": {
                "type": "array",
                "items": {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]},
            },
        },
        edge_mer=_OWN,
    ),
    WORDS: _object(
        WORDS,
        "Words that were recognised together; what a field means is in the channel's metadata",
        timestamp=_TIMESTAMP,
        words={
            "type": "array",
            "items": {"type": "array", "description": "Text and times", "items": {"type": "string"}},
        },
        edge_mer=_OWN,
    ),
    CLOCK_OFFSET: _object(
        CLOCK_OFFSET,
        "One look at a remote clock",
        stream=_text("The stream whose chunks that clock stamps"),
        remote_ns={"type": "integer", "description": "What it showed"},
        host_ns={"type": "integer", "description": "The session's time then"},
        uncertainty_ns=_count("How far off that may be"),
    ),
    FEATURE: _object(
        FEATURE,
        "What an encoder made of one step",
        step=_count("Counts the steps of the model's grid from 0"),
        present={"type": "boolean", "description": "Enough was there to make it of"},
        values={"type": "array", "items": {"type": "number"}},
    ),
    SESSION: {**_HEAD.json_schema(), "title": SESSION},
    PREDICTION: {**TypeAdapter(Prediction).json_schema(), "title": PREDICTION},
}
"""Name -> JSON Schema of its messages. Foxglove's have their published fields, and ours beside them."""


def spec_metadata(spec: StreamSpec) -> dict[str, str]:
    """A stream's description as metadata of its channel, for whoever reads the file with other tools."""
    return {name: str(TypeAdapter(Any).dump_json(value), "utf-8") for name, value in asdict(spec).items()}
