"""The host, port and path of a sink's URI, and what proves who is there: TLS, and secrets from files."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from edge_mer.errors import UsageError
from edge_mer.types import uri_keys
from edge_mer.types.uri_keys import Key, read_query

CONNECT_S = 5.0
"""So long is waited for another machine."""

TLS_KEYS = {
    "ca_file": uri_keys.text("a file with the certificates to trust"),
    "certificate": uri_keys.text("a file with this side's certificate"),
    "key": uri_keys.text("a file with this side's private key"),
}

_MAX_SECRET_BYTES = 16384


class _ClosedWhenRefused(ssl.SSLSocket):
    """A connection that does not stay open when the other side is not who it should be."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


@dataclass(frozen=True)
class WebAddress:
    """Where a sink sends to.

    Attributes:
        shown: The URI without its keys, for messages.
        host: A name or an address.
        port: 1 to 65535.
        path: What follows the host, without slashes around it.
        values: The keys.
    """

    shown: str
    host: str
    port: int
    path: str
    values: Mapping[str, Any]

    @classmethod
    def parse(
        cls, scheme: str, rest: str, keys: Mapping[str, Key], default_port: int, example: str
    ) -> WebAddress:
        """Read "//host:port/path?key=value".

        Args:
            scheme: The URI's.
            rest: What follows its colon.
            keys: The keys there are.
            default_port: Where it names none.
            example: A URI to show when this one is wrong.

        Raises:
            UsageError: No host, a secret in it, or a wrong key. No message repeats a secret.
        """
        parts, port = _split(scheme, rest, example)
        if "@" in parts.netloc:
            raise UsageError(
                f"{scheme}://…@{parts.hostname or ''}: a name or password stands in the URI",
                expected=example,
                hint="secrets belong in files, which a key names: others can read a command line",
            )
        if not rest.startswith("//") or not parts.hostname or parts.fragment:
            raise UsageError(f"{scheme}:{parts.netloc}{parts.path} names no host", expected=example)
        shown = f"{scheme}://{parts.netloc}{parts.path}"
        values = read_query(shown, parts.query, keys, example)
        return cls(shown, parts.hostname, port or default_port, unquote(parts.path).strip("/"), values)

    @property
    def is_loopback(self) -> bool:
        """Whether nothing leaves this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def tls(self) -> ssl.SSLContext:
        """Verifies who is there, by the system's certificates or by those of `ca_file`.

        Raises:
            UsageError: A file that cannot be read, or holds something else.
        """
        values = self.values
        if "key" in values and "certificate" not in values:
            raise UsageError(f"{self.shown}: key= needs certificate=")
        with self._using("ca_file"):
            context = ssl.create_default_context(cafile=values.get("ca_file"))
        context.sslsocket_class = _ClosedWhenRefused
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if "certificate" in values:
            with self._using("certificate"):
                # a key that asks for a password is refused, instead of asking whoever sits at the terminal
                context.load_cert_chain(values["certificate"], values.get("key"), lambda: "")
        return context

    @contextlib.contextmanager
    def _using(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # an ssl.SSLError is one, too
            found = getattr(error, "reason", None) or error.strerror or "neither certificate nor key"
            raise UsageError(f"{self.shown}: cannot use {key}={self.values.get(key)}", found=found) from error

    def secret(self, key: str) -> str | None:
        """What the file of this key holds, without the end of its line; None where the key is not given.

        Raises:
            UsageError: A file that cannot be read, is empty or far too long.
        """
        if key not in self.values:
            return None
        path = Path(self.values[key]).expanduser()
        try:
            with path.open("rb") as file:
                text = file.read(_MAX_SECRET_BYTES + 1).decode().rstrip("\r\n")
        except (OSError, ValueError) as error:
            found = getattr(error, "strerror", None) or "no text"
            raise UsageError(f"{self.shown}: cannot read {key}={path}", found=found) from error
        if not text or len(text) > _MAX_SECRET_BYTES or not text.isprintable():
            raise UsageError(f"{self.shown}: {key}={path} holds no secret", expected="one line of text")
        return text


def _split(scheme: str, rest: str, example: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(f"{scheme}:{rest}")
        return parts, parts.port
    except ValueError as error:
        raise UsageError(f"{scheme}: cannot read the host and port", expected=example) from error
