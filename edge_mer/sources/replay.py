"""`mcap:session.mcap` plays a recording of edge-mer's own: the streams of the session, as they came to it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edge_mer.errors import DataError, UsageError
from edge_mer.sources.file_open import as_data_error, expand, open_regular, shown
from edge_mer.sources.recorded_parts import PartReader
from edge_mer.sources.replayed_message import to_chunk
from edge_mer.types.recording import PartHead, SessionInfo
from edge_mer.types.signals import Chunk, StreamSpec

_log = logging.getLogger(__name__)


class ReplaySource:
    """A recorded session: its streams, its chunks in the order in which they came, its time from 0.

    A file that was cut, as by a loss of power, is played up to there, and one that was spoilt without the
    parts that are; both are told as a warning of the logger `edge_mer.sources.replay`.

    Args:
        rest: The URI after `mcap:`, a path; a leading "~" is the home directory.

    Raises:
        UsageError: No path.
    """

    is_live = False

    def __init__(self, rest: str) -> None:
        if not rest:
            raise UsageError("a recording needs a path", expected="mcap:PATH, e.g. mcap:session.mcap")
        self._rest = rest
        self._file: BinaryIO | None = None
        self._head: PartHead | None = None
        self._chunks: Iterator[Chunk] = iter(())
        self._next: Chunk | None = None
        self._started = self._ended = False

    @property
    def uri(self) -> str:
        """The URI that opens this source again."""
        return f"mcap:{self._rest}"

    @property
    def path(self) -> Path:
        """The recording."""
        return expand(self._rest)

    @property
    def specs(self) -> tuple[StreamSpec, ...]:
        """The streams, as their sources described them; valid after `ensure_ready`."""
        channels = () if self._head is None else self._head.channels.values()
        return tuple(channel.stream for channel in channels if channel.stream is not None)

    @property
    def session(self) -> SessionInfo | None:
        """What is known of the session; None before `ensure_ready`."""
        return None if self._head is None else self._head.session

    @property
    def was_live(self) -> bool:
        """Whether the session's steps were given out by the clock; valid after `ensure_ready`."""
        return self._head is not None and self._head.session.was_live

    @property
    def ended(self) -> bool:
        """True once every chunk was read, or the source was stopped."""
        return self._ended

    def ensure_ready(self) -> None:
        """Open the file and read its first part.

        Raises:
            DataError: No recording of edge-mer's, or nothing of it can be read.
        """
        if self._file is not None:
            return
        file = open_regular(self.path, "recording")
        try:
            with as_data_error(self.path):
                self._head = head_of(PartReader(file), self.path)
        except BaseException:
            file.close()
            raise
        self._file = file

    def start(self) -> None:
        """Begin to deliver; after `ensure_stopped`, from the beginning again.

        Raises:
            DataError: As `ensure_ready` and `read`.
        """
        self.ensure_ready()
        if not self._started and self._file is not None:
            self._chunks = self._played(PartReader(self._file))
            self._started = True
            self._advance()

    def read(self, timeout_ms: int) -> Chunk | None:
        """The next chunk; None at the end. Never waits.

        Raises:
            DataError: A message that is not what its channel says.
            RuntimeError: Not started.
        """
        if not self._started:
            raise RuntimeError(f"{self.uri} must be started before it is read")
        chunk = self._next
        if chunk is not None:
            self._advance()
        return chunk

    def ensure_stopped(self) -> None:
        """Close the file; harmless when nothing is open."""
        if self._file is not None:
            self._file.close()
        self._file, self._chunks, self._next = None, iter(()), None
        self._started, self._ended = False, True

    def _advance(self) -> None:
        with as_data_error(self.path):
            self._next = next(self._chunks, None)
        self._ended = self._next is None

    def _played(self, reader: PartReader) -> Iterator[Chunk]:
        for part in reader:
            for message in part.messages:
                channel = part.head.channels.get(message.channel_id)
                if channel is None or channel.stream is None:
                    continue
                t_ns = message.publish_time - part.head.session.utc_zero_ns
                try:
                    yield to_chunk(message.data, channel.stream, channel.schema, t_ns)
                except ValueError as error:
                    raise DataError(
                        f"{shown(self.path)}: a message of {channel.topic} is not what its channel says",
                        found=str(error),
                        hint="play the file as it was recorded",
                    ) from error
        self._tell(reader)

    def _tell(self, reader: PartReader) -> None:
        """What of the session is not in the file."""
        if reader.n_lost:
            _log.warning("%s: %d parts are spoilt and were left out", shown(self.path), reader.n_lost)
        if reader.was_cut:
            _log.warning("%s was cut; it was played up to there", shown(self.path))


def head_of(reader: PartReader, path: Path) -> PartHead:
    """The head of the first part that can be read.

    Raises:
        DataError: There is none, or the file is something else.
    """
    if not reader.is_mcap:
        raise DataError(
            f"{shown(path)} is no recording",
            expected="an MCAP file of edge-mer's, as edge-mer record makes",
            found="another beginning",
            hint=f"play media with file:{path}",
        )
    part = next(iter(reader), None)
    if part is None:
        raise DataError(
            f"nothing can be read of {shown(path)}",
            expected="an MCAP file of edge-mer's, as edge-mer record makes",
            found=f"a part that cannot be used: {reader.why_not}" if reader.why_not else "no part of one",
            hint="record again: a recording that was cut in its first second is empty",
        )
    return part.head
