"""Where the gateway listens; `edge_mer.config` sees to it that others reach it behind TLS and tokens only."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from pathlib import Path

from edge_mer.clock import NS_PER_S, Clock
from edge_mer.config import UNIX, host_and_port
from edge_mer.errors import UsageError

PATIENCE_S = 5.0
"""So long a place is waited for that something else holds: a gateway that is ending, most likely."""

_AGAIN_S = 0.1
_BACKLOG = 128
_UNIX_MASK = 0o117  # its owner and his group may use it


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 and newer, with the gateway's certificate.

    Raises:
        UsageError: The files are no certificate and its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot use the certificate {certificate} with the key {key}",
            expected="PEM files that belong together, the key without a password",
            found=str(error),
        ) from error
    return context


def listen(place: str, clock: Clock, patience_s: float = PATIENCE_S) -> socket.socket:
    """A socket that listens at a place of the configuration.

    Raises:
        UsageError: It cannot be had.
    """
    until_ns = clock.now_ns() + round(patience_s * NS_PER_S)
    while True:
        try:
            return _listening(place)
        except OSError as error:
            is_taken = error.errno == errno.EADDRINUSE
            if not is_taken or clock.now_ns() >= until_ns:
                raise UsageError(
                    f"cannot listen at {place}",
                    found="something else listens there" if is_taken else error.strerror or str(error),
                    hint="find it: ss -lntxp" if is_taken else "set listen under [http]",
                ) from error
        clock.sleep_until_ns(clock.now_ns() + round(_AGAIN_S * NS_PER_S))


def _listening(place: str) -> socket.socket:
    is_unix = place.startswith(UNIX)
    listener = _unix(Path(place.removeprefix(UNIX))) if is_unix else _tcp(*host_and_port(place))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def _unix(path: Path) -> socket.socket:
    if _is_served(path):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    if path.is_socket():  # of a process that was killed
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(_UNIX_MASK)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
