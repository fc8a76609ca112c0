"""What one client may use up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mer.clock import NS_PER_S, ManualClock
from edge_mer.gateway.gate import host_of
from edge_mer.gateway.limits import Buckets, peer_of


def test_a_pause_gives_some_back() -> None:
    clock = ManualClock()
    buckets = Buckets(2.0, 3, clock)
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]
    assert buckets.take("b")
    clock.advance_ns(NS_PER_S // 2)
    assert [buckets.take("a") for _ in range(2)] == [True, False]
    clock.advance_ns(100 * NS_PER_S)
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.integers(0, NS_PER_S), min_size=1, max_size=100))
def test_nobody_gets_more_than_his_share(pauses_ns: list[int]) -> None:
    clock = ManualClock()
    buckets = Buckets(5.0, 4, clock)
    n_taken = 0
    for pause_ns in pauses_ns:
        n_taken += buckets.take("a")
        assert n_taken <= 4 + 5.0 * clock.now_ns() / NS_PER_S + 1e-6
        clock.advance_ns(pause_ns)


def test_peers_that_are_remembered_are_bounded() -> None:
    buckets = Buckets(0.001, 1, ManualClock(), max_keys=10)
    assert all(buckets.take(str(number)) for number in range(100))
    assert not buckets.take("99")
    assert buckets.take("0")  # forgotten


@pytest.mark.parametrize(
    ("host", "peer"),
    [
        ("192.168.1.4", "192.168.1.4"),
        ("::ffff:192.168.1.4", "192.168.1.4"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:bbbb::7", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, "unix"),
        ("", "unix"),
    ],
)
def test_whom_a_connection_counts_for(host: str | None, peer: str) -> None:
    assert peer_of(host) == peer


@pytest.mark.parametrize(
    ("netloc", "host"),
    [
        ("Robot.Local:8080", "robot.local"),
        ("robot.local.", "robot.local"),
        ("[::1]:8080", "::1"),
        ("[::1]", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("", ""),
        (":80", ""),
        ("a:b:80", "a:b"),
    ],
)
def test_names_without_ports(netloc: str, host: str) -> None:
    assert host_of(netloc) == host
