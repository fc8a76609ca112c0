"""The order and the time in which chunks of several sources come, and what is refused of them."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from edge_mer.clock import NS_PER_S, ManualClock
from edge_mer.errors import DataError
from edge_mer.runtime.arrivals import as_they_come, check_chunk, merged, never, since_start, wait_until
from edge_mer.types.signals import Chunk
from tests.helpers.fake_session import FakeSource
from tests.helpers.tiny_session import AUDIO, VISUAL, TinySession, frame_of

SPECS = {VISUAL.name: VISUAL, AUDIO.name: AUDIO}
FRAME = Chunk(VISUAL.name, "visual", 4, 2 * NS_PER_S, frame_of(0))
SOUND = Chunk(AUDIO.name, "audio", 0, 0, np.zeros((160, 1), np.float32))


def test_recordings_come_in_order_of_capture() -> None:
    sources = [
        FakeSource(TinySession(3, streams=("audio",))),
        FakeSource(TinySession(3, streams=("visual",))),
    ]
    times_ns = [chunk.t_ns for chunk in merged(sources)]
    assert times_ns == sorted(times_ns)
    assert len(times_ns) == sum(source.n_read for source in sources)


def test_a_silent_sensor_holds_up_no_other() -> None:
    clock = ManualClock()
    silent = FakeSource(TinySession(1), clock, is_live=True, gate=threading.Event())
    speaking = FakeSource(TinySession(2), clock, is_live=True)
    n_chunks = len(list(TinySession(2).chunks()))
    found = (one for one in as_they_come([silent, speaking], clock) if isinstance(one, Chunk))
    assert len(list(islice(found, n_chunks))) == n_chunks
    assert silent.n_read == 0


def test_after_each_round_comes_the_time_at_which_it_began() -> None:
    clock = ManualClock(5)
    speaking = FakeSource(TinySession(1, streams=("audio",)), clock, is_live=True)
    speaking.start()
    found = list(as_they_come([speaking], clock))
    marks = [index for index, one in enumerate(found) if isinstance(one, int)]
    assert found[marks[0]] == 5
    assert marks[-1] == len(found) - 1
    chunks = [one for one in found[: marks[0]] if isinstance(one, Chunk)]
    assert all(one.t_ns >= 5 for one in chunks)
    assert len(chunks) == marks[0] > 0


def test_waiting_for_silence_can_be_stopped() -> None:
    silent = FakeSource(TinySession(1), gate=threading.Event())
    answers = iter([False, True, True, True])
    assert list(merged([silent], lambda: next(answers))) == []
    answers = iter([False, True])
    assert list(as_they_come([silent], ManualClock(), lambda: next(answers))) == [0]


def test_waiting_for_the_time_can_be_stopped() -> None:
    clock, answers = ManualClock(), iter([False, False, True])
    wait_until(clock, 60 * NS_PER_S, lambda: next(answers))
    assert clock.now_ns() == 400_000_000
    wait_until(clock, 60 * NS_PER_S, never)
    assert clock.now_ns() == 60 * NS_PER_S


def test_live_chunks_are_put_on_the_sessions_time() -> None:
    clock = ManualClock(5 * NS_PER_S)
    start_ns = clock.now_ns() - NS_PER_S
    moved = since_start(replace(FRAME, t_ns=start_ns + 7), start_ns, clock)
    assert moved is not None
    assert (moved.t_ns, moved.seq) == (7, FRAME.seq)
    assert since_start(replace(FRAME, t_ns=start_ns - 1), start_ns, clock) is None


@pytest.mark.parametrize("stamped_ns", [0, 3_000 * NS_PER_S])
def test_a_stamp_of_another_clock_is_refused(stamped_ns: int) -> None:
    clock = ManualClock(1_000 * NS_PER_S)
    with pytest.raises(DataError, match=r"impossible time of capture.*monotonic_ns"):
        since_start(replace(FRAME, t_ns=stamped_ns), clock.now_ns(), clock)


def test_chunks_that_are_as_described_pass() -> None:
    check_chunk(FRAME, SPECS)
    check_chunk(SOUND, SPECS)


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        (replace(FRAME, stream="other"), "does not describe"),
        (
            replace(FRAME, data=FRAME.data.astype(np.float32)),
            r"Expected: uint8 \(60, 80, 3\).*Found: float32",
        ),
        (replace(FRAME, data=FRAME.data[:, :, :1]), r"Found: uint8 \(60, 80, 1\)"),
        (replace(SOUND, data=SOUND.data[:, 0]), r"Expected: float32 \(any, 1\).*Found: float32 \(160\)"),
        (replace(SOUND, data=SOUND.data.astype(np.float64)), "Found: float64"),
    ],
)
def test_chunks_that_are_not_as_described_are_refused(chunk: Chunk, words: str) -> None:
    with pytest.raises(DataError, match=words):
        check_chunk(chunk, SPECS)
