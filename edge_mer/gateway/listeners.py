"""Where the gateway listens: loopback and unix sockets as they are, everything else behind TLS and tokens."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_mer.clock import NS_PER_S, Clock
from edge_mer.errors import EdgeMerError, UsageError

_BACKLOG = 128
_PATIENCE_S = 5.0
_AGAIN_S = 0.1
_UNIX_MODE = 0o660


@dataclass(frozen=True)
class Address:
    """One `listen` of the configuration.

    Attributes:
        text: As it was written.
        host: An address; "" for a unix socket.
        port: Of it.
        path: Of a unix socket.
    """

    text: str
    host: str = ""
    port: int = 0
    path: Path | None = None

    @property
    def is_local(self) -> bool:
        """Only this machine's users can reach it."""
        return self.path is not None or ipaddress.ip_address(self.host).is_loopback


def read_address(text: str) -> Address:
    """`127.0.0.1:8080`, `[::1]:8080`, `localhost:8080` or `unix:/path`.

    Raises:
        UsageError: It is none of them.
    """
    if text.startswith("unix:/"):
        return Address(text, path=Path(text.removeprefix("unix:")))
    host, _, port = text.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
        number = int(port)
        if not 0 <= number < 1 << 16:
            raise ValueError(port)
    except ValueError as error:
        raise UsageError(
            f"cannot listen at {text!r}",
            expected="an address and a port such as 127.0.0.1:8080 or [::1]:8080, or unix:/path",
        ) from error
    return Address(text, host, number)


def check_addresses(addresses: Sequence[Address], *, has_tls: bool, has_tokens: bool) -> None:
    """Let nobody listen to the world in plain text, or without tokens.

    Raises:
        UsageError: An address that others can reach lacks one of them.
    """
    for address in addresses:
        lacking = [name for name, is_there in (("certificate and key", has_tls), ("tokens", has_tokens)) if not is_there]
        if not address.is_local and lacking:
            raise UsageError(
                f"{address.text} can be reached from other machines, and the configuration has no "
                f"{' and no '.join(lacking)}",
                hint="add them under [http], or listen at 127.0.0.1:8080",
            )


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


def listen(address: Address, clock: Clock, patience_s: float = _PATIENCE_S) -> socket.socket:
    """A socket that listens; one that is still held by a gateway that is ending is waited for.

    Raises:
        UsageError: It cannot be had.
    """
    until_ns = clock.now_ns() + round(patience_s * NS_PER_S)
    while True:
        try:
            return _bound(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or clock.now_ns() >= until_ns:
                raise _cannot(address, error) from error
        clock.sleep_until_ns(clock.now_ns() + round(_AGAIN_S * NS_PER_S))


def _cannot(address: Address, error: OSError) -> EdgeMerError:
    in_use = error.errno == errno.EADDRINUSE
    return UsageError(
        f"cannot listen at {address.text}",
        found="something else listens there" if in_use else error.strerror or str(error),
        hint="find it with: ss -ltnxp" if in_use else "listen at another address under [http]",
    )


def _bound(address: Address) -> socket.socket:
    if address.path is not None:
        return _bound_unix(address.path)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address.host, address.port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _bound_unix(path: Path) -> socket.socket:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        with contextlib.suppress(OSError):
            probe.connect(str(path))
            raise_in_use = True
        if "raise_in_use" in locals():
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    if path.is_socket():  # of a process that was killed
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~_UNIX_MODE)
    try:
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener
