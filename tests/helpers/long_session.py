"""Hours of a whole live session under a clock of its own, with sensors that break, and what it holds then."""

from __future__ import annotations

import gc
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_mer.bundle.read import Bundle
from edge_mer.clock import NS_PER_S, ManualClock
from edge_mer.errors import LostError
from edge_mer.runtime.live_session import Session
from edge_mer.runtime.opening import Opened
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.supervisor import SourceHealth
from edge_mer.runtime.target import Choice
from edge_mer.sinks.base import Sink
from edge_mer.sinks.jsonl import JsonlSink
from edge_mer.types.model import ModelSpec
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk, ClockOffset, StreamSpec, TimeBasis
from tests.helpers.fake_session import tiny_manifest_alone
from tests.helpers.live_faults import fused, model_of
from tests.helpers.numpy_engines import tiny_engines
from tests.helpers.process import n_open_files, rss_bytes
from tests.helpers.tiny_model import tiny_clip, tiny_log_mel
from tests.helpers.tiny_session import HEIGHT, WIDTH, SquareDetector, frame_of

MS = NS_PER_S // 1000
MINUTE_NS = 60 * NS_PER_S
START_NS = 5_000 * NS_PER_S
ROUND_NS = 10 * MINUTE_NS
"""After so long the same troubles come again."""

OVERLOADED_NS, OVERLOAD_NS = 8 * MINUTE_NS, 12 * NS_PER_S
"""When in each round something else has the processor, and for how long."""

READER_LEAVES_NS = 6 * MINUTE_NS
"""When in each round whoever reads predictions pauses until some are lost."""

MAX_QUEUE, N_MISSED = 8, 12
MOST_WAIT_S = 60.0
"""No thread waits longer for another one: then something hangs."""

REMOTE_PPM = 50
_BEHIND_NS = 2 * NS_PER_S
"""So much do devices keep for whoever is slow."""

_LOOK_EVERY_NS = 5 * NS_PER_S
_SPEED = 200
_MENDING = "edge-mer mending"

Data = NDArray[np.generic]


class TickingClock(ManualClock):
    """Jumps to its next tick when somebody sleeps; lets time pass in earnest only while a source is mended.

    That happens in another thread, which would otherwise have to open it within no time at all.

    Args:
        tick_ns: How far apart ticks are.
    """

    def __init__(self, tick_ns: int = 500 * MS) -> None:
        super().__init__(START_NS)
        self._tick_ns = tick_ns

    def sleep_until_ns(self, t_ns: int) -> None:
        """Jump to the first tick that is not before `t_ns`."""
        until_ns = -(-t_ns // self._tick_ns) * self._tick_ns
        if any(thread.name == _MENDING for thread in threading.enumerate()):
            time.sleep(max(0, until_ns - self.now_ns()) / NS_PER_S / _SPEED)
        super().sleep_until_ns(until_ns)


@dataclass(frozen=True)
class Outage:
    """When in each round a device is away.

    Attributes:
        from_ns: Since when.
        lasts_ns: How long.
        is_told: The device says that it is lost, and cannot be opened; else it is silent.
    """

    from_ns: int
    lasts_ns: int
    is_told: bool

    def is_on(self, now_ns: int) -> bool:
        """Whether it is away now."""
        return 0 <= (now_ns - START_NS) % ROUND_NS - self.from_ns < self.lasts_ns


@dataclass
class Device:
    """A live source without an end. Of its chunks 1 in 200 is lost, 1 in 200 comes twice, and stamps jitter.

    Attributes:
        spec: Its stream.
        clock: Where the time comes from.
        n_per_chunk: Samples of a chunk; 1 of pictures.
        data: Number of a chunk since the device was made -> a fresh array.
        outage: When it is away.
        time_basis: Who stamps its chunks; by a remote clock that drifts and is set anew in each round.
    """

    spec: StreamSpec
    clock: ManualClock
    n_per_chunk: int
    data: Callable[[int], Data]
    outage: Outage
    time_basis: TimeBasis = "arrival"
    is_live: bool = True
    ended: bool = False

    def __post_init__(self) -> None:
        assert self.spec.rate_hz is not None
        self._period_ns = round(self.n_per_chunk * NS_PER_S / self.spec.rate_hz)
        self._random = random.Random(self.spec.name)
        self._number = self._seq = self._look_ns = 0
        self._again: Chunk | None = None

    @property
    def uri(self) -> str:
        """Its stream's name."""
        return self.spec.name

    @property
    def specs(self) -> tuple[StreamSpec, ...]:
        """One."""
        return (self.spec,)

    def ensure_ready(self) -> None:
        """Open it.

        Raises:
            LostError: It is away.
        """
        self._refuse_while_away()

    def start(self) -> None:
        """Deliver from now on, counted from 0 again."""
        self._seq, self._again, self._number = 0, None, self._number_at(self.clock.now_ns())

    def read(self, timeout_ms: int) -> Chunk | None:
        """The next chunk.

        Raises:
            LostError: It is away.
        """
        if self._again is not None:
            again, self._again = self._again, None
            return again
        now_ns = self.clock.now_ns()
        self._refuse_while_away()
        self._number = max(self._number, self._number_at(now_ns - _BEHIND_NS))
        due_ns, until_ns = self._start_ns(self._number + 1), now_ns + timeout_ms * MS
        if due_ns > until_ns or self.outage.is_on(now_ns):
            self.clock.sleep_until_ns(until_ns)
            return None
        self.clock.sleep_until_ns(due_ns)
        return self._taken()

    def clock_offsets(self) -> list[ClockOffset]:
        """A look at its clock every so often."""
        now_ns = self.clock.now_ns()
        if self.time_basis != "remote" or now_ns < self._look_ns:
            return []
        self._look_ns = now_ns + _LOOK_EVERY_NS
        return [ClockOffset(self.spec.name, _remote_ns(now_ns), now_ns, 200_000)]

    def ensure_stopped(self) -> None:
        """Nothing is held."""

    def _refuse_while_away(self) -> None:
        if self.outage.is_told and self.outage.is_on(self.clock.now_ns()):
            raise LostError(f"{self.spec.name} is gone", hint="plug it in again")

    def _number_at(self, t_ns: int) -> int:
        return max(0, t_ns - START_NS) // self._period_ns

    def _start_ns(self, number: int) -> int:
        return START_NS + number * self._period_ns

    def _taken(self) -> Chunk | None:
        number, self._number = self._number, self._number + 1
        seq, self._seq = self._seq, self._seq + 1
        fate = self._random.random()
        if fate < 0.005:
            return None
        t_ns = self._start_ns(number) + self._random.randrange(3 * MS)
        stamp_ns = _remote_ns(t_ns) if self.time_basis == "remote" else t_ns
        chunk = Chunk(
            self.spec.name,
            self.spec.modality,
            seq,
            stamp_ns,
            self.data(number),
            self.time_basis,
            arrived_ns=self.clock.now_ns(),
        )
        self._again = chunk if fate > 0.995 else None
        return chunk


def _remote_ns(host_ns: int) -> int:
    """A clock that is fast, and an hour further on after each round."""
    since_ns = host_ns - START_NS
    return host_ns + since_ns * REMOTE_PPM // 1_000_000 + since_ns // ROUND_NS * 3_600 * NS_PER_S


def devices(clock: ManualClock, fps: float, audio_hz: int, audio_samples: int) -> list[Device]:
    """A camera that comes loose, a microphone that falls silent, and a sensor of skin conductance.

    Args:
        clock: Where the time comes from.
        fps: Pictures per second.
        audio_hz: Rate of the sound.
        audio_samples: Samples of a chunk of sound.
    """
    pictures = [frame_of(person) for person in (0, 1)]
    sound = (0.2 * np.sin(2 * np.pi * 220 * np.arange(audio_hz) / audio_hz)).astype(np.float32)[:, np.newaxis]

    def picture(number: int) -> Data:
        """Another person after each five minutes."""
        return pictures[int(number // (300 * fps)) % 2].copy()

    def piece(number: int) -> Data:
        at = number * audio_samples % (audio_hz - audio_samples + 1)
        return sound[at : at + audio_samples].copy()

    def level(number: int) -> Data:
        t = number + np.arange(8) / 8
        return (4 + np.sin(t))[:, np.newaxis].astype(np.float32)

    camera = StreamSpec(
        "long/visual",
        "visual",
        ("height", "width", "channel"),
        (HEIGHT, WIDTH, 3),
        "uint8",
        fps,
        "rgb24",
        ("r", "g", "b"),
    )
    samples = ("sample", "channel"), (None, 1), "float32"
    microphone = StreamSpec("long/audio", "audio", *samples, float(audio_hz), "1", ("mono",))
    skin = StreamSpec("long/eda", "eda", *samples, 8.0, "uS", ("eda",))
    away = [
        Outage(minute * MINUTE_NS, 6 * NS_PER_S, is_told)
        for minute, is_told in ((2, True), (4, False), (6, True))
    ]
    return [
        Device(camera, clock, 1, picture, away[0]),
        Device(microphone, clock, audio_samples, piece, away[1]),
        Device(skin, clock, 8, level, away[2], "remote"),
    ]


def slow_model() -> ModelSpec:
    """Face, voice and skin in steps of four seconds: a picture, 4000 samples of sound, 32 of skin."""
    clip = tiny_clip(
        size_px=32,
        n_frames=1,
        frame_interval=Fraction(2),
        last_frame_before_end=Fraction(1),
        frame_tolerance=Fraction(1),
    )
    log_mel = tiny_log_mel(rate_hz=1_000, f_max_hz=500.0)
    return model_of(Fraction(4), clip, log_mel, eda_hz=8)


def slow_session(clock: ManualClock) -> Opened:
    """A session of the slow model and its devices; an hour of it is computed within seconds."""
    model = slow_model()
    return Opened(
        bundle=Bundle(Path("nowhere"), tiny_manifest_alone()),
        setup=PipelineSetup(model, tiny_engines(model, fused), SquareDetector(), hop=1),
        sources=tuple(devices(clock, fps=0.5, audio_hz=1_000, audio_samples=1_000)),
        sinks=(),
        choice=Choice("fp32"),
    )


# -- what is held --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Census:
    """What the process holds at a moment.

    Attributes:
        t_ns: The session's time.
        n_by_type: Objects that the collector tracks.
        n_blocks: Pieces of memory that Python gave out, also to what the collector does not track.
        rss_bytes: Resident memory.
        n_threads: Of Python.
        n_fds: Open file descriptors.
    """

    t_ns: int
    n_by_type: Counter[str]
    n_blocks: int
    rss_bytes: int
    n_threads: int
    n_fds: int

    @classmethod
    def now(cls, t_ns: int) -> Census:
        """Taken now, after a collection."""
        gc.collect()
        found = Counter(type(one).__qualname__ for one in gc.get_objects())
        return cls(
            t_ns, found, sys.getallocatedblocks(), rss_bytes(), threading.active_count(), n_open_files()
        )

    def more_than(self, earlier: Census) -> dict[str, int]:
        """Types of which there are more now, and by how much."""
        return dict(self.n_by_type - earlier.n_by_type)


def growth_per_hour(hours: Sequence[float], values: Iterable[float]) -> float:
    """Slope of the line that fits best."""
    return float(np.polyfit(hours, list(values), 1)[0])


# -- a run ---------------------------------------------------------------------------------------


@dataclass
class _Turn:
    """How far each thread is with the predictions."""

    made: int = 0
    read: int = 0
    written: int = 0
    is_over: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def set(self, **now: int | bool) -> None:
        with self.changed:
            for name, value in now.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def wait_for(self, what: Callable[[], bool]) -> None:
        with self.changed:
            if not self.changed.wait_for(what, MOST_WAIT_S):
                raise RuntimeError(f"a thread hangs: {self.made=}, {self.read=}, {self.written=}")


@dataclass
class _Counted:
    """A sink that tells how far it is."""

    sink: Sink
    turn: _Turn

    @property
    def target(self) -> Path | None:
        return self.sink.target

    def open(self) -> None:
        self.sink.open()

    def write(self, prediction: Prediction) -> None:
        self.sink.write(prediction)
        self.turn.set(written=prediction.window_index + 1)

    def close(self) -> None:
        self.sink.close()

    def abandon(self) -> None:
        self.sink.abandon()


@dataclass(frozen=True)
class LongRun:
    """What came of it.

    Attributes:
        n_predictions: Predictions that were made.
        n_by_status: Of each status.
        n_by_reason: Of each reason.
        n_read: Those that a loop read.
        n_unread: Those that it was too slow for.
        n_dropped_steps: Steps that there was no time for.
        n_written: The last prediction that the sink wrote, and 1.
        sources: How the sensors were at the end.
        censuses: What was held at first and at last.
    """

    n_predictions: int
    n_by_status: Counter[str]
    n_by_reason: Counter[str]
    n_read: int
    n_unread: int
    n_dropped_steps: int
    n_written: int
    sources: list[SourceHealth]
    censuses: list[Census]


def play(
    opened: Opened,
    clock: ManualClock,
    out: Path,
    duration_ns: int,
    censuses_ns: Sequence[int],
    on_census: Callable[[Census], None] = lambda _: None,
) -> LongRun:
    """Run a session with its sensors, a sink and a loop over it, in their own threads.

    Args:
        opened: Model, and `devices`; its sinks are beside the one that writes `out`.
        clock: The devices'.
        out: For predictions.
        duration_ns: How long, on the session's time.
        censuses_ns: When what is held is counted: once all threads have done what there was.
        on_census: Told of each.
    """
    rss_bytes()  # opens what it needs for the first time
    turn, censuses, due = _Turn(), list[Census](), sorted(censuses_ns)
    hop_ns = int(opened.setup.model.step * opened.setup.hop_steps * NS_PER_S)

    def is_time_for(what_ns: int, now_ns: int) -> bool:
        return (now_ns - what_ns) % ROUND_NS < hop_ns

    def made(prediction: Prediction) -> None:
        now_ns = prediction.t_end_ns
        turn.set(made=prediction.window_index)
        if is_time_for(OVERLOADED_NS, now_ns):
            clock.advance_ns(OVERLOAD_NS)
        elif due and now_ns >= due[0]:
            del due[0]
            # this one lies with the sink already, and not yet in the queue
            turn.wait_for(lambda: turn.read == turn.made == turn.written - 1)
            censuses[1:] = [Census.now(now_ns)]
            on_census(censuses[-1])
        if now_ns >= duration_ns:
            turn.set(is_over=True)
            session.stop()

    sinks = (_Counted(JsonlSink(str(out)), turn), *opened.sinks)
    session = Session(replace(opened, sinks=sinks), clock, max_queue=MAX_QUEUE, callbacks=[made])
    n_read = 0
    with session:
        for prediction in session:
            n_read += 1
            turn.set(read=prediction.window_index + 1)
            if is_time_for(READER_LEAVES_NS, prediction.t_end_ns):
                far = prediction.window_index + MAX_QUEUE + N_MISSED
                turn.wait_for(lambda far=far: turn.made > far or turn.is_over)
        report = session.report
        sources = report.sources()
    return LongRun(
        report.n_predictions,
        report.n_by_status,
        report.n_by_reason,
        n_read,
        session.n_dropped,
        report.counters.n_dropped_steps,
        turn.written,
        sources,
        censuses,
    )


def slow_hour(out: Path) -> LongRun:
    """An hour of the slow session, counted after ten minutes and at its end; `out` is for predictions."""
    clock = TickingClock()
    return play(slow_session(clock), clock, out, 60 * MINUTE_NS, [10 * MINUTE_NS, 60 * MINUTE_NS])
