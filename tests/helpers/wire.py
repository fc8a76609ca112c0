"""ONNX files written by hand in the protobuf wire format, so that a test can make them as bad as it needs."""

from __future__ import annotations


def varint(value: int) -> bytes:
    """A number in groups of seven bits."""
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def number(field: int, value: int) -> bytes:
    """A field that holds a number."""
    return varint(field << 3) + varint(value)


def block(field: int, payload: bytes) -> bytes:
    """A field that holds text, raw bytes or another message."""
    return varint(field << 3 | 2) + varint(len(payload)) + payload


def opset_import(version: int, domain: str = "") -> bytes:
    """A model's word on which operators it uses."""
    return block(8, (block(1, domain.encode()) if domain else b"") + number(2, version))


def model(graph: bytes = b"", *, ir: int = 10, opset: int = 20, more: bytes = b"") -> bytes:
    """A ModelProto around a GraphProto; `more` are further fields of the model."""
    return number(1, ir) + opset_import(opset) + block(7, graph) + more


def tensor(raw: bytes = b"\0\0\x80\x3f", *, location: str | None = None, flag: int | None = None) -> bytes:
    """A TensorProto with its weights inside, or (`location`, `flag`) in another file."""
    fields = number(1, 1) + number(2, 1) + block(8, b"w")
    if location is None:
        fields += block(9, raw)
    else:
        fields += block(13, block(1, b"location") + block(2, location.encode()))
    return fields if flag is None else fields + number(14, flag)


def node(*attributes: bytes) -> bytes:
    """A NodeProto with attributes."""
    return block(1, b"x") + block(2, b"y") + block(4, b"Op") + b"".join(block(5, a) for a in attributes)
