"""Whether the gateway can carry out a configuration, said without listening anywhere or calling anybody."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from edge_mer.config import UNIX, DaemonConfig, host_and_port
from edge_mer.errors import EdgeMerError, MissingError, UsageError
from edge_mer.gateway.listeners import tls_context
from edge_mer.sinks.base import Checked
from edge_mer.sinks.registry import open_sink

_PACKAGES = ("fastapi", "uvicorn", "websockets", "prometheus_client")
_MAX_UNIX_BYTES = 107


def problems(config: DaemonConfig) -> list[EdgeMerError]:
    """All that keeps the gateway from carrying it out; empty where nothing does."""
    found = [_raised_by(check) for check in _checks(config)]
    return [error for error in found if error is not None]


def outdated(config: DaemonConfig, utc: datetime) -> UsageError | None:
    """What is wrong with the time in the certificate; None: nothing, or it cannot be read."""
    if config.http.certificate is None or find_spec("cryptography") is None:
        return None
    from cryptography import x509

    try:
        own = x509.load_pem_x509_certificates(config.http.certificate.read_bytes())[0]
    except (OSError, ValueError):
        return None
    if own.not_valid_before_utc <= utc <= own.not_valid_after_utc:
        return None
    return UsageError(
        f"clients will not believe the certificate {config.http.certificate}",
        expected=f"one for this time, {utc:%Y-%m-%d %H:%M} UTC",
        found=f"it is for {own.not_valid_before_utc:%Y-%m-%d} to {own.not_valid_after_utc:%Y-%m-%d}",
        hint="renew it, or set this machine's clock",
    )


def _raised_by(check: Callable[[], object]) -> EdgeMerError | None:
    try:
        check()
    except EdgeMerError as error:
        return error
    return None


def _checks(config: DaemonConfig) -> Iterator[Callable[[], object]]:
    http = config.http
    if http.listen or config.network_sinks:
        yield _check_packages
    if http.certificate is not None and http.key is not None:
        certificate, key = http.certificate, http.key
        yield lambda: tls_context(certificate, key)
    for place in http.listen:
        yield lambda place=place: _check_place(place)  # type: ignore[misc]
    for uri, n in Counter(config.network_sinks).items():
        yield lambda uri=uri, n=n: _check_sink(uri, n)  # type: ignore[misc]


def _check_packages() -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise MissingError(
            "the gateway needs more packages",
            found=f"no module {', '.join(missing)}",
            hint="pip install 'edge-mer[daemon]'; listen = [] under [http] turns HTTP off",
        )


def _check_place(place: str) -> None:
    """Whether it can be listened at; a port that is taken may be this daemon's own."""
    found = _wrong_path(Path(place.removeprefix(UNIX))) if place.startswith(UNIX) else _wrong_address(place)
    if found:
        raise UsageError(f"cannot listen at {place}", found=found, hint="set listen under [http]")


def _wrong_path(path: Path) -> str:
    if len(os.fsencode(path)) > _MAX_UNIX_BYTES:
        return f"a path of more than {_MAX_UNIX_BYTES} bytes"
    if path.exists() and not path.is_socket():
        return "something that is no socket has that name"
    return "" if path.parent.is_dir() else f"{path.parent} is no folder"


def _wrong_address(place: str) -> str:
    host, _ = host_and_port(place)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _check_sink(uri: str, n: int) -> None:
    if n > 1:
        raise UsageError(f"the sink {uri.partition('?')[0]} is there {n} times", hint="name it once")
    sink = open_sink(uri)
    if isinstance(sink, Checked):
        sink.check()
