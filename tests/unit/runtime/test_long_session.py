"""An hour of a whole live session holds at its end what it held after ten minutes."""

from __future__ import annotations

import os
import weakref
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from edge_mer.clock import ManualClock
from edge_mer.runtime.pipeline import Pipeline, PipelineSetup
from tests.helpers.fake_session import FakeSink
from tests.helpers.long_session import (
    MAX_QUEUE,
    MINUTE_NS,
    Census,
    Data,
    Device,
    TickingClock,
    play,
    slow_hour,
    slow_session,
)
from tests.helpers.numpy_engines import tiny_engines
from tests.helpers.tiny_model import tiny_model
from tests.helpers.tiny_session import SquareDetector, TinySession

HOP_S = 4
MORE_OBJECTS = 20
"""Of no type there may be more than so many more: buffers are not always equally full."""

MORE_BLOCKS = 1_300
"""Likewise, or less than one and a half of each prediction; the earlier census holds some 220 itself, and a
stream remembers the numbers of chunks that were lost, 1024 at most. Found were 660 to 1050."""

MORE_BYTES = 4_000_000
"""What the system gives a process and takes from it is coarse."""


def leaks(earlier: Census, later: Census) -> dict[str, int]:
    """What there is more of than there may be."""
    more = {
        "blocks": later.n_blocks - earlier.n_blocks - MORE_BLOCKS,
        "bytes": later.rss_bytes - earlier.rss_bytes - MORE_BYTES,
        "threads": later.n_threads - earlier.n_threads,
        "files": later.n_fds - earlier.n_fds,
    }
    more |= {name: n - MORE_OBJECTS for name, n in later.more_than(earlier).items()}
    return {name: n for name, n in more.items() if n > 0}


def test_an_hour_leaves_nothing_behind(tmp_path: Path) -> None:
    """In a process of its own: what other tests left to the C library is no part of its memory."""
    out = tmp_path / "out.jsonl"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        played = alone.submit(slow_hour, out).result()
    assert len(played.censuses) == 2
    assert leaks(*played.censuses) == {}

    n = played.n_predictions
    assert n in range(3_600 // HOP_S, 3_600 // HOP_S + MAX_QUEUE)
    assert out.read_text(encoding="utf-8").count("\n") == played.n_written == n
    assert played.n_by_status["ok"] > 0.6 * n
    assert played.n_read + played.n_unread == n
    assert played.n_unread >= 6
    assert played.n_by_reason["overloaded"] == played.n_dropped_steps >= 6
    assert played.n_by_reason["face_switched"] >= 6
    for source in played.sources:
        assert source.n_restarts >= 3, source
        assert set(source.states.values()) == {"ok"}, source


def test_what_is_left_behind_is_seen(tmp_path: Path) -> None:
    """A sink that keeps predictions, a camera that keeps memory, a microphone that leaves files open."""
    clock = TickingClock()
    opened = slow_session(clock)
    camera, microphone, _ = opened.sources
    assert isinstance(camera, Device)
    assert isinstance(microphone, Device)
    kept: list[bytes] = []
    left: list[int] = []
    picture = camera.data

    def picture_and_memory(number: int) -> Data:
        kept.append(os.urandom(200_000))
        return picture(number)

    def opened_and_left() -> None:
        left.append(os.open(os.devnull, os.O_RDONLY))

    camera.data, microphone.ensure_ready = picture_and_memory, opened_and_left  # type: ignore[method-assign]
    opened = replace(opened, sinks=(FakeSink(),))
    played = play(opened, clock, tmp_path / "out.jsonl", 6 * MINUTE_NS, [3 * MINUTE_NS, 6 * MINUTE_NS])
    for fd in left:
        os.close(fd)
    assert {"Prediction", "blocks", "bytes", "files"} <= leaks(*played.censuses).keys()


@pytest.mark.parametrize("gates", [True, False])
def test_sound_that_was_encoded_is_forgotten(gates: bool) -> None:
    model, played = tiny_model(), TinySession(n_steps=60, streams=("audio",))
    setup = PipelineSetup(model, tiny_engines(model), SquareDetector(), gates=gates)
    pipeline = Pipeline(setup, played.specs, ManualClock())
    pieces = []
    for chunk in played.chunks():
        own = replace(chunk, data=chunk.data.copy())
        pieces.append(weakref.ref(own.data))
        pipeline.push(own)
    del own
    assert len(pieces) > 600
    assert sum(piece() is not None for piece in pieces) < 60
