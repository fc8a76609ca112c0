"""Reads the parts of a recording: each one that is whole, wherever the file was cut or spoilt.

Nothing but a part's own checksum is believed. The next part is looked for by what its beginning looks like,
so that a spoilt length costs the part that it belongs to and not all that follows.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import zstandard
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Chunk as McapChunk
from mcap.records import Message
from mcap.stream_reader import breakup_chunk

from edge_mer.types.recording import MAX_PART_BYTES, PartHead, head_from_json

MAGIC = b"\x89MCAP0\r\n"

# opcode, length of the record, first and last time, size and checksum of the contents, compression, size here
_START = struct.Struct("<BQQQQII4sQ")
_MARK = struct.pack("<I4s", 4, b"zstd")
_MARK_AT = struct.calcsize("<BQQQQI")
_BEFORE_LENGTH = struct.calcsize("<BQ")
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Part:
    """A part whose checksum was right.

    Attributes:
        head: What it says of itself.
        messages: All others, in the order in which they were written.
    """

    head: PartHead
    messages: tuple[Message, ...]


class PartReader:
    """The parts of a recording, one after the other; at most one is in memory.

    Args:
        file: Opened for reading; anything may be in it.

    Attributes:
        n_lost: Parts that are spoilt or missing, as far as those after them show.
        has_end: The recording's own end was read.
        was_cut: Its end was lost, or had been when it was mended.
        why_not: Why the last part that was left out was; None: none was.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._n_bytes = file.seek(0, os.SEEK_END)
        self.n_lost = 0
        self.has_end = False
        self.was_cut = True
        self.why_not: str | None = None

    @property
    def is_mcap(self) -> bool:
        """Whether it begins like an MCAP file."""
        self._file.seek(0)
        return self._file.read(len(MAGIC)) == MAGIC

    @property
    def has_summary(self) -> bool:
        """Whether it ends like one."""
        self._file.seek(max(0, self._n_bytes - len(MAGIC)))
        return self._n_bytes > 2 * len(MAGIC) and self._file.read() == MAGIC

    def __iter__(self) -> Iterator[Part]:
        """The parts of one session in order; from the beginning each time."""
        self.n_lost, self.has_end, self.was_cut, self.why_not = 0, False, True, None
        first: PartHead | None = None
        number, offset = 0, len(MAGIC)
        while not self.has_end and (found := self._next(offset)) is not None:
            part, offset = found
            head = part.head
            is_next = head.number >= number and (first is None or _same_session(first, head))
            if not is_next:
                self.why_not = "it belongs elsewhere"
                continue
            first = first or head
            self.n_lost += head.number - number
            number = head.number + 1
            self.has_end, self.was_cut = head.is_last, head.was_cut or not head.is_last
            yield part

    def _next(self, offset: int) -> tuple[Part, int] | None:
        """The first whole part from `offset` on, and where it ends."""
        while (start := self._find(offset)) is not None:
            try:
                return self._read(start)
            except (ValueError, OverflowError, McapError, struct.error, zstandard.ZstdError) as error:
                self.why_not = str(error) or type(error).__name__
                offset = start + 1
        return None

    def _find(self, offset: int) -> int | None:
        """Where something begins that looks like a part."""
        at = offset + _MARK_AT
        while at < self._n_bytes:
            self._file.seek(at)
            block = self._file.read(_BLOCK_BYTES + len(_MARK) - 1)
            found = block.find(_MARK)
            if found >= 0:
                return at + found - _MARK_AT
            at += _BLOCK_BYTES
        return None

    def _read(self, start: int) -> tuple[Part, int]:
        """The part at `start`, and where it ends.

        Raises:
            ValueError: It is none, or is spoilt.
        """
        self._file.seek(start)
        opcode, length, _, _, size, checksum, _, _, packed_size = _START.unpack(self._read_all(_START.size))
        end = start + _BEFORE_LENGTH + length
        if opcode != Opcode.CHUNK or packed_size != length - (_START.size - _BEFORE_LENGTH):
            raise ValueError("it is no part")
        if end > self._n_bytes:
            raise ValueError("it is cut short")
        if max(size, packed_size) > MAX_PART_BYTES:
            raise ValueError(f"it has more than {MAX_PART_BYTES >> 20} MiB")
        contents = _unpacked(self._read_all(packed_size), size)
        if zlib.crc32(contents) != checksum:
            raise ValueError("its checksum is wrong")
        return _part(contents), end

    def _read_all(self, n_bytes: int) -> bytes:
        data = self._file.read(n_bytes)
        if len(data) < n_bytes:
            raise ValueError("it is cut short")
        return data


def _unpacked(packed: bytes, size: int) -> bytes:
    """What was packed; never more than `size` bytes of it are unpacked."""
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed))
    contents = reader.read(size + 1)
    if len(contents) != size:
        raise ValueError("it does not unpack to its size")
    return contents


def _part(contents: bytes) -> Part:
    chunk = McapChunk("", contents, 0, 0, 0, len(contents))
    messages = [record for record in breakup_chunk(chunk) if isinstance(record, Message)]
    if not messages:
        raise ValueError("nothing is in it")
    return Part(head_from_json(messages[0].data), tuple(messages[1:]))


def _same_session(first: PartHead, head: PartHead) -> bool:
    return (first.session, first.channels) == (head.session, head.channels)
