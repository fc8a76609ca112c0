"""Sessions that are recorded beside a model, and alone; and what plays them again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader

from edge_mer.clock import NS_PER_S, Clock, ManualClock
from edge_mer.errors import DataError, LostError, UsageError
from edge_mer.labels.manifest import read_manifest
from edge_mer.runtime.collect import collect
from edge_mer.runtime.labelled import measure
from edge_mer.runtime.recording import SessionRecording, record_sources
from edge_mer.runtime.session import SessionReport, run_session
from edge_mer.sources.base import Source
from edge_mer.sources.registry import open_source
from edge_mer.sources.replay import ReplaySource
from edge_mer.types.predictions import Prediction
from edge_mer.types.recording import CLOCKS_TOPIC, PREDICTIONS_TOPIC
from edge_mer.types.signals import Chunk, ClockOffset
from tests.helpers.fake_session import FakeSink, FakeSource, opened
from tests.helpers.recordings import SKIN, chunks_of, equal, played
from tests.helpers.tiny_session import TinySession

ZERO_NS = 7_000 * NS_PER_S
NS_PER_MS = 1_000_000
LATE_NS = 30 * NS_PER_MS
N_STEPS = 9
STATES = ("_stalled", "_wrong_rate", "_restarting")


class Sensor(FakeSource):
    """Live; each chunk comes a little after it was captured."""

    def __init__(self, clock: ManualClock, played: TinySession, **how: Any) -> None:
        super().__init__(played, clock, is_live=True, **how)
        self.late_ns = LATE_NS

    def read(self, timeout_ms: int) -> Chunk | None:
        chunk = super().read(timeout_ms)
        return None if chunk is None else replace(chunk, arrived_ns=self._clock.now_ns())


class Swapped(Sensor):
    """Two streams that come in another order than they were captured in, and one piece much too late."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock, TinySession(N_STEPS, silent={4}))
        chunks = [*TinySession(N_STEPS, silent={4}).chunks()]
        sound = [chunk for chunk in chunks if chunk.modality == "audio"]

        def came_ns(chunk: Chunk) -> int:  # no stream is silent for so long that its source is opened again
            late_ms = 900 if chunk is sound[len(sound) // 3] else 150 if chunk.modality == "audio" else 0
            return chunk.t_ns + late_ms * NS_PER_MS

        self._chunks = iter(sorted(chunks, key=came_ns))


def ran(
    sources: Iterable[Source], clock: Clock, to: Path | None = None, *, fast: bool = False
) -> list[Prediction]:
    """The predictions of a session of the tiny model, recorded if asked for."""
    session, sink, report = opened([*sources]), FakeSink(), SessionReport()
    recording = None if to is None else SessionRecording(to, session.sources, clock, report, _refuse)
    if recording is not None:
        recording.open()
    try:
        hooks = None if recording is None else recording.hooks
        run_session(session.setup, session.sources, [sink], clock, report, fast=fast, hooks=hooks)
    finally:
        if recording is not None:
            recording.close()
    return sink.written


def _refuse(what: str) -> None:
    raise AssertionError(what)


def timeless(predictions: list[Prediction]) -> list[dict[str, Any]]:
    """All but the fields of timing, and how live sources were."""
    found = [one.to_dict() for one in predictions]
    for record in found:
        del record["latency_ms"], record["utc"]
        record["reasons"] = [one for one in record["reasons"] if not one.endswith(STATES)]
        for modality in record["modalities"].values():
            del modality["source"]
    return found


@pytest.mark.parametrize("kind", [lambda clock: Sensor(clock, TinySession(N_STEPS, silent={3})), Swapped])
def test_a_replay_gives_the_live_runs_predictions(tmp_path: Path, kind: Any) -> None:
    clock = ManualClock(ZERO_NS)
    live = ran([kind(clock)], clock, tmp_path / "a.mcap")
    again = ran([open_source(f"mcap:{tmp_path / 'a.mcap'}")], ManualClock(), fast=True)
    assert len(live) == N_STEPS
    assert timeless(again) == timeless(live)


def test_a_replay_at_its_own_pace_gives_them_too(tmp_path: Path) -> None:
    clock = ManualClock(ZERO_NS)
    live = ran([Sensor(clock, TinySession(N_STEPS))], clock, tmp_path / "a.mcap")
    slow = ManualClock(5)
    assert timeless(ran([ReplaySource(str(tmp_path / "a.mcap"))], slow)) == timeless(live)
    assert slow.now_ns() >= (N_STEPS - 1) * 8 * NS_PER_S // 30  # it took that long


def test_a_session_of_recordings_is_recorded_whole(tmp_path: Path) -> None:
    first = ran([FakeSource(TinySession(N_STEPS))], ManualClock(), tmp_path / "a.mcap", fast=True)
    assert timeless(ran([ReplaySource(str(tmp_path / "a.mcap"))], ManualClock(), fast=True)) == timeless(
        first
    )
    chunks = [*TinySession(N_STEPS).chunks()]
    back = played(ReplaySource(str(tmp_path / "a.mcap")))
    assert all(equal(one, other) for one, other in zip(chunks, back, strict=True))


def test_a_recording_is_a_calibration_set(tmp_path: Path) -> None:
    ran([FakeSource(TinySession(N_STEPS))], ManualClock(), tmp_path / "a.mcap", fast=True)
    first = collect(opened([]).setup, [FakeSource(TinySession(N_STEPS))])
    again = collect(opened([]).setup, [ReplaySource(str(tmp_path / "a.mcap"))])
    assert len(again) == len(first) == N_STEPS
    for one, other in zip(first, again, strict=True):
        assert all(np.array_equal(one.inputs[stage], other.inputs[stage]) for stage in one.inputs)
    manifest = tmp_path / "people.csv"
    manifest.write_text("person,sources,labels\nanna,a.mcap,a.csv\nben,mcap:a.mcap;,b.csv\n")
    (anna, ben), _ = read_manifest(manifest)
    assert anna.sources == ben.sources == (f"mcap:{tmp_path}/a.mcap",)
    assert anna.name == ben.name == "a.mcap"
    extent = measure(anna.sources[0])
    assert extent.frames_ns is not None
    assert len(extent.frames_ns) == N_STEPS * 8


def test_of_what_is_redacted_only_features_are_kept(tmp_path: Path) -> None:
    session, report, clock = (
        opened([FakeSource(TinySession(N_STEPS, silent={4}))]),
        SessionReport(),
        ManualClock(),
    )
    path, model = tmp_path / "a.mcap", session.bundle.manifest.model
    recording = SessionRecording(
        path, session.sources, clock, report, _refuse, bundle=session.bundle.manifest, redacted=["audio"]
    )
    recording.open()
    run_session(session.setup, session.sources, [], clock, report, fast=True, hooks=recording.hooks)
    recording.close()
    source = ReplaySource(str(path))
    assert {chunk.modality for chunk in played(source)} == {"visual"}
    assert source.session is not None
    assert source.session.redacted == ("audio",)
    (stage,) = [encoder.stage for encoder in model.encoders if encoder.modality == "audio"]
    traces = collect(opened([]).setup, [FakeSource(TinySession(N_STEPS, silent={4}))])
    found = [json.loads(message.data) for message in messages_of(path, f"/edge-mer/features/{stage}")]
    assert [one["step"] for one in found] == list(range(N_STEPS))
    assert [one["present"] for one in found] == [step != 4 for step in range(N_STEPS)]
    for one, trace in zip(found, traces, strict=True):
        assert np.array_equal(np.array(one["values"], np.float32), trace.features[stage][0, -1])


def messages_of(path: Path, topic: str) -> list[Any]:
    with path.open("rb") as file:
        return [message for _, _, message in make_reader(file).iter_messages(topics=[topic])]


def test_times_of_arrival_and_of_predictions_are_kept(tmp_path: Path) -> None:
    clock = ManualClock(ZERO_NS)
    live = ran([Sensor(clock, TinySession(N_STEPS))], clock, tmp_path / "a.mcap")
    source = ReplaySource(str(tmp_path / "a.mcap"))
    source.ensure_ready()
    assert source.session is not None
    zero_ns = source.session.utc_zero_ns
    source.ensure_stopped()
    assert zero_ns == int(clock.utc().timestamp()) * NS_PER_S
    for message in messages_of(tmp_path / "a.mcap", "/test/audio"):
        assert message.log_time - message.publish_time >= LATE_NS
    made = messages_of(tmp_path / "a.mcap", PREDICTIONS_TOPIC)
    assert [message.publish_time - zero_ns for message in made] == [one.t_end_ns for one in live]
    assert all(message.log_time > message.publish_time for message in made[:-1])


class Remote:
    """One live stream that a clock a year ahead stamps, and looks at that clock."""

    uri, is_live, ended = "remote:", True, False
    specs = (SKIN,)
    ahead_ns = 365 * 86_400 * NS_PER_S

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._chunks = iter(chunks_of((SKIN,), 4))

    def ensure_ready(self) -> None: ...

    def start(self) -> None: ...

    def ensure_stopped(self) -> None: ...

    def read(self, timeout_ms: int) -> Chunk | None:
        chunk = next(self._chunks, None)
        if chunk is None:
            self.ended = True
            return None
        self._clock.advance_ns(NS_PER_S // 10)
        return replace(chunk, t_ns=self._clock.now_ns() + self.ahead_ns, time_basis="remote")

    def clock_offsets(self) -> list[ClockOffset]:
        now_ns = self._clock.now_ns()
        return [ClockOffset(SKIN.name, now_ns + self.ahead_ns, now_ns, 1000)]


def test_looks_at_remote_clocks_are_kept(tmp_path: Path) -> None:
    clock, report = ManualClock(ZERO_NS), SessionReport()
    sources = [Remote(clock)]
    recording = SessionRecording(tmp_path / "a.mcap", sources, clock, report, _refuse)
    recording.open()
    record_sources(sources, clock, report, recording.hooks)
    recording.close()
    looks = messages_of(tmp_path / "a.mcap", CLOCKS_TOPIC)
    assert looks
    back = played(ReplaySource(str(tmp_path / "a.mcap")))
    assert [chunk.t_ns for chunk in back] == [i * NS_PER_S // 10 for i in (1, 2, 3, 4)]
    assert {chunk.time_basis for chunk in back} == {"remote"}
    for message in messages_of(tmp_path / "a.mcap", f"/{SKIN.name}"):
        assert b'"given_ns": 3154' in message.data


# -- sources alone --------------------------------------------------------------------------------


def recorded(
    to: Path,
    *sources: Source,
    clock: ManualClock | None = None,
    fast: bool = False,
    duration_ns: int | None = None,
) -> SessionRecording:
    clock, report = clock or ManualClock(), SessionReport()
    recording = SessionRecording(to, sources, clock, report, _refuse)
    recording.open()
    try:
        hooks = recording.hooks_until(duration_ns)
        record_sources(sources, clock, report, hooks, fast=fast)
    finally:
        recording.close()
    return recording


def test_sources_are_recorded_without_a_model(tmp_path: Path) -> None:
    chunks = [*TinySession(4).chunks()]
    source = FakeSource(TinySession(4))
    recorded(tmp_path / "a.mcap", source, fast=True)
    assert source.is_stopped
    back = played(ReplaySource(str(tmp_path / "a.mcap")))
    assert all(equal(one, other) for one, other in zip(chunks, back, strict=True))


@pytest.mark.parametrize("is_live", [True, False])
def test_a_recording_ends_after_its_duration(tmp_path: Path, is_live: bool) -> None:
    clock = ManualClock(ZERO_NS)
    source = FakeSource(TinySession(20), clock, is_live=is_live)
    recorded(tmp_path / "a.mcap", source, clock=clock, duration_ns=NS_PER_S)
    back = played(ReplaySource(str(tmp_path / "a.mcap")))
    assert NS_PER_S - 40_000_000 <= max(chunk.t_ns for chunk in back) <= NS_PER_S


def test_what_came_before_a_failure_is_kept(tmp_path: Path) -> None:
    source = FakeSource(TinySession(4), fails="read", fails_at=20, error=LostError("the camera is gone"))
    with pytest.raises(LostError, match="camera is gone"):
        recorded(tmp_path / "a.mcap", source, fast=True)
    assert source.is_stopped
    assert len(played(ReplaySource(str(tmp_path / "a.mcap")))) >= 19


def test_a_source_that_cannot_be_opened_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not found"):
        recorded(tmp_path / "a.mcap", open_source(f"file:{tmp_path / 'no.mp4'}"))
    assert not (tmp_path / "a.mcap").exists()


def test_a_live_source_is_not_recorded_faster_than_it_comes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="as fast as it goes"):
        recorded(tmp_path / "a.mcap", FakeSource(TinySession(4), is_live=True), fast=True)
