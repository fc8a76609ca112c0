"""The end of the link where predictions go."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
from pathlib import Path
from types import TracebackType

from edge_mer.clock import NS_PER_S, MonotonicClock
from edge_mer.errors import LostError, MissingError
from edge_mer.link.messages import Ask, LinkedError, Message, line_of, message_of

_READ_BYTES = 65536
_REPLY_S = 10.0
NS_PER_MS = NS_PER_S // 1000


class LinkClient:
    """A connection to the process that infers. One thread reads from it; any thread may ask.

    Args:
        path: The socket's.

    Raises:
        MissingError: Nobody listens there.
    """

    def __init__(self, path: Path) -> None:
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connection.connect(str(path))
        except OSError as error:
            self._connection.close()
            raise MissingError(
                f"no edge-mer daemon answers at {path}",
                found=error.strerror or str(error),
                hint="start it: edge-mer daemon --config edge-mer.toml",
            ) from error
        self._clock = MonotonicClock()
        self._poll = select.poll()
        self._poll.register(self._connection, select.POLLIN)
        self._read = bytearray()
        self._numbers = itertools.count(1)

    def receive(self, timeout_s: float) -> Message | None:
        """The next message, or None when none came in time.

        Raises:
            LostError: The other process is gone.
            DataError: It sent something else than messages.
        """
        until_ns = self._clock.now_ns() + round(timeout_s * NS_PER_S)
        while (end := self._read.find(b"\n")) < 0:
            try:
                if not self._poll.poll(max(0, until_ns - self._clock.now_ns()) // NS_PER_MS):
                    return None
                data = self._connection.recv(_READ_BYTES)
            except OSError:  # closed by another thread, too
                data = b""
            if not data:
                raise LostError("the daemon hung up", hint="it is restarting, or was stopped: ask again")
            self._read += data
        line = bytes(self._read[:end])
        del self._read[: end + 1]
        return message_of(line)

    def send(self, what: str, who: str = "", fd: int | None = None, **arguments: object) -> int:
        """Ask for something, without waiting for the reply.

        Args:
            what: See `Ask`.
            who: On whose behalf.
            fd: An open file that goes along.
            arguments: Of the ask.

        Returns:
            The number that the reply's "to" will have.

        Raises:
            LostError: The other process is gone.
        """
        ask = Ask(next(self._numbers), what, who, arguments)
        line = line_of(ask.to_message())
        try:
            n = socket.send_fds(self._connection, [line], [] if fd is None else [fd])
            self._connection.sendall(line[n:])
        except OSError as error:
            raise LostError("the daemon hung up", found=error.strerror) from error
        return ask.id

    def ask(self, what: str, who: str = "", fd: int | None = None, **arguments: object) -> Message:
        """Ask for something, and wait for the reply; other messages are passed over.

        Raises:
            LinkedError: The daemon refused.
            LostError: It is gone, or does not answer.
        """
        number = self.send(what, who, fd, **arguments)
        until_ns = self._clock.now_ns() + round(_REPLY_S * NS_PER_S)
        while (left_ns := until_ns - self._clock.now_ns()) > 0:
            message = self.receive(left_ns / NS_PER_S)
            if message is None or message["kind"] != "reply" or message.get("to") != number:
                continue
            if (error := message.get("error")) is not None:
                raise LinkedError(error)
            result: Message = message["result"]
            return result
        raise LostError(f"the daemon does not answer {what} within {_REPLY_S:.0f} s")

    def close(self) -> None:
        """Hang up; any thread may, and whoever receives is told that the daemon hung up."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def __enter__(self) -> LinkClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
