"""The pipeline in a live session: time goes on, devices drift, data come late, twice, or never."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from edge_mer.clock import ManualClock
from edge_mer.runtime.pipeline import MAX_AHEAD_NS, Counters, Pipeline, PipelineSetup
from edge_mer.sync.windower import lateness_ns
from edge_mer.types.health import StreamHealth
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk, TimeBasis
from tests.helpers.numpy_engines import tiny_engines
from tests.helpers.tiny_model import RATE_HZ, STEP, tiny_model
from tests.helpers.tiny_session import AUDIO, VISUAL, SquareDetector, TinySession

NS = 1_000_000_000
MS = 1_000_000
STEP_NS = int(STEP * NS)
START_NS = 7_000 * NS
MODEL = tiny_model(audio="mask", visual="mask")
LATE_NS = lateness_ns(MODEL)


@dataclass
class Live:
    """A live session under a manual clock.

    Attributes:
        given: Predictions, each with the session's time at which it came.
    """

    streams: TinySession = field(default_factory=lambda: TinySession(1))
    given: list[tuple[int, Prediction]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = ManualClock(START_NS)
        setup = PipelineSetup(MODEL, tiny_engines(MODEL), SquareDetector())
        self.pipeline = Pipeline(
            setup, self.streams.specs, self.clock, start_ns=START_NS, lateness_ns=LATE_NS
        )

    def run(self, chunks: Iterable[tuple[int, Chunk]], end_ns: int = 0) -> Live:
        """Hand over chunks, each at the session's time at which it comes, and let time go on to the end."""
        for comes_ns, chunk in sorted(chunks, key=lambda one: one[0]):
            self.wait_until(comes_ns)
            self._note(self.pipeline.push(chunk))
        self.wait_until(end_ns)
        return self

    def wait_until(self, t_ns: int) -> None:
        while (now_ns := self.clock.now_ns() - START_NS) < t_ns:
            self.clock.advance_ns(min(10 * MS, t_ns - now_ns))
            self._note(self.pipeline.advance(self.clock.now_ns() - START_NS))

    def finish(self) -> Live:
        self._note(self.pipeline.finish())
        return self

    def health(self, stream: str) -> StreamHealth:
        return next(one for one in self.pipeline.health() if one.stream == stream)

    def _note(self, predictions: list[Prediction]) -> None:
        self.given += [(self.clock.now_ns() - START_NS, prediction) for prediction in predictions]


def end_ns(chunk: Chunk) -> int:
    return chunk.t_ns + (chunk.n_samples * NS // RATE_HZ if chunk.modality == "audio" else 0)


def arriving(session: TinySession, late_ns: int = 5 * MS) -> list[tuple[int, Chunk]]:
    """Its chunks as a driver stamps them, each a little after its last sample."""
    return [
        (end_ns(chunk) + late_ns, replace(chunk, arrived_ns=START_NS + end_ns(chunk) + late_ns))
        for chunk in session.chunks()
    ]


def recorded(session: TinySession) -> list[object]:
    pipeline = Pipeline(
        PipelineSetup(MODEL, tiny_engines(MODEL), SquareDetector()), session.specs, ManualClock()
    )
    found = [p for chunk in session.chunks() for p in pipeline.push(chunk)] + pipeline.finish()
    return [prediction.affect for prediction in found]


def test_a_live_session_gives_what_its_recording_gives_and_soon() -> None:
    session = TinySession(12)
    live = Live().run(arriving(session)).finish()
    assert [prediction.affect for _, prediction in live.given] == recorded(session)
    waits_ns = [now_ns - prediction.t_end_ns for now_ns, prediction in live.given]
    assert max(waits_ns) <= 10 * MS
    assert live.pipeline.counters == Counters(n_steps=12)


def test_when_everything_stalls_it_is_said_within_one_hop() -> None:
    live = Live().run(arriving(TinySession(4)), end_ns=9 * STEP_NS + 20 * MS)
    stalled = [(now_ns, p) for now_ns, p in live.given if p.window_index >= 4]
    assert [p.window_index for _, p in stalled] == [4, 5, 6, 7]
    for now_ns, prediction in stalled:
        assert now_ns - prediction.t_end_ns <= LATE_NS + 10 * MS
        assert LATE_NS <= STEP_NS
        assert prediction.status == "withheld"
        assert prediction.reasons == ("visual_missing", "audio_missing")


@pytest.mark.parametrize("gone", ["visual", "audio"])
def test_one_stalled_stream_stops_nothing(gone: str) -> None:
    chunks = [(t, c) for t, c in arriving(TinySession(12)) if c.modality != gone or c.t_ns < 4 * STEP_NS]
    live = Live().run(chunks, end_ns=13 * STEP_NS + 20 * MS)
    assert [p.window_index for _, p in live.given] == list(range(12))
    for now_ns, prediction in live.given[4:]:
        assert now_ns - prediction.t_end_ns <= LATE_NS + 10 * MS
        assert prediction.status == "degraded"
        assert f"{gone}_missing" in prediction.reasons


def test_duplicates_and_reordered_chunks_change_no_number() -> None:
    session = TinySession(12)
    chunks = arriving(session)
    sounds = [i for i, (_, chunk) in enumerate(chunks) if chunk.modality == "audio"]
    shuffled = list(chunks)
    for i in sounds[10:60:5]:
        shuffled[i] = chunks[i][0] + 90 * MS, chunks[i][1]
    again = [(comes_ns + 50 * MS, chunk) for comes_ns, chunk in chunks[20:80]]
    live = Live().run([*shuffled, *again]).finish()
    assert [prediction.affect for _, prediction in live.given] == recorded(session)
    assert live.health(AUDIO.name).n_reordered == 10
    assert live.pipeline.counters.n_late == 0
    n_again = sum(chunk.n_samples for _, chunk in again)
    assert live.pipeline.counters.n_duplicate == n_again


def test_late_data_are_counted_by_stream_and_not_used() -> None:
    chunks = [
        (t + (2 * NS if c.modality == "audio" and STEP_NS <= c.t_ns < 2 * STEP_NS else 0), c)
        for t, c in arriving(TinySession(12))
    ]
    live = Live().run(chunks).finish()
    assert [p.modalities["audio"].present for _, p in live.given] == [i != 1 for i in range(12)]
    assert live.health(AUDIO.name).n_late == pytest.approx(float(STEP) * RATE_HZ, abs=1)
    assert live.health(VISUAL.name).n_late == 0


def test_a_chunk_of_a_time_yet_to_come_is_refused() -> None:
    session = TinySession(8)
    ahead = [
        (t, replace(c, t_ns=c.t_ns + 3_600 * NS)) for t, c in arriving(session) if c.modality == "audio"
    ][40:50]
    live = Live().run([*arriving(session), *ahead]).finish()
    assert [prediction.affect for _, prediction in live.given] == recorded(session)
    assert live.pipeline.counters.n_refused == live.health(AUDIO.name).n_refused == 10
    assert MAX_AHEAD_NS <= NS


def drifting(
    ppm: float, seconds: int, basis: TimeBasis, random: np.random.Generator
) -> list[tuple[int, Chunk]]:
    """A microphone whose clock runs fast, a chunk every 20 ms."""
    size, found = RATE_HZ // 50, []
    for seq in range(seconds * 50):
        came_ns = round((seq + 1) * size * NS / (RATE_HZ * (1 + ppm * 1e-6))) + int(
            random.exponential(2 * MS)
        )
        data = np.full((size, 1), 0.1, np.float32)
        stamp_ns = max(0, came_ns - size * NS // RATE_HZ)
        found.append((came_ns, Chunk(AUDIO.name, "audio", seq, stamp_ns, data, basis, START_NS + came_ns)))
    return found


@pytest.mark.parametrize(("basis", "ppm"), [("driver", 500), ("arrival", -500)])
def test_a_device_that_drifts_leaves_no_gap_and_no_doubled_time(basis: TimeBasis, ppm: int) -> None:
    """45 s at 500 ppm are 22 ms, more than was once taken for a gap."""
    live = Live(TinySession(1, streams=("audio",)))
    live.run(drifting(ppm, 45, basis, np.random.default_rng(0)), end_ns=45 * NS)
    coverages = [p.modalities["audio"].coverage for _, p in live.given]
    assert min(coverages[1:]) == 1.0
    health = live.health(AUDIO.name)
    assert (health.n_gaps, health.n_late, health.n_duplicate) == (0, 0, 0)
    assert health.drift_ppm == pytest.approx(ppm, abs=10)
    assert health.n_corrections == pytest.approx(500e-6 * 45 * RATE_HZ, rel=0.2)
    assert live.pipeline.counters.n_corrections == health.n_corrections


def test_health_tells_what_came() -> None:
    session = TinySession(12)
    live = Live().run(arriving(session)).finish()
    sound, picture = live.health(AUDIO.name), live.health(VISUAL.name)
    assert (sound.modality, sound.nominal_hz, picture.nominal_hz) == ("audio", RATE_HZ, 30.0)
    assert sound.measured_hz == pytest.approx(RATE_HZ, rel=0.01)
    assert picture.measured_hz == pytest.approx(30, rel=0.05)
    assert sound.n_chunks + picture.n_chunks == len(list(session.chunks()))
    assert (
        sound.last_arrival_ns
        == START_NS + max(end_ns(c) for c in session.chunks() if c.modality == "audio") + 5 * MS
    )
    assert picture.newest_ns == max(c.t_ns for c in session.chunks() if c.modality == "visual")
    assert (sound.drift_ppm, picture.drift_ppm) == (pytest.approx(0, abs=1), None)
    assert picture.uncertainty_ns == 0
    before = Live().health(AUDIO.name)
    assert before == StreamHealth(AUDIO.name, "audio", float(RATE_HZ))
