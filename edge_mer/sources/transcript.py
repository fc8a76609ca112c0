"""Words with times, as a speech recogniser finds them: JSON lines from a file, a pipe or a socket.

    transcript:words.jsonl
    transcript:-?offset_s=0.2
    transcript:unix:/run/asr.sock
    transcript:tcp://127.0.0.1:2700

A line is one JSON object: one utterance that is final, in the layout of Vosk or of Whisper. An utterance
is one chunk, stamped with the end of its last word, since nobody can know it sooner.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import re
import select
import socket
import stat
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from edge_mer.clock import NS_PER_S, Clock, MonotonicClock
from edge_mer.errors import DataError, UsageError
from edge_mer.sources.file_open import expand, open_regular, shown
from edge_mer.sources.transcript_line import MAX_LINE_BYTES, Utterance, Word, parse_line
from edge_mer.types.signals import Chunk, StreamSpec, TimeBasis

MAX_HELD_WORDS = 20_000
"""Of a live stream, so many words wait to be read, some hours of talk; then the oldest utterances go."""

MAX_AHEAD_S = 5
"""A live utterance that ends so much later than now was counted from another zero."""

CONNECT_TIMEOUT_S = 5.0

_EXAMPLE = "transcript:words.jsonl"
_KIND_OF_FILE = "file of JSON lines"
_KEY = "offset_s"
_ALLOWED = "seconds such as 0.2 or -1.5, within 86400"
_MAX_OFFSET_S = 86_400
_BLOCK_BYTES = 1 << 16

_log = logging.getLogger(__name__)

Kind = Literal["file", "stdin", "unix", "tcp"]
"""Where lines come from."""


@dataclass
class TranscriptCounts:
    """What became of the lines.

    Attributes:
        n_utterances: Utterances with words.
        n_partial: Lines that were not final yet, which are left out.
        n_empty: Final lines without words.
        n_bad: Lines of a live stream that could not be used.
        n_dropped: Utterances of a live stream that were not read soon enough.
        n_words_before: Words that began before the session's start, which are left out.
    """

    n_utterances: int = 0
    n_partial: int = 0
    n_empty: int = 0
    n_bad: int = 0
    n_dropped: int = 0
    n_words_before: int = 0


# --- the URI ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TranscriptSettings:
    """What a `transcript:` URI asks for.

    Attributes:
        kind: "file", "stdin", "unix" or "tcp".
        address: Path of the file or socket, "-", or HOST:PORT.
        offset_s: Added to the engine's times; where its zero lies in the session, in seconds.
    """

    kind: Kind
    address: str
    offset_s: Fraction = Fraction(0)

    @classmethod
    def parse(cls, rest: str) -> TranscriptSettings:
        """Read the part of a URI after `transcript:`.

        Raises:
            UsageError: No path, an address that cannot be one, an unknown or repeated key, or a value
                that is not allowed.
        """
        target, _, query = rest.partition("?")
        kind, address = _target(rest, target)
        values: dict[str, Fraction] = {}
        for part in query.split("&") if query else ():
            key, separator, text = part.partition("=")
            if key != _KEY:
                near = difflib.get_close_matches(key, [_KEY], cutoff=0.5)
                hint = f"did you mean {_KEY}, {_ALLOWED}?" if near else f"write {_EXAMPLE}?{_KEY}=0.2"
                raise UsageError(f"transcript:{rest}: unknown key {key!r}", expected=_KEY, hint=hint)
            if not separator or key in values:
                what = "is given twice" if separator else "has no value"
                raise UsageError(f"transcript:{rest}: {key} {what}", expected=f"{key}=VALUE once, {_ALLOWED}")
            values[key] = _offset(rest, text)
        return cls(kind, address, **values)

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Of a TCP address."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)


def _target(rest: str, target: str) -> tuple[Kind, str]:
    if not target:
        raise UsageError(f"transcript:{rest}: no path", expected=_EXAMPLE)
    if target == "-":
        return "stdin", "-"
    if target.startswith("unix:"):
        if target == "unix:":
            raise UsageError(f"transcript:{rest}: no path", expected="transcript:unix:/run/asr.sock")
        return "unix", target.removeprefix("unix:")
    if target.startswith("tcp:") or "://" in target:
        match = re.fullmatch(r"tcp://((?:\[[0-9A-Fa-f:.]+\]|[^\[\]:/]+):([0-9]{1,5}))/?", target)
        if match is None or not 1 <= int(match[2]) <= 65_535:
            raise UsageError(
                f"transcript:{rest}: no address of a socket",
                expected="transcript:tcp://HOST:PORT, PORT from 1 to 65535",
                hint="e.g. transcript:tcp://127.0.0.1:2700",
            )
        return "tcp", match[1]
    return "file", target


def _offset(rest: str, text: str) -> Fraction:
    is_number = re.fullmatch(r"[-+]?[0-9]{1,9}(\.[0-9]{1,9})?", text)
    if not is_number or abs(Fraction(text)) > _MAX_OFFSET_S:
        raise UsageError(f"transcript:{rest}: cannot use {_KEY}={text}", expected=f"{_KEY} = {_ALLOWED}")
    return Fraction(text)


# --- many lines -------------------------------------------------------------------------------------


class _Lines:
    """Cuts bytes into lines; of one that is too long it keeps just enough to be refused."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, block: bytes) -> list[bytes]:
        """The lines that these bytes complete."""
        *ends, rest = block.split(b"\n")
        lines = []
        for end in ends:
            self._hold(end)
            lines.append(self._taken())
        self._hold(rest)
        return lines

    def rest(self) -> list[bytes]:
        """The last line, where no newline ends it."""
        return [self._taken()] if self._held else []

    def _hold(self, piece: bytes) -> None:
        # one byte for a carriage return, one to be too long
        self._held += piece[: MAX_LINE_BYTES + 2 - len(self._held)]

    def _taken(self) -> bytes:
        line = bytes(self._held)
        self._held.clear()
        return line


class _Reader:
    """Lines as utterances on the session's time, counted."""

    def __init__(self, name: str, offset_s: Fraction, counts: TranscriptCounts) -> None:
        self._name = name
        self._offset_ns = round(offset_s * NS_PER_S)
        self._counts = counts
        self._n_lines = 0
        self._last_ns = 0

    def take(self, line: bytes, now_ns: int | None = None) -> Utterance | None:
        """The words of the next line; None where there are none.

        Args:
            line: Its bytes.
            now_ns: How long the session runs; None for a recording.

        Raises:
            DataError: The line cannot be used.
        """
        self._n_lines += 1
        if not line.strip():
            return None
        where = f"{self._name}, line {self._n_lines}"
        words = parse_line(line, where)
        if not words:
            self._counts.n_partial += words is None
            self._counts.n_empty += words is not None
            return None
        kept = self._on_session_time(words)
        if not kept:
            return None
        end_ns = _end_ns(kept)
        self._refuse_odd_end(end_ns, now_ns, where)
        self._last_ns = end_ns
        self._counts.n_utterances += 1
        return kept

    def _on_session_time(self, words: Utterance) -> Utterance:
        moved = (Word(text, start + self._offset_ns, end + self._offset_ns) for text, start, end in words)
        kept = tuple(word for word in moved if word.start_ns >= 0)
        self._counts.n_words_before += len(words) - len(kept)
        return kept

    def _refuse_odd_end(self, end_ns: int, now_ns: int | None, where: str) -> None:
        if end_ns < self._last_ns:
            raise DataError(
                f"{where}: out of order",
                expected=f"an end at {self._last_ns / NS_PER_S:.3f} s or later, that of the utterance before",
                found=f"{end_ns / NS_PER_S:.3f} s",
                hint="write utterances in the order in which they end",
            )
        if now_ns is not None and end_ns > now_ns + MAX_AHEAD_S * NS_PER_S:
            raise DataError(
                f"{where}: said in the future",
                expected=f"times from the session's start, which was {now_ns / NS_PER_S:.3f} s ago",
                found=f"a word that ends at {end_ns / NS_PER_S:.3f} s",
                hint=f"shift the engine's zero with {_KEY}; play what is recorded from a file",
            )


def _end_ns(words: Utterance) -> int:
    return max(word.end_ns for word in words)


# --- live streams -----------------------------------------------------------------------------------


class _Live:
    """What is read from a pipe or socket while it comes; a bad line is said once, and never stops it."""

    def __init__(
        self,
        uri: str,
        stream: BinaryIO | socket.socket,
        reader: _Reader,
        counts: TranscriptCounts,
        clock: Clock,
    ) -> None:
        self._uri = uri
        self._fd = stream.fileno()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._reader = reader
        self._counts = counts
        self._clock = clock
        self._lines = _Lines()
        self._held: deque[Utterance] = deque()
        self._n_held_words = 0
        self._is_at_end = False
        self.zero_ns = clock.now_ns()

    @property
    def ended(self) -> bool:
        """The other side has closed, and all was read."""
        return self._is_at_end and not self._held

    def read(self, timeout_ms: int) -> Utterance | None:
        """The oldest utterance that waits, or the next one that comes in time."""
        until_ns = self._clock.now_ns() + timeout_ms * (NS_PER_S // 1000)
        came = self._fetch(0 if self._held else timeout_ms)
        while came and not self._held:
            left_ms = (until_ns - self._clock.now_ns()) // (NS_PER_S // 1000)
            came = left_ms > 0 and self._fetch(left_ms)
        if not self._held:
            return None
        words = self._held.popleft()
        self._n_held_words -= len(words)
        return words

    def _fetch(self, timeout_ms: int) -> bool:
        """Take in one block; False where none came."""
        if self._is_at_end or not self._poll.poll(max(0, timeout_ms)):
            return False
        try:
            block = os.read(self._fd, _BLOCK_BYTES)
        except BlockingIOError:  # a socket with a timeout never blocks, and may have spoken too soon
            return False
        except OSError as error:
            _log.warning("%s: cut off: %s. What came before is used.", self._uri, error.strerror)
            block = b""
        self._is_at_end = not block
        for line in self._lines.feed(block) if block else self._lines.rest():
            self._take(line)
        return True

    def _take(self, line: bytes) -> None:
        try:
            words = self._reader.take(line, self._clock.now_ns() - self.zero_ns)
        except DataError as error:
            self._counts.n_bad += 1
            if self._counts.n_bad == 1:
                _log.warning("%s This line is skipped, and such lines after it without a word.", error)
            return
        if words is not None:
            self._hold(words)

    def _hold(self, words: Utterance) -> None:
        self._held.append(words)
        self._n_held_words += len(words)
        while self._n_held_words > MAX_HELD_WORDS and len(self._held) > 1:
            self._n_held_words -= len(self._held.popleft())
            self._counts.n_dropped += 1
            if self._counts.n_dropped == 1:
                _log.warning(
                    "%s: utterances come faster than they are read; the oldest are dropped.", self._uri
                )


def _open_stdin() -> BinaryIO:
    if getattr(sys.stdin, "closed", sys.stdin is None):  # Python has none where the shell closed it
        raise _no_stdin("it is closed")
    try:
        return os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)
    except (AttributeError, OSError, ValueError) as error:  # it was replaced by something without a number
        raise _no_stdin(getattr(error, "strerror", None) or "it is no file, pipe or terminal") from error


def _no_stdin(found: str) -> DataError:
    return DataError("standard input cannot be read", found=found, hint="pipe the engine into edge-mer")


def _connect(settings: TranscriptSettings) -> socket.socket:
    try:
        if settings.kind == "tcp":
            return socket.create_connection(settings.host_and_port, CONNECT_TIMEOUT_S)
        return _connect_unix(expand(settings.address))
    except (OSError, ValueError) as error:  # ValueError: no name of a host, or a null character
        raise DataError(
            f"cannot connect to the {settings.kind} socket {settings.address!r}",
            found=str(getattr(error, "strerror", None) or error),
            hint="start the engine first, and check that it listens there",
        ) from error


def _connect_unix(path: Path) -> socket.socket:
    with contextlib.ExitStack() as on_failure:
        connected = socket.socket(socket.AF_UNIX)
        on_failure.callback(connected.close)
        connected.settimeout(CONNECT_TIMEOUT_S)
        connected.connect(str(path))
        on_failure.pop_all()
    return connected


# --- the source -------------------------------------------------------------------------------------


class TranscriptSource:
    """Words that a speech recogniser found: stream "NAME/text", one chunk (n_words, 3) str per utterance.

    Rows are word, start and end, the latter as decimal nanoseconds from the session's start. A chunk is
    stamped with the end of its last word. `offset_s` is added to the engine's times; words that then begin
    before the session are left out and counted. Utterances come in the order in which they end, while a
    word may start before the utterance before it has ended.

    A file is checked whole before it is played; an empty one is a recording without words. Standard input and
    sockets are live: their times are seconds from `start`, as the engine counts them. There a bad line is
    counted, told once as a warning of the logger `edge_mer.sources.transcript`, and skipped; of more than
    `MAX_HELD_WORDS` words that wait, the oldest utterances are dropped and counted. The stream ends when the
    other side closes.

    Args:
        rest: The URI after `transcript:`: PATH, "-", "unix:PATH" or "tcp://HOST:PORT", and "?offset_s=0.2".
        clock: Stamps live streams; by default the host's monotonic clock.

    Raises:
        UsageError: As `TranscriptSettings.parse`.
    """

    def __init__(self, rest: str, clock: Clock | None = None) -> None:
        self._rest = rest
        self._settings = TranscriptSettings.parse(rest)
        self._clock = clock or MonotonicClock()
        self._counts = TranscriptCounts()
        self._input: BinaryIO | socket.socket | None = None
        self._spec: StreamSpec | None = None
        self._recorded: Iterator[Utterance] = iter(())
        self._live: _Live | None = None
        self._seq = 0
        self._started = self._ended = False

    @property
    def uri(self) -> str:
        """The URI that opens this source again."""
        return f"transcript:{self._rest}"

    @property
    def path(self) -> Path | None:
        """The file that is read; None for standard input and sockets."""
        return expand(self._settings.address) if self._settings.kind == "file" else None

    @property
    def settings(self) -> TranscriptSettings:
        """What the URI asks for."""
        return self._settings

    @property
    def is_live(self) -> bool:
        """True for all but a file."""
        return self._settings.kind != "file"

    @property
    def specs(self) -> tuple[StreamSpec, ...]:
        """The one stream; valid after `ensure_ready`."""
        return () if self._spec is None else (self._spec,)

    @property
    def counts(self) -> TranscriptCounts:
        """What became of the lines that were read since `ensure_ready`."""
        return self._counts

    @property
    def ended(self) -> bool:
        """True once `read` has found the end, or the source was stopped."""
        return self._ended

    def ensure_ready(self) -> None:
        """Open and check the file, or connect.

        Raises:
            DataError: No such file, a line that cannot be used, or nobody to connect to.
        """
        if self._input is not None:
            return
        if self._settings.kind == "file":
            self._input = self._open_file()
        else:
            self._input = _open_stdin() if self._settings.kind == "stdin" else _connect(self._settings)
            self._counts = TranscriptCounts()
        self._spec = self._described()
        self._seq, self._ended = 0, False

    def start(self) -> None:
        """Begin to deliver; the zero of a live stream.

        Raises:
            DataError: As `ensure_ready`.
        """
        self.ensure_ready()
        if self.is_live and not self._started and self._input is not None:
            reader = _Reader(self.uri, self._settings.offset_s, self._counts)
            self._live = _Live(self.uri, self._input, reader, self._counts, self._clock)
        self._started = True

    def read(self, timeout_ms: int) -> Chunk | None:
        """The next utterance; None at the end, or where no live one came within `timeout_ms`.

        Raises:
            DataError: A file that was changed or cannot be read on; the message has the line.
            RuntimeError: Not started.
        """
        if not self._started:
            raise RuntimeError(f"{self.uri} must be started before it is read")
        if self._live is None:
            words = next(self._recorded, None)
            self._ended = words is None
            return None if words is None else self._chunk(words, 0)
        words = self._live.read(timeout_ms)
        self._ended = self._live.ended
        return None if words is None else self._chunk(words, self._live.zero_ns)

    def ensure_stopped(self) -> None:
        """Close the file or the connection; harmless when there is none."""
        if self._input is not None:
            self._input.close()
        self._input, self._live = None, None
        self._recorded = iter(())
        self._started, self._ended = False, True

    def _open_file(self) -> BinaryIO:
        path = expand(self._settings.address)
        _refuse_pipe(path)
        with contextlib.ExitStack() as on_failure:
            file = open_regular(path, _KIND_OF_FILE, may_be_empty=True)
            on_failure.callback(file.close)
            for _ in self._utterances(file, path):
                pass
            self._recorded = self._utterances(file, path)
            on_failure.pop_all()
        return file

    def _utterances(self, file: BinaryIO, path: Path) -> Iterator[Utterance]:
        self._counts = TranscriptCounts()
        reader = _Reader(shown(path), self._settings.offset_s, self._counts)
        for line in _file_lines(file, path):
            words = reader.take(line)
            if words is not None:
                yield words

    def _described(self) -> StreamSpec:
        kind, address = self._settings.kind, self._settings.address
        return StreamSpec(
            name=f"{'stdin' if kind == 'stdin' else address if kind == 'tcp' else Path(address).name}/text",
            modality="text",
            axes=("word", "field"),
            shape=(None, 3),
            dtype="str",
            rate_hz=None,
            unit="word",
            channels=("word", "start_ns", "end_ns"),
        )

    def _chunk(self, words: Utterance, zero_ns: int) -> Chunk:
        data = np.array([(text, str(start_ns), str(end_ns)) for text, start_ns, end_ns in words])
        (spec,) = self.specs
        basis: TimeBasis = "remote" if self.is_live else "driver"
        chunk = Chunk(spec.name, "text", self._seq, zero_ns + _end_ns(words), data, basis)
        self._seq += 1
        return chunk


def _file_lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The lines of a file from its start."""
    lines = _Lines()
    try:
        file.seek(0)
        while block := file.read(_BLOCK_BYTES):
            yield from lines.feed(block)
    except OSError as error:
        raise DataError(
            f"{shown(path)} cannot be read on", found=str(error.strerror), hint="check the disk"
        ) from error
    yield from lines.rest()


def _refuse_pipe(path: Path) -> None:
    """What is live and named by its path is asked for in another way."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return  # said when it is opened
    ways = {stat.S_IFIFO: f"transcript:- < {path}", stat.S_IFSOCK: f"transcript:unix:{path}"}
    if (way := ways.get(stat.S_IFMT(mode))) is not None:
        kind = "named pipe" if stat.S_ISFIFO(mode) else "socket"
        raise DataError(
            f"{shown(path)} is not a file",
            expected=f"a {_KIND_OF_FILE}",
            found=f"a {kind}",
            hint=f"write {way}",
        )
