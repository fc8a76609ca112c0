"""What a prediction costs on this device, and where the time goes."""

from __future__ import annotations

import gc
import itertools
import math
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import fmean, median, quantiles

from edge_mer.bundle.read import Bundle
from edge_mer.clock import NS_PER_S, Clock
from edge_mer.errors import DataError, UsageError
from edge_mer.runtime.golden import session_chunks, session_specs
from edge_mer.runtime.metering import Meter, MeteredPipeline, parts_of
from edge_mer.runtime.pipeline_setup import PipelineSetup
from edge_mer.runtime.session import ensure_all_ready, merged
from edge_mer.sources.base import Source
from edge_mer.sources.registry import open_source
from edge_mer.types.model import to_ns
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk, StreamSpec
from edge_mer.types.uri_keys import shown

OUTLIERS = 0.05
"""Part of the runs at either end that a median leaves out."""

WARM_UP_NS = NS_PER_S
TURN_NS = NS_PER_S // 2
"""How long the slowest goes on until it is the others' turn."""

MIN_RUNS = 10
"""With fewer predictions than these, percentiles say little."""

PowerMeter = Callable[[], "float | None"]
"""What the board draws just now, in watts; None where nothing measures it."""


@dataclass(frozen=True)
class Recording:
    """A session as it is played.

    Attributes:
        specs: Its streams.
        chunks: What sensors gave, in order of time.
    """

    specs: tuple[StreamSpec, ...]
    chunks: Iterable[Chunk]


Play = Callable[[], Generator[Recording, None, None]]
"""Gives one or more recordings from their beginnings, each time that it is called."""


@dataclass(frozen=True)
class Hop:
    """What one prediction cost.

    Attributes:
        parts_ns: Part -> nanoseconds.
        status: Of the prediction.
    """

    parts_ns: Mapping[str, int]
    status: str

    @property
    def whole_ms(self) -> float:
        """All parts in milliseconds."""
        return sum(self.parts_ns.values()) / 1e6


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
        whole: From the first of a hop's data to its prediction, all work counted, and no waiting.
        parts: Stage, "face detector", "face tracker", "step tensors", "runtime" -> of that; of each
            prediction they add up to the whole.
        hop_ms: Time between two predictions of a live session.
        n_by_status: How many predictions were ok, degraded, withheld.
        n_without: Stage -> for how many predictions it did not run: what is missing costs nothing.
        power_w: Mean of what the board drew meanwhile; None where nothing measures it.
    """

    whole: Spread
    parts: Mapping[str, Spread]
    hop_ms: float
    n_by_status: Mapping[str, int]
    n_without: Mapping[str, int]
    power_w: float | None

    @property
    def predictions_per_s(self) -> float:
        """As many as there were if each began when the one before it was done."""
        return 1000 / self.whole.p50

    @property
    def energy_mj(self) -> float | None:
        """What the whole board takes for a prediction, in millijoules."""
        return None if self.power_w is None else self.power_w * self.whole.p50


@dataclass(frozen=True)
class Ratio:
    """How many times as long one takes as another, by turns in one run.

    Attributes:
        median: Over the rounds.
        low: Lower end of the interval that holds the true median with 95 % certainty, as far as rounds tell.
        high: Upper end.
    """

    median: float
    low: float
    high: float


class Bench:
    """One setup on recordings that are played again and again.

    Args:
        setup: Model, engines, detector; whoever opened it closes it.
        play: What it is played.
        clock: What times are taken from.
        power_w: Asked after every prediction.

    Attributes:
        rounds: What each round's predictions cost.
    """

    def __init__(
        self, setup: PipelineSetup, play: Play, clock: Clock, power_w: PowerMeter = lambda: None
    ) -> None:
        self.rounds: list[list[Hop]] = []
        self._setup, self._play, self._clock, self._power_w = setup, play, clock, power_w
        self._watts: list[float] = []
        self._hops = self._endless()

    def close(self) -> None:
        """Leave the recording."""
        self._hops.close()

    def warm_up(self) -> float:
        """Predict for a second, which counts for nothing.

        Returns:
            What a prediction takes, in nanoseconds.

        Raises:
            DataError: There is no full window in the recordings.
        """
        until_ns = self._clock.now_ns() + WARM_UP_NS
        hops = [next(self._hops)]
        while self._clock.now_ns() < until_ns:
            hops.append(next(self._hops))
        return median(hop.whole_ms for hop in hops) * 1e6

    def turn(self, n: int) -> None:
        """Make so many predictions, and remember what they cost."""
        hops: list[Hop] = []
        for hop in itertools.islice(self._hops, n):
            hops.append(hop)
            if (power_w := self._power_w()) is not None:
                self._watts.append(power_w)
        self.rounds.append(hops)

    def cost(self) -> Cost:
        """What all rounds found; there was one at least."""
        hops = [hop for one in self.rounds for hop in one]
        return Cost(
            whole=spread([hop.whole_ms for hop in hops]),
            parts={
                part: spread([hop.parts_ns.get(part, 0) / 1e6 for hop in hops])
                for part in parts_of(self._setup)
            },
            hop_ms=float(self._setup.model.step * self._setup.hop_steps) * 1000,
            n_by_status=dict(Counter(hop.status for hop in hops).most_common()),
            n_without=self._n_without(hops),
            power_w=fmean(self._watts) if self._watts else None,
        )

    def _n_without(self, hops: Sequence[Hop]) -> dict[str, int]:
        counted = {
            stage: sum(stage not in one.parts_ns for one in hops) for stage in self._setup.model.stages
        }
        return {stage: n for stage, n in counted.items() if n}

    def medians_ms(self) -> list[float]:
        """Of each round, what its predictions cost."""
        return [trimmed_median([hop.whole_ms for hop in one]) for one in self.rounds]

    def _endless(self) -> Generator[Hop, None, None]:
        while True:
            n = 0
            with closing(self._play()) as recordings:
                for recording in recordings:
                    for hop in self._hops_of(recording):
                        n += 1
                        yield hop
            if n == 0:
                raise self._too_short()

    def _hops_of(self, recording: Recording) -> Iterator[Hop]:
        """Predictions with a full window; while it fills, encoders are skipped."""
        meter = Meter(self._clock)
        pipeline = MeteredPipeline(meter, self._setup, recording.specs)
        meter.is_filling = self._is_far_from_full(None)
        for chunk in recording.chunks:
            predictions = pipeline.push(chunk)
            if not predictions:
                continue
            spent_ns = meter.take()
            meter.is_filling = self._is_far_from_full(predictions[-1])
            if not all(self._is_full(one) for one in predictions):
                continue
            n = len(predictions)
            for one in predictions:
                yield Hop({part: ns // n for part, ns in spent_ns.items()}, one.status)

    def _is_far_from_full(self, last: Prediction | None) -> bool:
        """Whether after the next prediction there are still steps to come before the window is full."""
        n_done = 0 if last is None else self._n_done(last)
        return n_done + 2 * self._setup.hop_steps < self._setup.model.fusion.n_steps

    def _is_full(self, prediction: Prediction) -> bool:
        """Whether the window was full, and signals had settled."""
        is_long_enough = self._n_done(prediction) >= self._setup.model.fusion.n_steps
        return is_long_enough and "warming_up" not in prediction.reasons

    def _n_done(self, last: Prediction) -> int:
        return round(last.t_end_ns / to_ns(self._setup.model.step))

    def _too_short(self) -> DataError:
        model = self._setup.model
        window_s = float(model.step * (model.fusion.n_steps + self._setup.hop_steps))
        return DataError(
            f"not one prediction of model {model.name} with a full window to measure",
            expected=f"a recording of {window_s:.1f} s or more of {' and '.join(model.modalities)}",
            hint="play a longer one, or leave out --source",
        )


def from_golden(bundle: Bundle, n: int | None = None) -> Play:
    """A bundle's golden sessions, which every bundle has; the first `n` of them."""
    sessions = [bundle.read_arrays(name) for name in bundle.manifest.golden.sessions[:n]]
    recordings = [Recording(session_specs(one), session_chunks(one)) for one in sessions]
    return lambda: (one for one in recordings)


def from_sources(uris: Sequence[str]) -> Play:
    """Recordings that sources play; they are read while they are measured, so long ones fit, too.

    Raises:
        UsageError: An unknown source, or a live one: two runs on it would see different things.
        DataError: A source cannot be used.
    """
    sources = _opened(uris)
    if live := [shown(source.uri) for source in sources if source.is_live]:
        raise UsageError(
            f"cannot measure on {', '.join(live)}, which never gives the same twice",
            expected="recordings, e.g. file:clip.mp4",
        )
    try:
        ensure_all_ready(sources)
    finally:
        for source in sources:
            source.ensure_stopped()
    return lambda: _playing(_opened(uris))


def _opened(uris: Sequence[str]) -> list[Source]:
    return [open_source(uri) for uri in uris]


def _playing(sources: Sequence[Source]) -> Generator[Recording, None, None]:
    try:
        ensure_all_ready(sources)
        specs = tuple(spec for source in sources for spec in source.specs)
        for source in sources:
            source.start()
        yield Recording(specs, merged(sources))
    finally:
        for source in sources:
            source.ensure_stopped()


def run(
    benches: Sequence[Bench], seconds: float, clock: Clock, say: Callable[[int], None] = lambda _: None
) -> int:
    """Warm all of them up, and let them take turns on the same predictions until the time is up.

    Args:
        benches: One or more.
        seconds: How long, for each of them; all get one turn at least, and warming up comes on top.
        clock: What that is taken from.
        say: Called after each round with how many there were.

    Returns:
        The number of rounds.
    """
    slowest_ns = max(one.warm_up() for one in benches)
    n_per_turn = max(1, int(TURN_NS / slowest_ns)) if slowest_ns else 1
    gc.collect()
    until_ns, n_rounds = clock.now_ns() + round(seconds * len(benches) * NS_PER_S), 0
    while n_rounds == 0 or clock.now_ns() < until_ns:
        for one in benches if n_rounds % 2 == 0 else reversed(benches):
            one.turn(n_per_turn)
        n_rounds += 1
        say(n_rounds)
    return n_rounds


def ratio(numerator: Bench, denominator: Bench) -> Ratio:
    """How many times as long a prediction of one takes as of the other, round against round."""
    pairs = zip(numerator.medians_ms(), denominator.medians_ms(), strict=True)
    found = sorted(a / b for a, b in pairs)
    cut = max(0, math.floor(len(found) / 2 - 0.98 * math.sqrt(len(found))))  # binomial, by its normal limit
    return Ratio(median(found), found[cut], found[-1 - cut])


def spread(times_ms: Sequence[float]) -> Spread:
    """Of the times of one thing, one or more."""
    cuts = quantiles(times_ms, n=100, method="inclusive") if len(times_ms) > 1 else list(times_ms) * 99
    return Spread(trimmed_median(times_ms), cuts[94], cuts[98], len(times_ms))


def trimmed_median(times_ms: Iterable[float]) -> float:
    """Median without the fastest and slowest 5 %."""
    ordered = sorted(times_ms)
    cut = int(len(ordered) * OUTLIERS)
    return median(ordered[cut : len(ordered) - cut])
