"""Clients of the gateway that hang: they say nothing, end no request, or never read what they asked for."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator

_LIMIT_S = 20.0
_LOOK_S = 0.25
_N_ADDRESSES = 8
"""One may have so many connections only; on a loopback every address of 127.0.0.0/8 is ours."""

_BEGUN = b"GET /v1/model HTTP/1.1\r\nHost: localhost\r\nX: "
_LISTENS = b"GET /v1/predictions HTTP/1.1\r\nHost: localhost\r\n\r\n"


def hanging(port: int, request: bytes, source: str = "127.0.0.1") -> socket.socket:
    """A connection over which something was said, and of which little is taken."""
    connection = socket.socket()
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(_LIMIT_S)
        connection.bind((source, 0))
        connection.connect(("127.0.0.1", port))
        connection.sendall(request)
    except OSError:
        connection.close()
        raise
    return connection


def deaf(port: int, source: str = "127.0.0.1") -> socket.socket:
    """A client that listens to predictions and never reads one."""
    return hanging(port, _LISTENS, source)


@contextlib.contextmanager
def slow_clients(port: int, n: int) -> Iterator[None]:
    """So many hanging clients of three kinds meanwhile; whoever is cut off comes again."""
    sources, requests = itertools.count(), (b"", _BEGUN, _LISTENS)

    def begin(request: bytes) -> socket.socket:
        return hanging(port, request, f"127.0.0.{2 + next(sources) % _N_ADDRESSES}")

    clients = [
        (request, begin(request)) for request, _ in zip(itertools.cycle(requests), range(n), strict=False)
    ]
    is_over = threading.Event()

    def go_on() -> None:
        while not is_over.wait(_LOOK_S):
            for index, (request, client) in enumerate(clients):
                if request != _LISTENS and _was_cut(client):
                    client.close()
                    clients[index] = (request, begin(request))

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        for _, client in clients:
            client.close()


def _was_cut(client: socket.socket) -> bool:
    try:
        return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
