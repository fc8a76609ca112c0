"""One session from sources to sinks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from edge_mer.clock import NS_PER_S, Clock
from edge_mer.errors import DataError, EdgeMerError
from edge_mer.runtime.pipeline import Counters, Pipeline, PipelineSetup
from edge_mer.sinks.base import Sink
from edge_mer.sources.base import Source
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk

_READ_TIMEOUT_MS = 200


@dataclass
class SessionReport:
    """What a session came to.

    Attributes:
        n_by_status: Predictions per status.
        n_by_reason: Predictions per reason.
        counters: What the pipeline counted.
    """

    n_by_status: Counter[str] = field(default_factory=Counter)
    n_by_reason: Counter[str] = field(default_factory=Counter)
    counters: Counters = field(default_factory=Counters)

    @property
    def n_predictions(self) -> int:
        """All of them."""
        return sum(self.n_by_status.values())

    def count(self, prediction: Prediction) -> None:
        """Take one prediction into account."""
        self.n_by_status[prediction.status] += 1
        self.n_by_reason.update(prediction.reasons)


def run_session(
    setup: PipelineSetup,
    sources: Sequence[Source],
    sinks: Sequence[Sink],
    clock: Clock,
    report: SessionReport,
    *,
    fast: bool,
) -> None:
    """Play the sources to their end, or until interrupted.

    Args:
        setup: Model and engines.
        sources: Not yet opened.
        sinks: Not yet opened; they are closed at the end, and abandoned when the session fails.
        clock: Where the time comes from.
        report: Filled on the way, so that it tells of an interrupted session too.
        fast: Do not wait for the time at which a recording's data would have come.

    Raises:
        DataError: A source cannot be used, or there was not even one step in it.
        UsageError: A sink cannot be written to, or the streams do not fit the model.
    """
    try:
        _ensure_all_ready(sources)
        for sink in sinks:
            sink.open()
        _play(setup, sources, sinks, clock, report, fast=fast)
    except (KeyboardInterrupt, BrokenPipeError):
        _close(sinks)
        raise
    except BaseException:
        for sink in sinks:
            sink.abandon()
        raise
    finally:
        for source in sources:
            source.ensure_stopped()
    _close(sinks)


def _close(sinks: Sequence[Sink]) -> None:
    for sink in sinks:
        sink.close()


def _ensure_all_ready(sources: Sequence[Source]) -> None:
    """Open every source and report every failure at once."""
    failures: list[EdgeMerError] = []
    for source in sources:
        try:
            source.ensure_ready()
        except EdgeMerError as failure:
            failures.append(failure)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise DataError(f"{len(failures)} sources cannot be used: " + " ".join(str(one) for one in failures))


def _play(
    setup: PipelineSetup,
    sources: Sequence[Source],
    sinks: Sequence[Sink],
    clock: Clock,
    report: SessionReport,
    *,
    fast: bool,
) -> None:
    start_ns = None if fast else clock.now_ns()
    specs = [spec for source in sources for spec in source.specs]
    pipeline = Pipeline(setup, specs, clock, start_ns)
    report.counters = pipeline.counters
    rates = {spec.name: spec.rate_hz for spec in specs}
    for source in sources:
        source.start()
    for chunk in merged(sources):
        if start_ns is not None:
            clock.sleep_until_ns(start_ns + _end_ns(chunk, rates[chunk.stream]))
        _hand_on(pipeline.push(chunk), sinks, report)
    _hand_on(pipeline.finish(), sinks, report)
    if report.n_predictions == 0:
        raise DataError(
            f"{', '.join(source.uri for source in sources)}: not even one step of model {setup.model.name}",
            expected=f"at least {float(setup.model.step):.2f} s of {' or '.join(setup.model.modalities)}",
        )


def _hand_on(predictions: list[Prediction], sinks: Sequence[Sink], report: SessionReport) -> None:
    for prediction in predictions:
        report.count(prediction)
        for sink in sinks:
            sink.write(prediction)


def _end_ns(chunk: Chunk, rate_hz: float | None) -> int:
    """When a device could have delivered the chunk: after its last sample."""
    if chunk.modality == "visual" or rate_hz is None:
        return chunk.t_ns
    return chunk.t_ns + int(chunk.n_samples * NS_PER_S / rate_hz)


def merged(sources: Sequence[Source]) -> Iterator[Chunk]:
    """The chunks of several recordings in order of capture."""
    heads: dict[int, Chunk] = {}
    while True:
        for index, source in enumerate(sources):
            while index not in heads and not source.ended:
                chunk = source.read(_READ_TIMEOUT_MS)
                if chunk is not None:
                    heads[index] = chunk
        if not heads:
            return
        first = min(heads, key=lambda index: heads[index].t_ns)
        yield heads.pop(first)
