"""The end of the link where predictions come from: it never waits for whoever reads them."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from edge_mer.errors import DataError, EdgeMerError, UsageError
from edge_mer.link.messages import MAX_LINE_BYTES, Ask, Message, ask_of, line_of, message_of, reply_to

MAX_CLIENTS = 16
MAX_WAITING = 512
"""Lines that wait for a client; then its oldest go, and are counted."""

KEPT = ("hello", "health", "alarms")
"""Kinds of which whoever connects is given the newest."""

_READ_BYTES = 65536

OnAsk = Callable[[Ask, "int | None"], Message]
"""Carries out an ask at once, or begins to; it owns the file descriptor, if one came along."""

_log = logging.getLogger(__name__)


class _Client:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.waiting: deque[bytes] = deque()
        self.part = b""
        self.fds: list[int] = []
        self.read = bytearray()
        self.n_dropped = 0

    def put(self, line: bytes) -> None:
        """Have a line sent; the oldest of too many goes."""
        if len(self.waiting) >= MAX_WAITING:
            self.waiting.popleft()
            self.n_dropped += 1
        self.waiting.append(line)

    def send(self) -> bool:
        """Send what the system takes now; True when that was all."""
        while self.part or self.waiting:
            self.part = self.part or self.waiting.popleft()
            try:
                n = self.connection.send(self.part)
            except BlockingIOError:
                return False
            self.part = self.part[n:]
        return True

    def receive(self) -> list[bytes]:
        """Whole lines that came, and descriptors beside them.

        Raises:
            DataError: The other end is gone, or its line has no end.
        """
        data, fds, _, _ = socket.recv_fds(self.connection, _READ_BYTES, 4)
        self.fds += fds
        if not data:
            raise DataError("the other end is gone")
        self.read += data
        *lines, rest = bytes(self.read).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise DataError("a line of the link has no end")
        self.read = bytearray(rest)
        return lines

    def close(self) -> None:
        """Hang up."""
        self.connection.close()
        for fd in self.fds:
            os.close(fd)


class LinkServer:
    """Gives messages to everybody who is connected, and carries out what they ask; has its own thread.

    Args:
        path: The socket's, in a folder that exists.
        on_ask: Called on the link's thread, so it must not take long.
    """

    def __init__(self, path: Path, on_ask: OnAsk) -> None:
        self._path, self._on_ask = path, on_ask
        self._lock = threading.Lock()
        self._kept: dict[str, bytes] = {}
        self._incoming: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._clients: list[_Client] = []
        self._is_ending = False
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen.

        Raises:
            UsageError: Another daemon listens there, or the place cannot be used.
        """
        self._listener = listener = listening(self._path)
        self._thread = threading.Thread(
            target=self._work, args=(listener,), name="edge-mer link", daemon=True
        )
        self._thread.start()

    def publish(self, message: Message) -> None:
        """Give a message to everybody; any thread may, and never waits."""
        line = line_of(message)
        with self._lock:
            if message["kind"] in KEPT:
                self._kept[message["kind"]] = line
            self._incoming.append(line)
        self._wake()

    def close(self) -> None:
        """Hang up, and take the socket away."""
        self._is_ending = True
        self._wake()
        if self._thread is not None:
            self._thread.join()
        for client in self._clients:
            client.close()
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()
        if self._listener is not None:
            self._listener.close()
            self._path.unlink(missing_ok=True)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # then it has not even noticed the last ones
            self._wake_write.send(b"!")

    # -- its thread ------------------------------------------------------------------------------

    def _work(self, listener: socket.socket) -> None:
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._selector.register(listener, selectors.EVENT_READ)
        while not self._is_ending:
            for key, events in self._selector.select():
                if key.fileobj is self._wake_read:
                    self._wake_read.recv(_READ_BYTES)
                elif key.fileobj is listener:
                    self._welcome(listener)
                elif events & selectors.EVENT_READ:
                    self._hear(key.data)
            with self._lock:
                lines = [self._incoming.popleft() for _ in range(len(self._incoming))]
            for client in tuple(self._clients):
                self._tell(client, lines)

    def _welcome(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # gone again, or no descriptors are left
            return
        if len(self._clients) >= MAX_CLIENTS:
            connection.close()
            return
        connection.setblocking(False)
        client = _Client(connection)
        self._clients.append(client)
        self._selector.register(connection, selectors.EVENT_READ, client)
        with self._lock:
            for kind in KEPT:
                if kind in self._kept:
                    client.put(self._kept[kind])

    def _hear(self, client: _Client) -> None:
        try:
            for line in client.receive():
                self._answer(client, line)
        except (DataError, OSError) as error:
            _log.debug("link: a client is left: %s", error)
            self._leave(client)

    def _answer(self, client: _Client, line: bytes) -> None:
        ask = ask_of(message_of(line))
        fd = client.fds.pop(0) if client.fds and ask.what == "swap" else None
        try:
            result: Message | EdgeMerError = self._on_ask(ask, fd)
        except EdgeMerError as error:
            result = error
        client.put(line_of(reply_to(ask.id, result)))

    def _tell(self, client: _Client, lines: list[bytes]) -> None:
        for line in lines:
            client.put(line)
        try:
            is_all_sent = client.send()
        except OSError:
            self._leave(client)
            return
        wanted = selectors.EVENT_READ | (0 if is_all_sent else selectors.EVENT_WRITE)
        self._selector.modify(client.connection, wanted, client)

    def _leave(self, client: _Client) -> None:
        self._clients.remove(client)
        self._selector.unregister(client.connection)
        client.close()


def listening(path: Path) -> socket.socket:
    """A socket that listens at a path, which its owner and his group may use.

    Raises:
        UsageError: Somebody listens there already, or the place cannot be used.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _refuse_if_served(path)
        path.unlink(missing_ok=True)  # of a process that was killed
        before = os.umask(0o117)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(MAX_CLIENTS)
        listener.setblocking(False)
    except (OSError, UsageError) as error:
        listener.close()
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"cannot listen at {path}",
            expected="a folder that exists and may be written to, and a path of at most 107 bytes",
            found=str(error),
            hint="set run_dir",
        ) from error
    return listener


def _refuse_if_served(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise UsageError(
        f"another edge-mer daemon listens at {path}",
        hint="stop it (systemctl stop edge-mer), or set another run_dir",
    )
