"""Connections that are counted, and cut off when the other end keeps them waiting.

uvicorn speaks HTTP and WebSocket; what it leaves open is bounded here: how many connections there are, heads
that never end, bodies that nobody reads, and clients that do not take what they asked for.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from edge_mer.clock import NS_PER_S, Clock
from edge_mer.gateway.errors import error_body
from edge_mer.gateway.limits import KIB, Limits, peer_of

_PAUSE_AT_BYTES = 16 * KIB
_LINGER_S = 1.0
_UCRED = struct.Struct("3i")

_log = logging.getLogger(__name__)


class Connection(asyncio.Transport):
    """A transport that knows how much was taken at its other end.

    Args:
        transport: The real one.
        http: What is spoken over it at first.
        limits: What may wait for the other end.
        now_ns: When it was opened.

    Attributes:
        peer: Whom it counts for.
    """

    def __init__(self, transport: asyncio.Transport, http: GuardedHttp, limits: Limits, now_ns: int) -> None:
        super().__init__()
        self._http: GuardedHttp | None = http
        self._transport, self._limits = transport, limits
        self._n_written = self._n_taken = 0
        self._taken_ns = self._heard_ns = now_ns
        self._is_lingering = False
        self.peer = _peer(transport)
        transport.set_write_buffer_limits(high=_PAUSE_AT_BYTES)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.kernel_bytes)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send; a client for which too much waits already is cut off."""
        if self._is_lingering:
            return
        if self._n_unsent() > self._limits.unsent_bytes:
            self._transport.abort()
            return
        self._n_written += len(data)
        self._transport.write(data)

    def _n_unsent(self) -> int:
        try:
            return self._transport.get_write_buffer_size()
        except AttributeError:  # TLS of Python 3.10, once it is closed
            return 0

    def is_overdue(self, now_ns: int, protocol: GuardedHttp | GuardedWebSocket) -> bool:
        """The other end has kept this one waiting for too long."""
        n_unsent = self._n_unsent()
        n_taken = self._n_written - n_unsent
        if n_unsent == 0 or n_taken != self._n_taken:
            self._n_taken, self._taken_ns = n_taken, now_ns
        if not protocol.waits_for_request():
            self._heard_ns = now_ns
        is_stuck = now_ns - self._taken_ns > self._limits.stuck_s * NS_PER_S
        return is_stuck or now_ns - self._heard_ns > self._limits.head_s * NS_PER_S

    def close(self) -> None:
        """Close once everything was sent."""
        is_still_told = self._http is not None and self._http.is_still_told()
        if is_still_told and not self.is_closing():
            self._linger()
        elif not self._is_lingering:
            self._transport.close()

    def _linger(self) -> None:
        """Leave time to read the answer: who is cut off while he sends may never see it."""
        self._is_lingering = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._transport.resume_reading()
        asyncio.get_running_loop().call_later(_LINGER_S, self._transport.close)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """It is, or was closed."""
        return self._is_lingering or self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """The real transport's."""
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Something else than HTTP is spoken from now on."""
        self._http = None
        self._transport.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The real transport's."""
        return self._transport.get_protocol()

    def pause_reading(self) -> None:
        """The real transport's."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """The real transport's."""
        self._transport.resume_reading()


class Doors:
    """All connections.

    Args:
        limits: How many there may be, and how long each may wait.
        clock: What time it is.

    Attributes:
        n_refused: Connections that were one too many.
        n_cut: Those that were cut off.
    """

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self.limits, self._clock = limits, clock
        self._open: dict[Connection, GuardedHttp | GuardedWebSocket] = {}
        self.n_refused = self.n_cut = 0

    def __len__(self) -> int:
        return len(self._open)

    def connection(self, transport: asyncio.Transport, http: GuardedHttp) -> Connection:
        """A transport that was just opened, bounded."""
        return Connection(transport, http, self.limits, self._clock.now_ns())

    def admit(self, connection: Connection, protocol: GuardedHttp | GuardedWebSocket) -> bool:
        """Count a connection, or note who speaks over it now; False when it is one too many."""
        if connection not in self._open:
            n_of_peer = sum(other.peer == connection.peer for other in self._open)
            if (
                len(self._open) >= self.limits.n_connections
                or n_of_peer >= self.limits.n_connections_per_peer
            ):
                self.n_refused += 1
                return False
        self._open[connection] = protocol
        return True

    def leave(self, connection: Connection) -> None:
        """It was closed."""
        self._open.pop(connection, None)

    def sweep(self) -> None:
        """Cut off whoever keeps this end waiting for too long."""
        now_ns = self._clock.now_ns()
        for connection, protocol in tuple(self._open.items()):
            if connection.is_overdue(now_ns, protocol):
                self.n_cut += 1
                connection.abort()

    def cut_all(self) -> None:
        """Close every connection at once."""
        for connection in tuple(self._open):
            connection.abort()


class GuardedConfig(uvicorn.Config):
    """uvicorn's settings, with the doors through which its connections go.

    Args:
        app: The application.
        doors: Of all listeners.
    """

    def __init__(self, app: Any, doors: Doors) -> None:
        super().__init__(
            app,
            http=GuardedHttp,
            ws=GuardedWebSocket,
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=doors.limits.head_bytes,
            ws_max_size=4 * KIB,
            ws_per_message_deflate=False,
        )
        self.doors = doors


class GuardedHttp(H11Protocol):
    """HTTP over a counted connection."""

    config: GuardedConfig
    transport: Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count it, and send it away when it is one too many."""
        connection = self.config.doors.connection(transport, self)
        super().connection_made(connection)
        if not self.config.doors.admit(connection, self):
            self._refuse(503, "too many connections", "close some, and try again")

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no more."""
        self.config.doors.leave(self.transport)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a request, or pass over the rest of one that was refused."""
        if not self.transport.is_closing():
            super().data_received(data)

    def is_still_told(self) -> bool:
        """The other end has not said everything, or says what cannot be understood."""
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    def waits_for_request(self) -> bool:
        """The head has not come, or the rest of a body that nobody reads any more."""
        theirs = self.conn.their_state
        is_answered = self.cycle is not None and self.cycle.response_complete
        return theirs is h11.IDLE or (theirs is h11.SEND_BODY and is_answered)

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong in the one shape of errors, where an answer can still be given."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(400, "this is no HTTP/1.1 request", "see the gateway's /openapi.json")
        else:
            self.transport.abort()

    def _refuse(self, status: int, what: str, hint: str) -> None:
        body = json.dumps(error_body(what, hint=hint)).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        answer = h11.Response(status_code=status, headers=[*headers, ("connection", "close")])
        events = (answer, h11.Data(data=body), h11.EndOfMessage())
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()


class GuardedWebSocket(WebSocketsSansIOProtocol):
    """WebSocket over a counted connection."""

    config: GuardedConfig
    transport: Connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over from HTTP."""
        if not isinstance(transport, Connection):
            raise TypeError("a WebSocket begins as HTTP")
        super().connection_made(transport)
        self.config.doors.admit(transport, self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no more."""
        self.config.doors.leave(self.transport)
        super().connection_lost(exc)

    async def send(self, message: Any) -> None:
        """Send; a refusal that was told is an end of the handshake, too."""
        await super().send(message)
        self.handshake_complete |= self.close_sent

    def waits_for_request(self) -> bool:
        """Never: nothing is expected of a client; uvicorn pings it."""
        return False


def _peer(transport: asyncio.Transport) -> str:
    name = transport.get_extra_info("peername")
    raw = transport.get_extra_info("socket")
    if isinstance(name, tuple):
        return peer_of(name[0])
    if raw is None or raw.family != socket.AF_UNIX:
        return "unix"
    _, uid, _ = _UCRED.unpack(raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return f"uid:{uid}"
