"""A simulated person at the clock's pace, for ever."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from edge_mer.clock import NS_PER_S, ManualClock
from edge_mer.errors import UsageError
from edge_mer.sources.sim_live import LiveSimSource
from edge_mer.types.signals import Chunk

START_NS = 77 * NS_PER_S


def captured(rest: str, until_s: float) -> tuple[LiveSimSource, list[Chunk]]:
    """What it gives until so long after its start."""
    clock, stop, chunks = ManualClock(START_NS), threading.Event(), list[Chunk]()
    source = LiveSimSource(rest, clock)
    source.ensure_ready()

    def put(chunk: Chunk) -> None:
        chunks.append(chunk)
        if clock.now_ns() - START_NS > until_s * NS_PER_S:
            stop.set()

    source._capture(put, stop)
    return source, chunks


def test_sessions_follow_each_other_without_a_gap() -> None:
    source, chunks = captured("fps=10&duration_s=1&streams=visual+eda", 3.4)
    assert source.is_live
    assert not source.ended
    times = {name: [one.t_ns for one in chunks if one.stream == name] for name in ("sim/visual", "sim/eda")}
    assert times["sim/visual"][:34] == [START_NS + i * NS_PER_S // 10 for i in range(34)]
    assert [b - a for a, b in zip(times["sim/eda"], times["sim/eda"][1:], strict=False)] == [
        NS_PER_S // 8
    ] * (len(times["sim/eda"]) - 1)
    counted = Counter[str]()
    for chunk in chunks:
        assert chunk.seq == counted[chunk.stream]
        counted[chunk.stream] += 1
    first, second = (chunks[i].data for i in (0, next(i for i, c in enumerate(chunks) if c.seq == 10)))
    assert first.shape == second.shape
    assert (first != second).any()


def test_nothing_comes_before_its_last_sample() -> None:
    _, chunks = captured("fps=10&duration_s=2&streams=visual+audio", 1.0)
    for chunk in chunks:
        end_ns = chunk.t_ns
        if chunk.modality == "audio":
            end_ns += round(len(chunk.data) / 44_100 * NS_PER_S)
        assert chunk.arrived_ns is not None
        assert end_ns <= chunk.arrived_ns < end_ns + NS_PER_S // 50


def test_the_seat_has_one_owner() -> None:
    with pytest.raises(UsageError, match="for ever"):
        LiveSimSource("switch_s=1&switch_person=2")


def test_it_is_read_and_stopped_like_any_sensor() -> None:
    source = LiveSimSource("fps=10&streams=visual&duration_s=1")
    source.start()
    chunk = source.read(20_000)
    source.ensure_stopped()
    assert chunk is not None
    assert chunk.stream == "sim/visual"
