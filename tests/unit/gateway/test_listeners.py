"""Places to listen at, on real sockets."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from edge_mer.clock import ManualClock
from edge_mer.errors import UsageError
from edge_mer.gateway.listeners import PATIENCE_S, listen, tls_context
from tests.helpers.senders import free_port


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_it_listens_at_an_address(host: str) -> None:
    port = free_port()
    with listen(f"{host}:{port}", ManualClock()), socket.create_connection((host.strip("[]"), port), 5.0):
        pass


def test_it_listens_at_a_path_where_a_killed_process_left_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    with listen(f"unix:{path}", ManualClock()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with pytest.raises(UsageError, match="something else listens there"):
            listen(f"unix:{path}", ManualClock())


def test_it_takes_no_file_away(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("mine", encoding="ascii")
    with pytest.raises(UsageError):
        listen(f"unix:{path}", ManualClock())
    assert path.read_text(encoding="ascii") == "mine"


def test_a_place_that_is_taken_is_waited_for() -> None:
    port, clock = free_port(), ManualClock()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(UsageError, match=f"cannot listen at 127.0.0.1:{port}.*ss -lntxp"):
            listen(f"127.0.0.1:{port}", clock)
    assert clock.now_ns() >= PATIENCE_S * 1e9


def test_an_address_of_another_machine_is_refused_at_once() -> None:
    clock = ManualClock()
    with pytest.raises(UsageError, match=r"192\.0\.2\.1"):
        listen("192.0.2.1:8080", clock)
    assert clock.now_ns() == 0


def test_a_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    for text in (None, "no certificate"):
        if text is not None:
            certificate.write_text(text, encoding="ascii")
            key.write_text(text, encoding="ascii")
        with pytest.raises(UsageError, match=r"cert\.pem"):
            tls_context(certificate, key)
