"""Protobuf's wire format, as far as ONNX needs it: the device has no `onnx` package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Field = tuple[int, "int | memoryview"]
"""Number and value: a number, or the bytes of a length-delimited field."""


def fields(data: memoryview) -> Iterator[Field]:
    """The fields of a message, in their order; numbers of a fixed size are left out.

    Raises:
        ValueError: It is no such message.
        IndexError: It ends inside a number.
    """
    for number, value, _ in whole_fields(data):
        if not isinstance(value, _Fixed):
            yield number, value


class _Fixed:
    """A number of 4 or 8 bytes, which nothing here looks into."""


def whole_fields(data: memoryview) -> Iterator[tuple[int, int | memoryview | _Fixed, memoryview]]:
    """As `fields`, with all kinds of them, and each with the bytes that it is made of."""
    position = 0
    while position < len(data):
        begin = position
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        value: int | memoryview | _Fixed
        if kind == 0:
            value, position = _varint(data, position)
        elif kind == 2:
            length, position = _varint(data, position)
            if length > len(data) - position:
                raise ValueError(f"a field of {length} bytes in {len(data) - position}")
            value = data[position : position + length]
            position += length
        elif kind in (1, 5):
            value = _Fixed()
            position += 8 if kind == 1 else 4
            if position > len(data):
                raise ValueError("the file ends inside a number")
        else:
            raise ValueError(f"wire type {kind}")
        yield number, value, data[begin:position]


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than 10 bytes")


def numbers(value: int | memoryview) -> list[int]:
    """A repeated whole number's values in one field: one, or packed ones."""
    if isinstance(value, int):
        return [value]
    found, position = [], 0
    while position < len(value):
        one, position = _varint(value, position)
        found.append(one)
    return found


def written_number(number: int, value: int) -> bytes:
    """A field that holds a whole number from 0 on."""
    return _written_varint(number << 3) + _written_varint(value)


def written_bytes(number: int, value: bytes | Iterable[bytes]) -> bytes:
    """A field that holds bytes: a text, or a message of already written fields."""
    content = value if isinstance(value, bytes) else b"".join(value)
    return _written_varint(number << 3 | 2) + _written_varint(len(content)) + content


def _written_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
