"""What recordings say of themselves, held against what others publish."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet

from edge_mer.types.recording import (
    COMPRESSED_IMAGE,
    FORMAT,
    RAW_AUDIO,
    SCHEMAS,
    PartHead,
    RecordedChannel,
    head_from_json,
    head_to_json,
    spec_metadata,
    why_unrecordable,
)
from edge_mer.types.signals import StreamSpec
from tests.helpers.recordings import INFO, PICTURES, SPECS

TYPES = {
    FieldDescriptorProto.TYPE_STRING: "string",
    FieldDescriptorProto.TYPE_BYTES: "string",
    FieldDescriptorProto.TYPE_MESSAGE: "object",
    FieldDescriptorProto.TYPE_UINT32: "integer",
    FieldDescriptorProto.TYPE_FIXED32: "integer",
}
"""Of Foxglove's fields as JSON has them."""


@pytest.fixture
def messages() -> Any:
    """Foxglove's own schemas."""
    return pytest.importorskip("foxglove.messages", reason="needs foxglove-sdk: pip install 'edge-mer[dev]'")


@pytest.mark.parametrize("name", [COMPRESSED_IMAGE, RAW_AUDIO])
def test_foxgloves_schemas_have_foxgloves_fields(name: str, messages: Any) -> None:
    published = getattr(messages, name.partition(".")[2]).get_schema()
    assert published.name == name
    files = FileDescriptorSet.FromString(published.data).file
    (message,) = [one for file in files for one in file.message_type if f"foxglove.{one.name}" == name]
    ours = dict(SCHEMAS[name]["properties"])
    assert "edge-mer" in ours.pop("edge_mer")["description"]
    assert {field: schema["type"] for field, schema in ours.items()} == {
        field.name: TYPES[field.type] for field in message.field
    }
    is_bytes = {field.name for field in message.field if field.type == FieldDescriptorProto.TYPE_BYTES}
    assert {field for field, schema in ours.items() if schema.get("contentEncoding") == "base64"} == is_bytes


def head(**how: object) -> PartHead:
    channels = {number: RecordedChannel(f"/{spec.name}", "s", spec) for number, spec in enumerate(SPECS, 1)}
    fields = {"format": FORMAT, "session": INFO, "channels": channels, "number": 3, "n_dropped": 2}
    return PartHead(**{**fields, **how})  # type: ignore[arg-type]


def test_heads_come_back_as_they_were() -> None:
    assert head_from_json(head_to_json(head())) == head()
    assert head_from_json(head_to_json(head(is_last=True, was_cut=True))) != head()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"format": 1}',
        head_to_json(head(format=FORMAT + 1)),
        head_to_json(head()).replace(b'"eda"', b'"mood"'),
        head_to_json(head()).replace(b'"uint8"', b'"object"'),
        head_to_json(head()).replace(b"48000.0", b"-1"),
    ],
)
def test_heads_of_others_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"fields are not|newer edge-mer|type object|uint8|object|rate of"):
        head_from_json(data)


def test_a_channel_describes_its_stream_to_other_programs() -> None:
    found = {name: json.loads(text) for name, text in spec_metadata(PICTURES).items()}
    assert found["axes"] == ["height", "width", "channel"]
    assert StreamSpec(
        **{**found, "axes": PICTURES.axes, "shape": (9, 14, 3), "channels": ("R", "G", "B")}
    ) == (PICTURES)


def test_streams_of_today_can_all_be_recorded() -> None:
    assert [why_unrecordable(spec) for spec in SPECS] == [None] * len(SPECS)
