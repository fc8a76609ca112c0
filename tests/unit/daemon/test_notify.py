"""What systemd is told, over a real socket of the kind that it opens."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_mer.clock import NS_PER_S, ManualClock, MonotonicClock
from edge_mer.daemon.notify import Notifier


class Manager:
    """Systemd's end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture(params=["path", "abstract"])
def named(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Manager, str]]:
    if request.param == "path":
        name = address = str(tmp_path / "notify")
    else:
        name, address = (
            f"@edge-mer-{tmp_path.name}-{os.getpid()}",
            f"\0edge-mer-{tmp_path.name}-{os.getpid()}",
        )
    manager = Manager(address)
    yield manager, name
    manager.socket.close()


@pytest.fixture
def manager(named: tuple[Manager, str]) -> Manager:
    return named[0]


@pytest.fixture
def environment(named: tuple[Manager, str]) -> dict[str, str]:
    return {"NOTIFY_SOCKET": named[1], "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}


@pytest.fixture
def notifier(environment: dict[str, str], clock: ManualClock) -> Iterator[Notifier]:
    made = Notifier(clock, environment)
    yield made
    made.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(5 * NS_PER_S)


def test_a_whole_life(manager: Manager, notifier: Notifier, clock: ManualClock) -> None:
    notifier.extend(21.5)
    notifier.ready()
    notifier.status("serving\njmt-tiny,  3 people")
    clock.advance_ns(1_234_567)
    notifier.reloading()
    notifier.ready()
    notifier.stopping()
    assert manager.heard() == [
        "EXTEND_TIMEOUT_USEC=21500000",
        "READY=1",
        "STATUS=serving jmt-tiny, 3 people",
        "RELOADING=1\nMONOTONIC_USEC=5001234",
        "READY=1",
        "STOPPING=1",
    ]


def test_the_time_of_a_reload_is_the_kernel_s_monotonic_one(
    manager: Manager, environment: dict[str, str]
) -> None:
    notifier = Notifier(MonotonicClock(), environment)
    before_us = MonotonicClock().now_ns() // 1000
    notifier.reloading()
    after_us = MonotonicClock().now_ns() // 1000
    notifier.close()
    (told,) = manager.heard()
    assert before_us <= int(told.rpartition("=")[2]) <= after_us


def test_signs_of_life_come_three_times_within_what_is_allowed_and_no_more(
    manager: Manager, notifier: Notifier, clock: ManualClock
) -> None:
    beats = []
    for second in range(61):
        notifier.alive()
        if manager.heard():
            beats.append(second)
        clock.advance_ns(NS_PER_S)
    assert beats == [0, 10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize(
    "change",
    [
        {"WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "٣"},
    ],
)
def test_where_nobody_watches_there_are_no_signs_of_life(
    manager: Manager, environment: dict[str, str], change: dict[str, str]
) -> None:
    notifier = Notifier(ManualClock(), environment | change)
    notifier.alive()
    notifier.ready()
    notifier.close()
    assert manager.heard() == ["READY=1"]


def test_the_watchdog_may_name_no_process(manager: Manager, environment: dict[str, str]) -> None:
    del environment["WATCHDOG_PID"]
    notifier = Notifier(ManualClock(), environment)
    notifier.alive()
    notifier.close()
    assert manager.heard() == ["WATCHDOG=1"]


def say_everything(notifier: Notifier) -> None:
    notifier.ready()
    notifier.status("x")
    notifier.alive()
    notifier.reloading()
    notifier.extend(1)
    notifier.stopping()
    notifier.close()


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    for name in ("", "relative", "vsock:2:1", str(tmp_path / "nobody"), "@nobody-edge-mer", "/" + "x" * 200):
        say_everything(Notifier(ManualClock(), {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000"}))
    say_everything(Notifier(ManualClock(), {}))


def test_a_manager_that_went_away_is_no_trouble(manager: Manager, notifier: Notifier) -> None:
    notifier.ready()
    manager.socket.close()
    say_everything(notifier)


def test_a_manager_that_does_not_read_holds_nobody_up_for_long(
    manager: Manager, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_mer.daemon.notify._PATIENCE_S", 0.001)
    notifier = Notifier(ManualClock(), environment)
    for _ in range(1000):  # more than any queue of datagrams takes
        notifier.ready()
    notifier.close()
    assert 0 < len(manager.heard()) < 1000


def test_a_long_status_is_cut(manager: Manager, notifier: Notifier) -> None:
    notifier.status("x" * 5000)
    assert [len(told) for told in manager.heard()] == [len("STATUS=") + 300]


def test_the_environment_is_that_of_the_process(
    manager: Manager, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", environment["NOTIFY_SOCKET"])
    notifier = Notifier()
    notifier.ready()
    notifier.close()
    assert manager.heard() == ["READY=1"]
