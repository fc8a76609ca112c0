"""What a prediction costs on this device, and where the time goes."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median, quantiles
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.bundle.read import Bundle
from edge_mer.clock import NS_PER_S, Clock, ManualClock
from edge_mer.engine.base import Array, Engine
from edge_mer.errors import DataError, UsageError
from edge_mer.preprocess.face import Detection, FaceDetector
from edge_mer.runtime.golden import session_chunks, session_specs
from edge_mer.runtime.pipeline import Pipeline, PipelineSetup
from edge_mer.runtime.proof import golden_sessions
from edge_mer.runtime.session import merged
from edge_mer.sources.base import Source
from edge_mer.types.signals import Chunk, StreamSpec

DETECTOR, RUNTIME = "face detector", "runtime"
"""Names of the parts of a prediction's cost that are no stage of the model."""

OUTLIERS = 0.05
"""Part of the runs at either end that a median leaves out, as NVIDIA's VPI does."""

MIN_ROUNDS = 3


@dataclass(frozen=True)
class Recording:
    """A session in memory, decoded, so that only its inference takes time.

    Attributes:
        specs: Its streams.
        chunks: What sensors gave, in order of time.
    """

    specs: tuple[StreamSpec, ...]
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Spread:
    """Times of one thing in milliseconds.

    Attributes:
        p50: Median, without the fastest and slowest 5 %.
        p95: Of all runs.
        p99: Of all runs.
        n: How many runs.
    """

    p50: float
    p95: float
    p99: float
    n: int


@dataclass(frozen=True)
class Cost:
    """What a prediction of one setup costs.

    Attributes:
        label: Who it is.
        precision: What it really runs.
        engine: In which engine.
        whole: From the first of a hop's data to its prediction, all work counted.
        parts: Stage, "face detector", "runtime" -> of that. The runtime is everything else: chunks to
            windows, preprocessing, decoding, records.
        hop_ms: Time between two predictions of a live session.
    """

    label: str
    precision: str
    engine: str
    whole: Spread
    parts: Mapping[str, Spread]
    hop_ms: float

    @property
    def predictions_per_s(self) -> float:
        """As many as one session after the other would get."""
        return 1000 / self.whole.p50


@dataclass(frozen=True)
class Ratio:
    """How many times as long one takes as another, by turns in one run.

    Attributes:
        median: Over the rounds.
        low: The smallest of a round.
        high: The largest.
    """

    median: float
    low: float
    high: float


class _Meter:
    """Adds up what parts of a hop take."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._spent_ns: dict[str, int] = {}

    def timed(self, part: str, work: Callable[[], Any]) -> Any:
        began_ns = self._clock.now_ns()
        try:
            return work()
        finally:
            took_ns = self._clock.now_ns() - began_ns
            self._spent_ns[part] = self._spent_ns.get(part, 0) + took_ns

    def take(self) -> dict[str, int]:
        """What was added up since the last time."""
        spent_ns, self._spent_ns = self._spent_ns, {}
        return spent_ns


class _TimedEngine(Engine):
    """An engine whose runs are timed."""

    def __init__(self, inner: Engine, meter: _Meter) -> None:
        self._inner, self._meter = inner, meter
        self.stage, self.name = inner.stage, inner.name
        self.input_specs, self.output_specs = inner.input_specs, inner.output_specs
        self.inputs, self.n_runs = inner.inputs, 0

    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        found: dict[str, Array] = self._meter.timed(self.stage, lambda: self._inner._run(feed))
        return found

    def read_input(self, name: str) -> Array:
        """As the engine itself."""
        return self._inner.read_input(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)  # what a GPU's front end asks for


class _TimedDetector:
    """A face detector whose searches are timed."""

    def __init__(self, inner: FaceDetector, meter: _Meter) -> None:
        self._inner, self._meter, self.name = inner, meter, inner.name

    def detect(self, frame: NDArray[np.uint8]) -> list[Detection]:
        """As the detector itself."""
        found: list[Detection] = self._meter.timed(DETECTOR, lambda: self._inner.detect(frame))
        return found


@dataclass
class Bench:
    """One setup on one recording, round by round.

    Attributes:
        label: Who it is.
        setup: Model, engines, detector.
        recordings: What it is played in each round, one session each.
        clock: What times are taken from.
        rounds: Of each round, what each prediction took: part -> nanoseconds, "" -> all of it.
    """

    label: str
    setup: PipelineSetup
    recordings: Sequence[Recording]
    clock: Clock
    rounds: list[list[dict[str, int]]] = field(default_factory=list)

    def warm_up(self) -> None:
        """Play everything once, which counts for nothing."""
        self.play()
        self.rounds.clear()

    def play(self) -> None:
        """Play everything once."""
        meter = _Meter(self.clock)
        engines = {stage: _TimedEngine(one, meter) for stage, one in self.setup.engines.items()}
        found = self.setup.detector
        detector = None if found is None else _TimedDetector(found, meter)
        timed = replace(self.setup, engines=engines, detector=detector)
        self.rounds.append([hop for one in self.recordings for hop in self._hops(timed, one, meter)])

    def _hops(self, setup: PipelineSetup, recording: Recording, meter: _Meter) -> Iterator[dict[str, int]]:
        """Of each prediction with a full window, what its parts took."""
        pipeline = Pipeline(setup, recording.specs, ManualClock())
        whole_ns = 0
        for chunk in recording.chunks:
            began_ns = self.clock.now_ns()
            predictions = pipeline.push(chunk)
            whole_ns += self.clock.now_ns() - began_ns
            if not predictions:
                continue
            spent_ns = meter.take()
            if all("warming_up" not in one.reasons for one in predictions):
                n = len(predictions)
                yield {part: ns // n for part, ns in ({"": whole_ns} | spent_ns).items()}
            whole_ns = 0

    def cost(self) -> Cost:
        """What all rounds found.

        Raises:
            DataError: There was no full window in the recordings.
        """
        hops = [hop for one in self.rounds for hop in one]
        if not hops:
            raise DataError(
                f"not even one full window of model {self.setup.model.name} to measure",
                expected="a longer recording, with all that the model looks at",
            )
        names = [*self.setup.model.stages, *((DETECTOR,) if self.setup.detector is not None else ())]
        parts = {name: spread([hop.get(name, 0) / 1e6 for hop in hops]) for name in names}
        parts[RUNTIME] = spread([_rest_ns(hop) / 1e6 for hop in hops])
        return Cost(
            label=self.label,
            precision=self.setup.precision,
            engine=self.setup.engine_name,
            whole=spread([hop[""] / 1e6 for hop in hops]),
            parts=parts,
            hop_ms=float(self.setup.model.step * self.setup.hop_steps) * 1000,
        )

    def medians_ms(self) -> list[float]:
        """Of each round, what its predictions cost in all."""
        return [trimmed_median([hop[""] / 1e6 for hop in one]) for one in self.rounds]


def golden_recordings(bundle: Bundle) -> list[Recording]:
    """A bundle's golden sessions, which every bundle has."""
    sessions = golden_sessions(bundle.manifest, bundle.read_arrays)
    return [Recording(session_specs(one), tuple(session_chunks(one))) for one in sessions]


def recording_of(sources: Sequence[Source], seconds: float) -> Recording:
    """So much of what sources give, decoded.

    Raises:
        DataError: A source cannot be used.
        UsageError: A source is live: two runs on it would see different things.
    """
    if live := [source.uri for source in sources if source.is_live]:
        raise UsageError(
            f"cannot measure on {', '.join(live)}, which never give the same twice",
            expected="recordings, e.g. file:clip.mp4",
        )
    try:
        for source in sources:
            source.ensure_ready()
        specs = tuple(spec for source in sources for spec in source.specs)
        for source in sources:
            source.start()
        until_ns = round(seconds * NS_PER_S)
        return Recording(specs, tuple(itertools.takewhile(lambda one: one.t_ns < until_ns, merged(sources))))
    finally:
        for source in sources:
            source.ensure_stopped()


def _rest_ns(hop: Mapping[str, int]) -> int:
    return hop[""] - sum(ns for part, ns in hop.items() if part)


def run(benches: Sequence[Bench], seconds: float, say: Callable[[int], None] = lambda _: None) -> int:
    """Let all of them take turns until the time is up, each at least `MIN_ROUNDS` times.

    Args:
        benches: One or more.
        seconds: How long, in all; warming up comes on top.
        say: Called after each round with how many there were.

    Returns:
        The number of rounds.
    """
    for one in benches:
        one.warm_up()
    until_s, n_rounds = time.monotonic() + seconds, 0
    gc.collect()
    while n_rounds < MIN_ROUNDS or time.monotonic() < until_s:
        for one in benches if n_rounds % 2 == 0 else reversed(benches):
            one.play()
        n_rounds += 1
        say(n_rounds)
    return n_rounds


def ratio(numerator: Bench, denominator: Bench) -> Ratio:
    """How many times as long a prediction of one takes as of the other, round against round."""
    pairs = zip(numerator.medians_ms(), denominator.medians_ms(), strict=True)
    found = sorted(a / b for a, b in pairs)
    return Ratio(median(found), found[0], found[-1])


def spread(times_ms: Sequence[float]) -> Spread:
    """Of the times of one thing, one or more."""
    cuts = quantiles(times_ms, n=100, method="inclusive") if len(times_ms) > 1 else list(times_ms) * 99
    return Spread(trimmed_median(times_ms), cuts[94], cuts[98], len(times_ms))


def trimmed_median(times_ms: Iterable[float]) -> float:
    """Median without the fastest and slowest 5 %."""
    ordered = sorted(times_ms)
    cut = int(len(ordered) * OUTLIERS)
    return median(ordered[cut : len(ordered) - cut])
