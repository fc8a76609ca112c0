"""One session from sources to sinks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from edge_mer.clock import NS_PER_S, Clock
from edge_mer.errors import DataError, EdgeMerError, UsageError
from edge_mer.runtime.arrivals import as_they_come, check_chunk, end_ns, never, since_start, wait_until
from edge_mer.runtime.arrivals import merged as merged  # proofs and calibration play recordings too
from edge_mer.runtime.clocks import RemoteClocks
from edge_mer.runtime.memory import give_back_memory
from edge_mer.runtime.people import PeoplePipeline
from edge_mer.runtime.pipeline import Counters, Pipeline, PipelineSetup, StepTrace
from edge_mer.runtime.supervisor import SourceHealth, SupervisedSource, health_of, supervised
from edge_mer.runtime.switching import MakePipeline, SwitchingPipeline
from edge_mer.runtime.window import LiveStreams
from edge_mer.sinks.base import Sink
from edge_mer.sinks.sink_thread import SinkHealth, SinkThread, sink_health
from edge_mer.sources.base import RemotelyClocked, Replayed, Source
from edge_mer.sync.windower import lateness_ns
from edge_mer.types.health import ServerHealth, StreamHealth
from edge_mer.types.model import to_ns
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk, ClockOffset, StreamSpec
from edge_mer.types.uri_keys import shown

GIVE_BACK_EVERY_NS = 60 * NS_PER_S
"""So often a live session returns freed memory, which takes some milliseconds."""


def _no_server() -> ServerHealth | None:
    """This device runs the stages."""
    return None


@dataclass
class SessionReport:
    """What a session came to.

    Attributes:
        n_by_status: Predictions per status.
        n_by_reason: Predictions per reason.
        counted: Says what the pipeline counted; any thread may call it.
        start_ns: The clock's time at the session's zero; None before it starts, and when a
            recording is played as fast as it goes.
        sources: Says how each live source is; any thread may call it.
        streams: Says what came of each stream that the model looks at; any thread may call it.
        sinks: Says how each sink is; any thread may call it.
        server: Says how the inference server is that runs the stages; None: this device does. Any thread may
            call it.
    """

    n_by_status: Counter[str] = field(default_factory=Counter)
    n_by_reason: Counter[str] = field(default_factory=Counter)
    counted: Callable[[], Counters] = Counters
    start_ns: int | None = None
    sources: Callable[[], list[SourceHealth]] = list
    streams: Callable[[], tuple[StreamHealth, ...]] = tuple
    sinks: Callable[[], list[SinkHealth]] = list
    server: Callable[[], ServerHealth | None] = _no_server

    @property
    def counters(self) -> Counters:
        """What the pipeline counted so far."""
        return self.counted()

    @property
    def n_predictions(self) -> int:
        """All of them."""
        return sum(self.n_by_status.values())

    def count(self, prediction: Prediction) -> None:
        """Take one prediction into account."""
        self.n_by_status[prediction.status] += 1
        self.n_by_reason.update(prediction.reasons)


def _nothing(*_: object) -> None: ...


@dataclass(frozen=True)
class SessionHooks:
    """Who else is told, and asked, while a session runs; all on the thread that runs it.

    Attributes:
        on_start: Called once sources and sinks are open, before the first chunk is read.
        on_prediction: Called with each prediction after the sinks took it.
        on_chunk: Called with each chunk before it is worked on, as the session takes it, and as its source
            gave it.
        on_offset: Called with each look at a remote clock.
        on_time: Called with the times of a live session up to which all that came has been given.
        on_step: Called after each step with copies of its tensors; None spares the copying.
        should_stop: Asked between two chunks, and at least every `READ_TIMEOUT_MS`.
        on_switchable: Given what can put another pipeline in the place of the one that runs; None: none can.
    """

    on_start: Callable[[], None] = _nothing
    on_prediction: Callable[[Prediction], None] = _nothing
    should_stop: Callable[[], bool] = never
    on_chunk: Callable[[Chunk, Chunk], None] = _nothing
    on_offset: Callable[[ClockOffset], None] = _nothing
    on_time: Callable[[int], None] = _nothing
    on_step: Callable[[StepTrace], None] | None = None
    on_switchable: Callable[[SwitchingPipeline], None] | None = None

    def before(self, other: SessionHooks) -> SessionHooks:
        """These, and after them another's start and predictions; the other says when to stop."""

        def on_start() -> None:
            self.on_start()
            other.on_start()

        def on_prediction(prediction: Prediction) -> None:
            self.on_prediction(prediction)
            other.on_prediction(prediction)

        return replace(
            self,
            on_start=on_start,
            on_prediction=on_prediction,
            should_stop=other.should_stop,
            on_switchable=other.on_switchable,
        )


def is_live(sources: Iterable[Source]) -> bool:
    """Whether there is a sensor among them, which cannot wait."""
    return any(source.is_live for source in sources)


def run_session(
    setup: PipelineSetup,
    sources: Sequence[Source],
    sinks: Sequence[Sink],
    clock: Clock,
    report: SessionReport,
    *,
    fast: bool,
    hooks: SessionHooks | None = None,
    first_step: int = 0,
    from_ns: int = 0,
) -> None:
    """Play the sources to their end, or until interrupted or stopped.

    Args:
        setup: Model and engines.
        sources: Not yet opened.
        sinks: Not yet opened; they are closed at the end, and abandoned when the session fails.
        clock: Where the time comes from.
        report: Filled on the way, so that it tells of an interrupted session too.
        fast: Do not wait for the time at which a recording's data would have come.
        hooks: Who else is told of predictions, and may stop the session.
        first_step: Of a recording: where to begin; the first step of a hop.
        from_ns: Of a recording: what was captured before is left out.

    Raises:
        DataError: A source cannot be used, or there was not even one step in it.
        UsageError: A sink cannot be written to, or the streams do not fit the model.
    """
    failure: BaseException | None = None
    sources = supervised(sources, clock, _hop_ns(setup))
    if is_live(sources):
        sinks = threads = [SinkThread(sink) for sink in sinks]
        report.sinks = lambda: [sink.health() for sink in threads]
    else:
        waited_for = list(sinks)
        report.sinks = lambda: [sink_health(sink) for sink in waited_for]
    report.sources = partial(health_of, sources)
    if setup.server is not None:
        report.server = setup.server.health
    try:
        check_pace(sources, fast=fast)
        ensure_all_ready(sources)
        for sink in sinks:
            sink.open()
        _play(setup, sources, sinks, clock, report, hooks or SessionHooks(), fast, first_step, from_ns)
    except BaseException as error:  # raised again once everything is released
        failure = error
    is_whole = failure is None or isinstance(failure, (KeyboardInterrupt, BrokenPipeError))
    endings = [source.ensure_stopped for source in sources]
    endings += [sink.close if is_whole else sink.abandon for sink in sinks]
    failure = end_all(endings, failure)
    if failure is not None:
        raise failure


def end_all(endings: Iterable[Callable[[], None]], failure: BaseException | None) -> BaseException | None:
    """Carry out every ending, whatever the others do; the first failure is the one that counts."""
    for end in endings:
        try:
            end()
        except Exception as error:
            failure = failure or error
    return failure


def check_pace(sources: Sequence[Source], *, fast: bool) -> None:
    """Refuse sources that cannot be played together, or not so fast.

    Raises:
        UsageError: Live ones beside recorded ones, or as fast as it goes.
    """
    live = [shown(source.uri) for source in sources if source.is_live]
    if live and fast:
        raise UsageError(
            f"{', '.join(live)}: a live source cannot be played as fast as it goes",
            hint="leave out fast, or play a recording",
        )
    if live and len(live) < len(sources):
        recorded = ", ".join(shown(source.uri) for source in sources if not source.is_live)
        raise UsageError(
            f"live and recorded sources have no time in common: {', '.join(live)} and {recorded}",
            expected="only live sources, or only recordings",
        )


def ensure_all_ready(sources: Sequence[Source]) -> None:
    """Open every source and report every failure at once.

    Raises:
        EdgeMerError: What they have to say.
    """
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
    hooks: SessionHooks,
    fast: bool,
    first_step: int,
    from_ns: int,
) -> None:
    report.start_ns = None if fast else clock.now_ns()
    specs = {spec.name: spec for source in sources for spec in source.specs}
    live = _Live(sources) if is_live(sources) else None
    make = _pipelines(sources, clock, report.start_ns, hooks, live)
    pipeline: Pipeline | SwitchingPipeline
    if hooks.on_switchable is None:
        pipeline = make(setup, first_step)
    else:
        pipeline = SwitchingPipeline(make, setup)
        hooks.on_switchable(pipeline)
    report.counted, report.streams = lambda: pipeline.counters, pipeline.health
    for source in sources:
        source.start()
    hooks.on_start()
    clocks = None if live is None else live.clocks
    try:
        for found in timed_chunks(sources, specs, clock, report.start_ns, hooks, clocks):
            if isinstance(found, Chunk) and found.t_ns < from_ns:
                continue
            predictions = pipeline.advance(found) if isinstance(found, int) else pipeline.push(found)
            _hand_on(predictions, sinks, report, hooks)
        if hooks.should_stop():
            return
        _hand_on(pipeline.finish(), sinks, report, hooks)
    finally:
        if isinstance(pipeline, SwitchingPipeline):
            pipeline.abandon()
    if report.n_predictions == 0:
        raise _too_short(setup, sources, pipeline.counters.n_steps)


def _pipelines(
    sources: Sequence[Source],
    clock: Clock,
    start_ns: int | None,
    hooks: SessionHooks,
    live: LiveStreams | None,
) -> MakePipeline:
    """How this session makes a pipeline."""
    specs = [spec for source in sources for spec in source.specs]

    def make(setup: PipelineSetup, first_step: int) -> Pipeline:
        kind = Pipeline if setup.people is None else PeoplePipeline
        late_ns = lateness_ns(setup.model, setup.hop_steps) if _goes_by_the_clock(sources) else None
        return kind(setup, specs, clock, start_ns, hooks.on_step, late_ns, live, first_step)

    return make


class _Live:
    """What a session with live sources knows of their streams.

    Attributes:
        sources: All, under supervision.
        clocks: Those of other machines.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = [source for source in sources if isinstance(source, SupervisedSource)]
        self.clocks = RemoteClocks()

    def state(self, stream: str) -> str | None:
        """How its source is."""
        return next((one.state(stream) for one in self.sources if stream in one.streams), None)

    def clock_uncertainty_ns(self, stream: str) -> int | None:
        """How far off its clock may be."""
        return self.clocks.uncertainty_ns(stream)

    def is_clock_known(self, stream: str) -> bool:
        """Whether its clock is known well enough."""
        return self.clocks.is_warm(stream)


def _goes_by_the_clock(sources: Sequence[Source]) -> bool:
    """Whether sensors, which wait for nobody, give what there is, or gave it once."""
    return is_live(sources) or any(isinstance(one, Replayed) and one.was_live for one in sources)


def _hop_ns(setup: PipelineSetup) -> int:
    return to_ns(setup.model.step * setup.hop_steps)


def _too_short(setup: PipelineSetup, sources: Sequence[Source], n_steps: int) -> DataError:
    """Why there was no prediction: the recording ended before its first hop, or even its first step."""
    names, model = ", ".join(shown(source.uri) for source in sources), setup.model
    lacking = "not even one step"
    found = hint = None
    needed = model.step
    if n_steps:
        needed *= setup.hop_steps
        lacking = f"not one hop of {setup.hop_steps} steps ({float(needed):.2f} s)"
        found = f"{n_steps} steps ({float(model.step * n_steps):.2f} s)"
        hint = "play a longer recording, or predict more often with a smaller hop"
    return DataError(
        f"{names}: {lacking} of model {model.name}",
        expected=f"at least {float(needed):.2f} s of {' or '.join(model.modalities)}",
        found=found,
        hint=hint,
    )


def timed_chunks(
    sources: Sequence[Source],
    specs: dict[str, StreamSpec],
    clock: Clock,
    start_ns: int | None,
    hooks: SessionHooks,
    clocks: RemoteClocks | None = None,
) -> Iterator[Chunk | int]:
    """Chunks on the session's own time, each not before a device could have delivered it.

    Of live sources comes, after each round of asking them, the session's time at which it began.

    Args:
        sources: Started; all live, or none.
        specs: Of all streams.
        clock: Where the time comes from.
        start_ns: The clock's time at the session's zero; None: play recordings as fast as they go.
        hooks: Told of chunks and of looks at remote clocks; may stop it all.
        clocks: Learn from those looks; None: of recordings, whose times were converted when they were made.
    """
    should_stop = hooks.should_stop
    if clocks is not None and start_ns is not None:
        yield from _live_chunks(sources, specs, clock, start_ns, hooks, clocks)
        return
    for chunk in merged(sources, should_stop):
        check_chunk(chunk, specs)
        if start_ns is not None:
            wait_until(clock, start_ns + end_ns(chunk, specs[chunk.stream].rate_hz), should_stop)
        if should_stop():
            return
        if chunk.arrived_ns is not None:
            yield chunk.arrived_ns  # as its session went by the clock, so does its replay
        hooks.on_chunk(chunk, chunk)
        yield chunk


def _live_chunks(
    sources: Sequence[Source],
    specs: dict[str, StreamSpec],
    clock: Clock,
    start_ns: int,
    hooks: SessionHooks,
    clocks: RemoteClocks,
) -> Iterator[Chunk | int]:
    remote = [source for source in sources if isinstance(source, RemotelyClocked)]
    given_back_ns = start_ns
    for found in as_they_come(sources, clock, hooks.should_stop):
        if hooks.should_stop():
            return
        for look in _looks(remote):
            clocks.look(look)
            hooks.on_offset(look)
        if isinstance(found, int):
            if found - given_back_ns >= GIVE_BACK_EVERY_NS:
                give_back_memory()
                given_back_ns = found
            hooks.on_time(found - start_ns)
            yield found - start_ns
            continue
        check_chunk(found, specs)
        placed = clocks.placed(found)
        timed = None if placed is None else since_start(placed, start_ns, clock)
        if timed is not None:
            hooks.on_chunk(timed, found)
            yield timed


def _looks(sources: Iterable[RemotelyClocked]) -> Iterator[ClockOffset]:
    """What sources have seen of remote clocks since they were last asked."""
    for source in sources:
        yield from source.clock_offsets()


def _hand_on(
    predictions: list[Prediction], sinks: Sequence[Sink], report: SessionReport, hooks: SessionHooks
) -> None:
    for prediction in predictions:
        report.count(prediction)
        for sink in sinks:
            sink.write(prediction)
        hooks.on_prediction(prediction)
    troubles = [sink.trouble for sink in sinks if isinstance(sink, SinkThread) and sink.trouble is not None]
    if troubles and len(troubles) == len(sinks):
        raise troubles[0]  # nobody listens any more
