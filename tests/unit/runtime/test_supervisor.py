"""A live source that breaks is opened again, and every prediction says how it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from edge_mer.clock import NS_PER_S, ManualClock
from edge_mer.errors import DataError, LostError, MissingError
from edge_mer.runtime.supervisor import SupervisedSource, supervised
from edge_mer.types.signals import Chunk, StreamSpec

MS = NS_PER_S // 1000
HOP_NS = NS_PER_S
SPEC = StreamSpec("s", "eda", ("sample", "channel"), (None, 1), "float32", 100.0, "uS", ("a",))

Event = Chunk | Exception | None


@dataclass
class Sensor:
    """A sensor that does what its script says, a life at a time: each opening begins the next one.

    Attributes:
        lives: What happens in each life, in order; an exception is raised. At a life's end it is silent.
        openings: What opening raises, opening by opening.
    """

    clock: ManualClock
    lives: list[list[Event]]
    openings: list[Exception | None] = field(default_factory=list)
    specs: tuple[StreamSpec, ...] = (SPEC,)
    is_live: bool = True
    ended: bool = False
    uri: str = "sensor:"
    calls: list[str] = field(default_factory=list)
    stops: Callable[[], None] = lambda: None

    def ensure_ready(self) -> None:
        self.calls.append("ready")
        failure = self.openings.pop(0) if self.openings else None
        if failure is not None:
            raise failure

    def start(self) -> None:
        self.calls.append("start")
        self._life: Iterator[Event] = iter(self.lives.pop(0) if self.lives else [])

    def read(self, timeout_ms: int) -> Chunk | None:
        event = next(self._life, None)
        if isinstance(event, Exception):
            raise event
        self.clock.advance_ns(100 * MS if event is not None else timeout_ms * MS)
        return event

    def ensure_stopped(self) -> None:
        self.calls.append("stop")
        self.stops()


def chunks(n: int) -> list[Event]:
    return [Chunk("s", "eda", i, i * 100 * MS, np.full((10, 1), i, np.float32)) for i in range(n)]


def opened(sensor: Sensor) -> SupervisedSource:
    source = SupervisedSource(sensor, sensor.clock, HOP_NS)
    source.ensure_ready()
    source.start()
    return source


def read_until_mended(source: SupervisedSource) -> list[Chunk]:
    """What comes, until the source was opened again and has delivered once more."""
    found = []
    before = source.health().n_restarts
    while True:
        chunk = source.read(20)
        if chunk is not None:
            found.append(chunk)
            if source.health().n_restarts > before:
                return found


def test_what_is_lost_is_opened_again_and_counts_on() -> None:
    sensor = Sensor(ManualClock(), [[*chunks(3), LostError("unplugged")], chunks(2)])
    source = opened(sensor)
    assert [source.read(10) is not None for _ in range(4)] == [True, True, True, False]
    assert source.state("s") == "restarting"
    found = read_until_mended(source)
    assert [chunk.seq for chunk in found] == [3]
    assert source.state("s") == "ok"
    assert sensor.calls == ["ready", "start", "stop", "ready", "start"]
    health = source.health()
    assert (health.n_restarts, health.n_failed, health.trouble) == (1, 0, "unplugged.")
    source.ensure_stopped()


def test_a_chunk_tells_when_it_came() -> None:
    sensor = Sensor(ManualClock(7), [chunks(2)])
    source = opened(sensor)
    assert [source.read(10).arrived_ns for _ in range(2)] == [7 + 100 * MS, 7 + 200 * MS]  # type: ignore[union-attr]


def test_silence_is_seen_within_half_a_hop_and_the_source_opened_again() -> None:
    sensor = Sensor(ManualClock(), [chunks(3), chunks(1)])
    source = opened(sensor)
    for _ in range(3):
        source.read(10)
    last_ns = sensor.clock.now_ns()
    while source.state("s") == "ok":
        assert source.read(20) is None
    assert sensor.clock.now_ns() - last_ns <= HOP_NS // 2 + 40 * MS
    assert "nothing came any more" in source.health().trouble
    assert len(read_until_mended(source)) == 1
    source.ensure_stopped()


def test_what_waits_unread_is_not_missing() -> None:
    came = [replace(chunk, arrived_ns=(i + 1) * 100 * MS) for i, chunk in enumerate(chunks(60)) if chunk]
    sensor = Sensor(ManualClock(), [[*came]])
    source = opened(sensor)
    for i in range(60):
        if i % 20 == 10:
            sensor.clock.advance_ns(3 * NS_PER_S)  # the session has other things to do
            assert source.state("s") in ("starting", "ok")
        assert source.read(0) is not None
        assert source.state("s") == "ok"
    assert source.health().n_restarts == 0


def test_opening_is_tried_again_until_it_works() -> None:
    tries = [None, MissingError("no such device"), DataError("not a camera"), RuntimeError("driver"), None]
    sensor = Sensor(ManualClock(), [[LostError("gone")], chunks(1)], tries)
    source = opened(sensor)
    assert len(read_until_mended(source)) == 1
    health = source.health()
    assert (health.n_restarts, health.n_failed) == (1, 3)
    assert "driver" in health.trouble
    source.ensure_stopped()


def test_another_sensor_in_its_place_is_not_taken() -> None:
    other = StreamSpec("s", "eda", ("sample", "channel"), (None, 1), "float32", 4.0, "uS", ("a",))
    sensor = Sensor(ManualClock(), [[LostError("gone")], chunks(1)])
    source = opened(sensor)
    sensor.specs = (other,)
    while source.health().n_failed == 0:
        assert source.read(20) is None
    assert "came back as something else" in source.health().trouble
    assert "4.0 Hz" in source.health().trouble
    source.ensure_stopped()


def test_samples_at_a_wrong_rate_lead_to_a_new_start() -> None:
    slow: list[Event] = [Chunk("s", "eda", i, 0, np.zeros((5, 1), np.float32)) for i in range(100)]
    sensor = Sensor(ManualClock(), [slow, chunks(1)])
    source = opened(sensor)
    n_read = 0
    while source.state("s") in ("starting", "ok"):
        source.read(10)
        n_read += 1
    assert source.state("s") == "wrong_rate"
    assert n_read * 100 * MS <= 2 * HOP_NS
    while source.state("s") != "restarting":
        source.read(10)
    assert "another rate" in source.health().trouble
    source.ensure_stopped()


def test_a_slow_camera_is_not_opened_again() -> None:
    camera = StreamSpec(
        "s",
        "visual",
        ("height", "width", "channel"),
        (None, None, 3),
        "uint8",
        30.0,
        "rgb24",
        ("r", "g", "b"),
    )
    dark: list[Event] = [Chunk("s", "visual", i, 0, np.zeros((1, 1, 3), np.uint8)) for i in range(200)]
    sensor = Sensor(ManualClock(), [dark], specs=(camera,))
    source = opened(sensor)
    for _ in range(200):
        assert source.read(10) is not None
    assert source.state("s") == "wrong_rate"
    assert source.health().n_restarts == 0


def test_what_is_no_matter_of_the_device_is_raised() -> None:
    source = opened(Sensor(ManualClock(), [[RuntimeError("a bug")]]))
    with pytest.raises(RuntimeError, match="a bug"):
        source.read(10)


def test_the_end_for_good_is_the_end() -> None:
    sensor = Sensor(ManualClock(), [chunks(1)])
    source = opened(sensor)
    source.read(10)
    sensor.ended = True
    for _ in range(100):
        assert source.read(20) is None
    assert source.ended
    assert source.health().trouble == ""


def test_stopping_does_not_wait_for_a_device_that_stays_away() -> None:
    refusals: list[Exception | None] = [None, *[MissingError("no such device")] * 1000]
    sensor = Sensor(ManualClock(), [[LostError("gone")]], refusals)
    source = opened(sensor)
    source.read(10)
    ending = threading.Thread(target=source.ensure_stopped)
    ending.start()
    ending.join(5)
    assert not ending.is_alive()
    assert sensor.calls[-1] == "stop"


def test_only_live_sources_are_supervised() -> None:
    clock = ManualClock()
    recorded, live = Sensor(clock, [], is_live=False), Sensor(clock, [])
    first, second = supervised([recorded, live], clock, HOP_NS)
    assert first is recorded
    assert isinstance(second, SupervisedSource)
