"""An MCAP file that is whole up to its last flush, whatever happens to the process or the disk."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mcap.writer import CompressionType, Writer

import edge_mer
from edge_mer.types.recording import (
    FORMAT,
    PROFILE,
    SCHEMAS,
    SESSION,
    SESSION_TOPIC,
    PartHead,
    RecordedChannel,
    SessionInfo,
    head_to_json,
    spec_metadata,
)

_OWNER_ONLY = 0o600


class _Output:
    """A file as MCAP's writer wants it, without a buffer that could not be got rid of when a disk is full."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.descriptor = os.open(path, flags, _OWNER_ONLY)
        self.n_bytes = 0

    def write(self, data: bytes) -> None:
        """All of it."""
        rest = memoryview(data)
        while rest:
            n_written = os.write(self.descriptor, rest)
            rest = rest[n_written:]
            self.n_bytes += n_written

    def tell(self) -> int:
        """Where the next byte goes."""
        return self.n_bytes

    def flush(self) -> None:
        """Nothing is held back."""


class McapFile:
    """A recording that is being written. Each flush ends a part, of which the disk then has every byte.

    Args:
        path: A new file; only its owner may read it.

    Raises:
        OSError: There is such a file already, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._output = _Output(path)
        _sync_folder(path.parent)
        self._writer = Writer(
            self._output,  # type: ignore[arg-type]  # it needs no more of a file than this
            chunk_size=sys.maxsize,  # parts end when they are flushed
            compression=CompressionType.ZSTD,
            enable_data_crcs=True,
        )
        self._head: PartHead | None = None
        self._whole_bytes = self._held_bytes = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of the file so far."""
        return self._output.n_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes of messages that the next flush will write, before they are compressed."""
        return self._held_bytes

    def begin(self, info: SessionInfo, channels: Mapping[int, RecordedChannel]) -> None:
        """Say what follows: the session, and its channels by their numbers, which count from 1."""
        self._writer.start(profile=PROFILE, library=f"edge-mer {edge_mer.__version__}")
        session = RecordedChannel(SESSION_TOPIC, SESSION)
        schemas: dict[str, int] = {}
        for number, channel in sorted({**channels, max(channels, default=0) + 1: session}.items()):
            name = channel.schema
            if name not in schemas:
                data = json.dumps(SCHEMAS[name]).encode()
                schemas[name] = self._writer.register_schema(name, "jsonschema", data)
            metadata = {} if channel.stream is None else spec_metadata(channel.stream)
            given = self._writer.register_channel(channel.topic, "json", schemas[name], metadata)
            if given != number:
                raise ValueError(f"channel {number} of a recording would be {given}")
        self._session_channel = max(channels, default=0) + 1
        self._head = PartHead(FORMAT, info, dict(channels), number=0, n_dropped=0)

    def go_on_as(self, head: PartHead) -> None:
        """Let the next part say of itself what `head` says: its number, and what was dropped by then."""
        if self._head is not None:
            self._head = replace(self._head, number=head.number, n_dropped=head.n_dropped)

    def add(self, channel: int, log_ns: int, publish_ns: int, data: bytes, seq: int) -> None:
        """A message, times since 1970; the file has it after the next flush."""
        if not self._held_bytes:
            self._add_head(log_ns)
        self._writer.add_message(channel, log_ns, data, publish_ns, seq % 2**32)
        self._held_bytes += len(data)

    def flush(self, n_dropped: int) -> None:
        """End the part; returns once the disk has it.

        Args:
            n_dropped: What the next part says of chunks that were dropped.

        Raises:
            OSError: The disk is full or broken.
        """
        if self._head is None or not self._held_bytes:
            return
        self._writer.flush()
        os.fsync(self._output.descriptor)
        self._whole_bytes, self._held_bytes = self._output.n_bytes, 0
        self._head = replace(self._head, number=self._head.number + 1, n_dropped=n_dropped)

    def finish(self, log_ns: int, n_dropped: int, *, was_cut: bool = False) -> None:
        """Write what is held, a last part that says so, and the summary; close.

        Raises:
            OSError: The disk is full or broken.
        """
        self.flush(n_dropped)
        if self._head is not None:
            self._head = replace(self._head, is_last=True, was_cut=was_cut)
            self._add_head(log_ns)
            self._writer.finish()
        os.fsync(self._output.descriptor)
        os.close(self._output.descriptor)

    def abandon(self) -> None:
        """Close after a failure; what a flush left half-written is taken away where that is possible."""
        try:
            os.ftruncate(self._output.descriptor, self._whole_bytes)
            self._output.n_bytes = self._whole_bytes
        except OSError:
            pass  # whoever reads it stops there anyway
        finally:
            os.close(self._output.descriptor)

    def _add_head(self, log_ns: int) -> None:
        if self._head is None:
            raise ValueError("a recording's messages came before its session")
        head = head_to_json(self._head)
        self._writer.add_message(self._session_channel, log_ns, head, log_ns, self._head.number % 2**32)


def _sync_folder(path: Path) -> None:
    """The file's name, too, is to be there after a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some file systems have no such thing
    finally:
        os.close(descriptor)
