"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
import threading

import numpy as np
import pytest

from edge_mer.clock import NS_PER_S
from edge_mer.runtime import session
from edge_mer.runtime.memory import give_back_memory
from tests.helpers.live_faults import Scene
from tests.helpers.long_session import rss_bytes

MB = 1_000_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc, which keeps freed memory")
def test_what_threads_freed_is_given_back() -> None:
    """In a thread, as capturing does; every sixteenth piece is still held, so no pool is free as a whole."""
    held: list[np.ndarray] = []

    def work() -> None:
        pieces = [np.ones(2_000) for _ in range(4_000)]  # 16 kB each
        held.extend(pieces[::16])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    before = rss_bytes()
    give_back_memory()
    assert before - rss_bytes() > 30 * MB
    assert all(piece.sum() == 2_000 for piece in held)


def test_a_live_session_gives_it_back_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[None] = []
    monkeypatch.setattr(session, "GIVE_BACK_EVERY_NS", 2 * NS_PER_S)
    monkeypatch.setattr(session, "give_back_memory", lambda: given.append(None))
    Scene().play()
    assert len(given) in (4, 5)  # of almost eleven seconds
