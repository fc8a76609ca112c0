"""The link: real sockets between threads, and clients that misbehave."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_mer.errors import LostError, MissingError, UsageError
from edge_mer.link.client import LinkClient
from edge_mer.link.messages import MAX_LINE_BYTES, Ask, LinkedError, Message
from edge_mer.link.server import MAX_CLIENTS, MAX_WAITING, LinkServer

SOON_S = 20.0


def carry_out(ask: Ask, fd: int | None) -> Message:
    if ask.what == "swap":
        assert fd is not None
        with os.fdopen(fd) as file:
            return {"read": file.read(), "who": ask.who}
    if ask.what == "refuse":
        raise UsageError("no", expected="yes", hint="say yes")
    return {"fd": fd, **ask.arguments}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LinkServer]:
    one = LinkServer(tmp_path / "link.sock", carry_out)
    one.start()
    yield one
    one.close()
    assert not (tmp_path / "link.sock").exists()


@pytest.fixture
def client(server: LinkServer, tmp_path: Path) -> Iterator[LinkClient]:
    with LinkClient(tmp_path / "link.sock") as one:
        assert one.ask("status") == {"fd": None}  # it is among those who are told
        yield one


def prediction(number: int) -> Message:
    return {"kind": "prediction", "record": {"window_index": number}}


def test_everybody_is_told_in_order(server: LinkServer, client: LinkClient, tmp_path: Path) -> None:
    server.publish({"kind": "hello", "protocol": 1})
    for number in range(5):
        server.publish(prediction(number))
    assert client.receive(SOON_S) == {"kind": "hello", "protocol": 1}
    assert [client.receive(SOON_S) for _ in range(5)] == [prediction(number) for number in range(5)]
    with LinkClient(tmp_path / "link.sock") as late:
        assert late.receive(SOON_S) == {"kind": "hello", "protocol": 1}
        assert late.receive(0.01) is None


def test_an_ask_is_answered_and_a_file_goes_along(client: LinkClient, tmp_path: Path) -> None:
    (tmp_path / "bundle.tar").write_text("tar")
    with (tmp_path / "bundle.tar").open() as file:
        assert client.ask("swap", "ward-3", file.fileno()) == {"read": "tar", "who": "ward-3"}
        assert client.ask("status", fd=file.fileno(), a=1) == {"fd": None, "a": 1}


def test_a_refusal_comes_whole(client: LinkClient) -> None:
    with pytest.raises(LinkedError, match=r"no.*Expected: yes.*Next: say yes") as refused:
        client.ask("refuse")
    assert refused.value.exit_code == 2


def test_whoever_does_not_read_loses_the_oldest_and_delays_nobody(
    server: LinkServer, client: LinkClient, tmp_path: Path
) -> None:
    with LinkClient(tmp_path / "link.sock") as stuck:
        assert stuck.ask("status") == {"fd": None}
        n = 4 * MAX_WAITING
        filler = "x" * 2000
        for number in range(n):
            server.publish({"kind": "prediction", "record": {"window_index": number, "filler": filler}})
            found = client.receive(SOON_S)
            assert found is not None
            assert found["record"]["window_index"] == number
        seen: list[int] = []
        while not seen or seen[-1] < n - 1:
            found = stuck.receive(SOON_S)
            assert found is not None
            seen.append(found["record"]["window_index"])
    assert len(seen) < n
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    "line",
    [
        b"\x00\xff\n",
        b"[]\n",
        b'{"kind": 1}\n',
        b'{"kind": "hello"}\n',
        b'{"kind":"ask","id":"1","what":"x"}\n',
        b"[" * 100_000 + b"\n",
        b"x" * (2 * MAX_LINE_BYTES),
    ],
    ids=["bytes", "list", "kind", "hello", "id", "deep", "endless"],
)
def test_whoever_sends_nonsense_is_hung_up_on(
    server: LinkServer, client: LinkClient, tmp_path: Path, line: bytes
) -> None:
    with socket.socket(socket.AF_UNIX) as bad:
        bad.connect(str(tmp_path / "link.sock"))
        bad.settimeout(SOON_S)
        try:
            bad.sendall(line)
            assert bad.recv(1) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass
    server.publish(prediction(1))
    assert client.receive(SOON_S) == prediction(1)


def test_more_than_enough_clients_are_turned_away(server: LinkServer, tmp_path: Path) -> None:
    clients = [LinkClient(tmp_path / "link.sock") for _ in range(MAX_CLIENTS)]
    assert [one.ask("status") for one in clients] == [{"fd": None}] * MAX_CLIENTS
    with LinkClient(tmp_path / "link.sock") as last, pytest.raises(LostError):
        last.receive(SOON_S)
    for one in clients:
        one.close()


def test_descriptors_that_nobody_asked_for_are_closed(client: LinkClient, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with LinkClient(tmp_path / "link.sock") as other:
        read, write = os.pipe()
        other.ask("status", fd=read)
        os.close(read)
        os.close(write)
    client.ask("status")
    client.ask("status")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_two_daemons_do_not_share_a_socket(server: LinkServer, client: LinkClient, tmp_path: Path) -> None:
    second = LinkServer(tmp_path / "link.sock", carry_out)
    with pytest.raises(UsageError, match="another edge-mer daemon"):
        second.start()
    second.close()
    assert client.ask("status") == {"fd": None}


def test_a_socket_that_a_killed_daemon_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "link.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(MissingError, match="no edge-mer daemon answers"):
        LinkClient(path)
    server = LinkServer(path, carry_out)
    server.start()
    with LinkClient(path) as client:
        assert client.ask("status") == {"fd": None}
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        server.close()
        with pytest.raises(LostError, match="hung up"):
            client.receive(SOON_S)


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    server = LinkServer(tmp_path / "no" / "link.sock", carry_out)
    with pytest.raises(UsageError, match="cannot listen at"):
        server.start()
    server.close()


def test_a_number_that_json_cannot_hold_is_our_own_error(server: LinkServer) -> None:
    record: dict[str, Any] = {"kind": "prediction", "record": {"valence": float("nan")}}
    with pytest.raises(ValueError, match="not JSON compliant"):
        server.publish(record)
