"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
import threading

import numpy as np
import pytest

from edge_mer.runtime import supervisor
from edge_mer.runtime.memory import give_back_memory
from tests.helpers.live_faults import FAULTS, Scene
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


def test_it_is_given_back_when_a_sensor_came_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr(supervisor, "give_back_memory", lambda: given.append(threading.current_thread().name))
    scene = Scene()
    next(fault for fault in FAULTS if fault.name == "end").change(scene)
    n_restarts = scene.play().n_restarts
    assert given == ["edge-mer mending"] * sum(n_restarts.values())
    assert given
