"""From the bytes of a serial line to packets; what is no packet is counted and left out."""

from __future__ import annotations

import binascii
import json
import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edge_mer.sources.serial_config import MAX_PACKET_BYTES, FieldName, SerialConfig

Fields = dict[FieldName, float]
"""The numbers of one packet; a field that says nothing is not there."""

_MAX_VALUE = 3.4e38  # of float32


@dataclass
class PacketCounts:
    """What became of the bytes.

    Attributes:
        n_packets: Packets that were understood.
        n_bad: Lines that are none, and packets with a wrong checksum.
        n_skipped_bytes: Bytes between packets.
        n_lost: Packets that are missing by the sensor's counter.
    """

    n_packets: int = 0
    n_bad: int = 0
    n_skipped_bytes: int = 0
    n_lost: int = 0


class Packets(ABC):
    """Cuts a serial line into packets.

    Attributes:
        counts: What became of the bytes.
    """

    def __init__(self) -> None:
        self.counts = PacketCounts()

    @abstractmethod
    def feed(self, block: bytes) -> list[Fields]:
        """The packets that these bytes complete; never fails, whatever they are."""


def packets(config: SerialConfig) -> Packets:
    """What cuts as the sensor frames."""
    return _Binary(config) if config.framing == "binary" else _Lines(config)


class _Lines(Packets):
    """Lines of text. The first is left out: nobody saw its beginning."""

    def __init__(self, config: SerialConfig) -> None:
        super().__init__()
        self._parse = _json_fields if config.framing == "json" else _csv_parser(config)
        self._needed = _needed(config)
        self._held = bytearray()
        self._is_first = True

    def feed(self, block: bytes) -> list[Fields]:
        *ends, rest = block.split(b"\n")
        found = []
        for end in ends:
            line = self._taken(end)
            if self._is_first:
                self._is_first = False
                self.counts.n_skipped_bytes += len(line)
            elif line.strip():
                fields = self._read(line)
                self.counts.n_bad += fields is None
                self.counts.n_packets += fields is not None
                found += [] if fields is None else [fields]
        self._hold(rest)
        return found

    def _hold(self, piece: bytes) -> None:
        self._held += piece[: MAX_PACKET_BYTES + 1 - len(self._held)]

    def _taken(self, end: bytes) -> bytes:
        self._hold(end)
        line = bytes(self._held)
        self._held.clear()
        return line

    def _read(self, line: bytes) -> Fields | None:
        if len(line) > MAX_PACKET_BYTES:
            return None
        try:
            fields = self._parse(line.decode("utf-8"))
        except (ValueError, RecursionError):  # no UTF-8, no JSON, or no number in it
            return None
        return fields if fields is not None and self._needed(fields) else None


def _needed(config: SerialConfig) -> Callable[[Fields], bool]:
    """Whether a packet has its counter, and of each stream all samples, possible ones, or none."""

    def is_whole(fields: Fields) -> bool:
        if config.counter is not None:
            counted = fields.get(config.counter, -1.0)
            if counted < 0 or counted != int(counted) or counted >= (config.modulo or 0):
                return False
        samples = [
            [stream.value(fields[name]) for name in stream.fields if name in fields]
            for stream in config.streams
        ]
        return any(samples) and all(
            len(found) in (0, len(stream.fields)) and all(abs(value) < _MAX_VALUE for value in found)
            for found, stream in zip(samples, config.streams, strict=True)
        )

    return is_whole


def _csv_parser(config: SerialConfig) -> Callable[[str], Fields | None]:
    names = {name for stream in config.streams for name in stream.fields} | {config.counter}
    numbers = sorted(name for name in names if isinstance(name, int))

    def parse(line: str) -> Fields | None:
        cells = [cell.strip() for cell in line.split(config.separator)]
        if numbers[-1] > len(cells) or config.n_cells not in (None, len(cells)):
            return None
        return _numbers({number: cells[number - 1] for number in numbers if cells[number - 1]})

    return parse


def _json_fields(line: str) -> Fields | None:
    found = json.loads(line)
    if not isinstance(found, dict):
        return None
    numbers = {
        key: value
        for key, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return _numbers(numbers)


def _numbers(found: Mapping[Any, str | float]) -> Fields | None:
    """As floats; NaN is a field that says nothing; None where one is no number, or too large."""
    fields: Fields = {}
    for name, value in found.items():
        if isinstance(value, str) and "_" in value:
            return None
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        if math.isnan(number):
            continue
        if abs(number) > _MAX_VALUE:
            return None
        fields[name] = number
    return fields


class _Binary(Packets):
    """Packets of one length behind sync bytes; after a wrong one, the search goes on at its second byte."""

    def __init__(self, config: SerialConfig) -> None:
        super().__init__()
        self._sync = bytes.fromhex(config.sync)
        self._struct = struct.Struct(config.format)
        self._size_bytes, self._checksum = CHECKSUMS[config.checksum]
        self._order: Literal["little", "big"] = "little" if config.format[0] == "<" else "big"
        self._covers_sync = config.checksum_over == "all"
        self._needed = _needed(config)
        self._held = bytearray()

    def feed(self, block: bytes) -> list[Fields]:
        self._held += block
        found: list[Fields] = []
        sync, payload_bytes = self._sync, self._struct.size
        packet_bytes = len(sync) + payload_bytes + self._size_bytes
        position = 0
        while True:
            start = self._held.find(sync, position)
            if start < 0:
                # what may be the beginning of a sync is kept
                start = max(position, len(self._held) - len(sync) + 1)
                self.counts.n_skipped_bytes += start - position
                break
            self.counts.n_skipped_bytes += start - position
            packet = bytes(self._held[start : start + packet_bytes])
            if len(packet) < packet_bytes:
                break
            fields = self._read(packet)
            if fields is None:
                self.counts.n_bad += 1
                self.counts.n_skipped_bytes += 1
                position = start + 1
            else:
                self.counts.n_packets += 1
                found.append(fields)
                position = start + packet_bytes
        del self._held[:start]
        return found

    def _read(self, packet: bytes) -> Fields | None:
        first = len(self._sync)
        last = len(packet) - self._size_bytes
        covered = packet[0 if self._covers_sync else first : last]
        if self._checksum(covered) != int.from_bytes(packet[last:], self._order):
            return None
        values = self._struct.unpack(packet[first:last])
        fields = _numbers({number: float(value) for number, value in enumerate(values, 1)})
        return fields if fields is not None and self._needed(fields) else None


def _xor8(data: bytes) -> int:
    found = 0
    for byte in data:
        found ^= byte
    return found


def _crc(data: bytes, polynomial: int, value: int) -> int:
    """A reflected 16-bit cyclic redundancy check."""
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (polynomial if value & 1 else 0)
    return value


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ (0x07 if value & 0x80 else 0)) & 0xFF
    return value


CHECKSUMS: dict[str, tuple[int, Callable[[bytes], int]]] = {
    "none": (0, lambda data: 0),
    "xor8": (1, _xor8),
    "sum8": (1, lambda data: sum(data) & 0xFF),
    "crc8": (1, _crc8),
    "crc16-ccitt": (2, lambda data: binascii.crc_hqx(data, 0xFFFF)),
    "crc16-modbus": (2, lambda data: _crc(data, 0xA001, 0xFFFF)),
}
"""Name -> bytes, and function."""
