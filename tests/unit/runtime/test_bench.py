"""What predictions cost, on a clock that moves only where a test says that something takes time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_mer.clock import ManualClock
from edge_mer.daemon.health import power_w
from edge_mer.engine.base import Array, Engine
from edge_mer.errors import DataError, UsageError
from edge_mer.preprocess.face import Detection
from edge_mer.runtime.bench import (
    Bench,
    Hop,
    Play,
    Recording,
    from_sources,
    ratio,
    run,
    spread,
    trimmed_median,
)
from edge_mer.runtime.front import CpuFrontEnd, WriteClip, WriteSamples
from edge_mer.runtime.metering import DETECTOR, RUNTIME, TENSORS, TRACKER, Meter
from edge_mer.runtime.pipeline_setup import PipelineSetup
from edge_mer.types.model import Clip, Encoder
from edge_mer.types.signals import Chunk
from tests.helpers.numpy_engines import tiny_engines
from tests.helpers.tiny_model import N_STEPS, STEP, tiny_model
from tests.helpers.tiny_session import SquareDetector, TinySession

MS = 1_000_000
STEP_NS = int(STEP * 1_000_000_000)
COSTS_MS = {
    "visual": 5.0,
    "audio": 2.0,
    "fusion": 3.0,
    DETECTOR: 4.0,
    TRACKER: 0.0,
    TENSORS: 0.5,
    RUNTIME: 0.0,
}
"""Of one prediction: a step has four frames to search, and two tensors."""

WHOLE_MS = sum(COSTS_MS.values())


class SlowEngine(Engine):
    """Takes so long."""

    def __init__(self, inner: Engine, clock: ManualClock, took_ns: int) -> None:
        self._inner, self._clock, self._took_ns, self.n_runs = inner, clock, took_ns, 0
        self.stage, self.name, self.inputs = inner.stage, "slow", inner.inputs
        self.input_specs, self.output_specs = inner.input_specs, inner.output_specs

    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        self._clock.advance_ns(self._took_ns)
        return self._inner.run(feed)


class SlowDetector(SquareDetector):
    """Takes a millisecond."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    def detect(self, frame: NDArray[np.uint8]) -> list[Detection]:
        self._clock.advance_ns(MS)
        return super().detect(frame)


class SlowFrontEnd(CpuFrontEnd):
    """Takes a quarter of a millisecond for each tensor."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock

    def clip_writer(self, encoder: Encoder, spec: Clip, engine: Engine) -> WriteClip:
        assert isinstance(engine, SlowEngine), "writers see the engine itself: on a GPU they write into it"
        return self._slow(super().clip_writer(encoder, spec, engine))

    def sample_writer(self, encoder: Encoder, engine: Engine, stream_hz: float | None = None) -> WriteSamples:
        return self._slow(super().sample_writer(encoder, engine, stream_hz))

    def _slow(self, write: Callable[..., None]) -> Callable[..., None]:
        def slow(given: object) -> None:
            self._clock.advance_ns(MS // 4)
            write(given)

        return slow


def slow_setup(clock: ManualClock, factor: float = 1.0) -> PipelineSetup:
    """The tiny model, whose parts take `COSTS_MS`, its stages `factor` times as long."""
    engines = {
        stage: SlowEngine(engine, clock, int(COSTS_MS[stage] * factor * MS))
        for stage, engine in tiny_engines(tiny_model()).items()
    }
    return PipelineSetup(tiny_model(), engines, SlowDetector(clock), front_end=SlowFrontEnd(clock))


def plays(clock: ManualClock, session: TinySession | None = None) -> Play:
    """A session of eight steps, of which five have a full window; to read it takes time, too."""
    session = session or TinySession(n_steps=8)

    def play() -> Generator[Recording, None, None]:
        def read() -> Generator[object, None, None]:
            for chunk in session.chunks():
                clock.advance_ns(MS // 10)
                yield chunk

        yield Recording(tuple(session.specs), read())  # type: ignore[arg-type]

    return play


def measured(n: int = 7, **how: object) -> Bench:
    clock = ManualClock()
    bench = Bench(slow_setup(clock), plays(clock, **how), clock)  # type: ignore[arg-type]
    bench.turn(n)
    return bench


def test_parts_are_what_they_are_and_add_up_to_the_whole() -> None:
    cost = measured().cost()
    assert {part: found.p50 for part, found in cost.parts.items()} == COSTS_MS
    assert (cost.whole.p50, cost.whole.p95, cost.whole.p99, cost.whole.n) == (WHOLE_MS,) * 3 + (7,)
    assert cost.hop_ms == pytest.approx(8000 / 30)
    assert cost.predictions_per_s == pytest.approx(1000 / WHOLE_MS)
    assert (cost.n_without, cost.n_by_status) == ({}, {"ok": 7})


def test_steps_that_one_chunk_completes_share_its_cost() -> None:
    """Sound comes by four steps, after their frames; the first four only fill the window."""
    session, clock = TinySession(n_steps=12, chunk_samples=100_000), ManualClock()
    frames = [chunk for chunk in session.chunks() if chunk.modality == "visual"]
    sound = [chunk for chunk in session.chunks() if chunk.modality == "audio"]
    chunks: list[Chunk] = []
    for first in range(0, 12, 4):
        last_ns = (first + 4) * STEP_NS
        data = np.concatenate([chunk.data for chunk in sound[first : first + 4]])
        chunks += [one for one in frames if last_ns - 4 * STEP_NS <= one.t_ns < last_ns]
        chunks.append(replace(sound[first], data=data))
    bench = Bench(
        slow_setup(clock), lambda: (Recording(tuple(session.specs), chunks) for _ in range(1)), clock
    )
    bench.turn(8)
    assert [hop.whole_ms for hop in bench.rounds[0]] == [WHOLE_MS] * 8
    assert [hop.parts_ns["visual"] for hop in bench.rounds[0]] == [5 * MS] * 8


def test_time_within_a_part_of_a_part_counts_once() -> None:
    clock = ManualClock()
    meter = Meter(clock)

    def inner() -> None:
        clock.advance_ns(3)

    def outer() -> None:
        clock.advance_ns(10)
        meter.timed("inner", inner)
        clock.advance_ns(20)

    meter.timed("outer", outer)
    clock.advance_ns(100)
    assert meter.take() == {"outer": 30, "inner": 3}
    with pytest.raises(ZeroDivisionError):
        meter.timed("outer", lambda: 1 // 0)
    meter.timed("inner", inner)
    assert meter.take() == {"outer": 0, "inner": 3}


def test_a_window_is_filled_without_encoders_and_whole_when_it_counts() -> None:
    clock = ManualClock()
    setup = slow_setup(clock)
    bench = Bench(setup, plays(clock), clock)
    bench.turn(5)
    runs = {stage: engine.n_runs for stage, engine in setup.engines.items()}
    assert runs == {"visual": 6, "audio": 6, "fusion": 8}  # of eight steps, two only filled the window
    bench.turn(1)
    assert setup.engines["visual"].n_runs == 8, "played again from its beginning, and filled again"
    bench.close()


def test_a_face_that_is_missing_at_first_does_not_make_a_window_full() -> None:
    """Such predictions are withheld for want of a face, and do not say that the window was short."""
    bench = measured(5, session=TinySession(n_steps=8, faceless=(0, 1, 2)))
    assert [hop.parts_ns["audio"] for hop in bench.rounds[0]] == [2 * MS] * 5
    assert "withheld" not in {hop.status for hop in bench.rounds[0]}


def test_what_is_missing_is_told() -> None:
    cost = measured(5, session=TinySession(n_steps=8, faceless=(7,))).cost()
    assert cost.n_without == {"visual": 1, "fusion": 1}
    assert cost.n_by_status == {"ok": 4, "withheld": 1}
    assert cost.parts["visual"].p50 == COSTS_MS["visual"]
    assert (cost.parts["visual"].n, cost.whole.n) == (5, 5)


def test_a_recording_without_a_full_window_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"not one prediction .* 1\.3 s or more of visual and audio"
    ) as caught:
        measured(session=TinySession(n_steps=N_STEPS - 1))
    assert "play a longer one" in str(caught.value)


def test_all_take_turns_on_the_same_predictions_for_as_long_as_was_asked() -> None:
    clock = ManualClock()
    one, other = (Bench(slow_setup(clock, factor), plays(clock), clock) for factor in (10, 20))
    said: list[int] = []
    n_rounds = run([one, other], 3.0, clock, said.append)
    assert said == list(range(1, n_rounds + 1))
    n_per_turn = 2  # half a second of the slower one's predictions of 204.5 ms
    assert {len(hops) for bench in (one, other) for hops in bench.rounds} == {n_per_turn}
    assert len(one.rounds) == len(other.rounds) == n_rounds
    whole_s = n_rounds * n_per_turn * (104.5 + 204.5) / 1000
    assert whole_s < 2 * 3.0 + 0.7 < clock.now_ns() / 1e9 < 2 * (3.0 + 1.0) + 2.0
    assert ratio(other, one).median == pytest.approx(204.5 / 104.5)
    assert ratio(one, one) == ratio(other, other)
    assert ratio(one, one).median == 1.0


def test_each_begins_as_often_as_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = ManualClock(), list[Bench]()
    one, other = (Bench(slow_setup(clock, 100), plays(clock), clock) for _ in range(2))
    monkeypatch.setattr(Bench, "warm_up", lambda _: 500 * MS)
    turn = Bench.turn
    monkeypatch.setattr(Bench, "turn", lambda self, n: (order.append(self), turn(self, n)))
    assert run([one, other], 4.0, clock) >= 2
    assert order[:4] == [one, other, other, one]


def test_one_turn_is_had_although_there_is_no_time() -> None:
    clock = ManualClock()
    bench = Bench(slow_setup(clock, 1000), plays(clock), clock)
    assert run([bench], 0.0, clock) == 1
    assert bench.cost().whole.n == 1
    assert bench.cost().whole.p50 == pytest.approx(10_004.5)


def test_warming_up_counts_for_nothing() -> None:
    clock = ManualClock()
    bench = Bench(slow_setup(clock, 20), plays(clock), clock)
    assert bench.warm_up() == pytest.approx(204.5 * MS)
    assert clock.now_ns() >= 1_000 * MS
    assert bench.rounds == []


def test_outliers_are_left_out_of_the_median_only() -> None:
    times = [*([1.0] * 4), *range(10, 42), *([1e6] * 4)]
    assert trimmed_median(times) == 25.5
    assert trimmed_median([3.0]) == 3.0
    assert trimmed_median([1.0, 2.0, 3.0, 100.0]) == 2.5
    found = spread([float(n) for n in range(101)])
    assert (found.p50, found.p95, found.p99, found.n) == (50.0, 95.0, 99.0, 101)
    assert spread([7.0]) == spread([7.0] * 1)
    assert (spread([7.0]).p99, spread([7.0]).n) == (7.0, 1)


def of_rounds(wholes_ms: list[float]) -> Bench:
    clock = ManualClock()
    bench = Bench(slow_setup(clock), plays(clock), clock)
    bench.rounds = [[Hop({"visual": int(ms * MS)}, "ok")] for ms in wholes_ms]
    return bench


def test_a_ratio_says_how_sure_it_is() -> None:
    hundred = of_rounds([100.0] * 100)
    found = ratio(of_rounds([float(n) for n in range(1, 101)]), hundred)
    assert found.median == pytest.approx(0.505)
    assert (found.low, found.high) == (0.41, 0.60)  # of 100, the 41st to the 60th: 95 % by the binomial
    few = ratio(of_rounds([80.0, 120.0, 100.0]), of_rounds([100.0] * 3))
    assert (few.low, few.median, few.high) == (0.8, 1.0, 1.2)


def test_energy_is_power_times_time_where_a_sensor_is(tmp_path: Path) -> None:
    chip = tmp_path / "hwmon1"
    chip.mkdir()
    for name, text in {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": "5000"}.items():
        (chip / name).write_text(f"{text}\n")
    amperes = itertools.cycle(("1000", "3000"))

    def read() -> float | None:
        (chip / "curr1_input").write_text(next(amperes))
        return power_w(tmp_path)

    clock = ManualClock()
    bench = Bench(slow_setup(clock), plays(clock), clock, read)
    bench.turn(6)
    assert bench.cost().power_w == 10.0  # between 5 W and 15 W
    assert bench.cost().energy_mj == pytest.approx(10.0 * WHOLE_MS)
    without = Bench(slow_setup(clock), plays(clock), clock, partial(power_w, tmp_path / "none"))
    without.turn(6)
    assert (without.cost().power_w, without.cost().energy_mj) == (None, None)


def test_only_recordings_are_measured_on() -> None:
    with pytest.raises(UsageError, match=r"sim-live:.*never gives the same twice"):
        from_sources(["sim-live:seed=1"])
    with pytest.raises(UsageError, match="unknown source"):
        from_sources(["fil:clip.mp4"])


def test_a_source_is_played_from_its_beginning_each_time() -> None:
    play = from_sources(["sim:seed=4&duration_s=0.5&width=128&height=128"])

    def shown() -> list[tuple[str, int, int]]:
        return [
            (c.stream, c.t_ns, int(np.asarray(c.data).astype(np.float64).sum()))
            for r in play()
            for c in r.chunks
        ]

    first = shown()
    assert len(first) > 15
    assert shown() == first
