"""Tokens and sessions."""

from __future__ import annotations

import hashlib

import pytest

from edge_mer.clock import NS_PER_S, ManualClock
from edge_mer.config import TokenConfig
from edge_mer.gateway.auth import SESSION_S, Doorkeeper, Visitor, make_token

VISITOR = Visitor("ward-3", frozenset({"read"}))


def test_a_token_is_known_by_its_hash_only() -> None:
    token, sha256 = make_token()
    assert sha256 == hashlib.sha256(token.encode()).hexdigest()
    assert len(token) >= 43  # 256 bits
    keeper = Doorkeeper(
        [TokenConfig(name="a", sha256="0" * 64), TokenConfig(name="b", sha256=sha256)], ManualClock()
    )
    assert keeper.by_token(token) == Visitor("b", frozenset({"read"}))
    for wrong in ("", token[:-1], token + "x", sha256, "\udcff", "x" * 10_000):
        assert keeper.by_token(wrong) is None


def test_without_tokens_it_is_open() -> None:
    assert Doorkeeper([], ManualClock()).is_open
    assert Doorkeeper([], ManualClock()).by_token("") is None


def test_sessions_end() -> None:
    clock = ManualClock()
    keeper = Doorkeeper([], clock)
    session = keeper.log_in(VISITOR)
    assert (session.expires_utc - clock.utc()).total_seconds() == SESSION_S
    assert keeper.by_session(session.id) == VISITOR
    clock.advance_ns(SESSION_S * NS_PER_S - 1)
    assert keeper.by_session(session.id) == VISITOR
    clock.advance_ns(1)
    assert keeper.by_session(session.id) is None


def test_logging_out_ends_one_session() -> None:
    keeper = Doorkeeper([], ManualClock())
    one, other = keeper.log_in(VISITOR), keeper.log_in(VISITOR)
    assert one.id != other.id
    keeper.log_out(one.id)
    keeper.log_out("none")
    assert keeper.by_session(one.id) is None
    assert keeper.by_session(other.id) == VISITOR


@pytest.mark.parametrize("n", [256, 300])
def test_sessions_are_bounded(n: int) -> None:
    keeper = Doorkeeper([], ManualClock())
    sessions = [keeper.log_in(VISITOR) for _ in range(n)]
    alive = [session for session in sessions if keeper.by_session(session.id)]
    assert alive == sessions[-256:]
