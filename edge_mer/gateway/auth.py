"""Who may do what: tokens for programs, sessions for the page.

A token is 256 random bits, and only its SHA-256 is kept. A slow hash would add nothing: what it makes costly
is trying passwords that people choose, and nobody tries 2**256 of them. Whoever reads the configuration
learns no token.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import get_args

from edge_mer.clock import NS_PER_S, Clock
from edge_mer.config import Right, TokenConfig

SESSION_COOKIE = "edge_mer_session"
SESSION_S = 12 * 3600
_MAX_SESSIONS = 256


@dataclass(frozen=True)
class Visitor:
    """Whoever asks.

    Attributes:
        name: For the audit log.
        may: His rights.
    """

    name: str
    may: frozenset[Right]


@dataclass(frozen=True)
class Session:
    """A visitor who logged in.

    Attributes:
        id: What the cookie holds.
        visitor: Who it is.
        expires_ns: When it ends, by the host's clock.
        expires_utc: The same by the wall clock, for people.
    """

    id: str
    visitor: Visitor
    expires_ns: int
    expires_utc: datetime


LOCAL = Visitor("local", frozenset(get_args(Right)))
"""Whoever reaches a listener that has no tokens; it listens where only this machine's users are."""


def make_token() -> tuple[str, str]:
    """A new token, and its SHA-256 for the configuration."""
    token = secrets.token_urlsafe(32)
    return token, _digest(token)


class Doorkeeper:
    """Knows tokens and sessions.

    Args:
        tokens: None at all: everybody may do everything.
        clock: By which sessions end.
    """

    def __init__(self, tokens: Sequence[TokenConfig], clock: Clock) -> None:
        self._tokens, self._clock = tuple(tokens), clock
        self._sessions: dict[str, Session] = {}

    @property
    def is_open(self) -> bool:
        """No token is asked for."""
        return not self._tokens

    def by_token(self, token: str) -> Visitor | None:
        """Whose token it is; it takes as long for a wrong one as for a right one."""
        digest = _digest(token)
        found = [known for known in self._tokens if hmac.compare_digest(known.sha256, digest)]
        return Visitor(found[0].name, frozenset(found[0].may)) if found else None

    def by_session(self, session_id: str) -> Visitor | None:
        """Whose session it is; None when there is none, or it ended."""
        self._forget_ended()
        session = self._sessions.get(_digest(session_id))
        return session.visitor if session is not None else None

    def log_in(self, visitor: Visitor) -> Session:
        """A new session; the oldest of too many ends."""
        self._forget_ended()
        if len(self._sessions) >= _MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        expires_ns = self._clock.now_ns() + SESSION_S * NS_PER_S
        expires_utc = self._clock.utc() + timedelta(seconds=SESSION_S)
        session = Session(secrets.token_urlsafe(32), visitor, expires_ns, expires_utc)
        self._sessions[_digest(session.id)] = session
        return session

    def log_out(self, session_id: str) -> None:
        """End a session; harmless when there is none."""
        self._sessions.pop(_digest(session_id), None)

    def _forget_ended(self) -> None:
        now_ns = self._clock.now_ns()
        ended = [key for key, session in self._sessions.items() if session.expires_ns <= now_ns]
        for key in ended:
            del self._sessions[key]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
