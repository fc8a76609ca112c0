"""Plays recordings by a protocol: from sources to sinks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from edge_mer.clock import NS_PER_S, Clock
from edge_mer.errors import UsageError
from edge_mer.runtime.arrivals import check_chunk, merged
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.protocols.base import EvaluationProtocol, Recording
from edge_mer.runtime.session import SessionReport
from edge_mer.sinks.base import Sink
from edge_mer.sources.base import Source
from edge_mer.types.signals import Chunk, StreamSpec
from edge_mer.types.uri_keys import shown

TELL_EVERY_NS = 30 * NS_PER_S
"""Of the recording's time, between two words on how far it was played."""


def run_protocol(
    protocol: EvaluationProtocol,
    setup: PipelineSetup,
    sources: Sequence[Source],
    sinks: Sequence[Sink],
    clock: Clock,
    report: SessionReport,
    say: Callable[[str], None],
) -> list[str]:
    """Play the sources to their end, as fast as it goes, and write what the protocol makes of them.

    Args:
        protocol: How to predict.
        setup: Model and engines.
        sources: Recordings, not yet opened; they start together.
        sinks: Not yet opened; they are closed at the end, and abandoned when anything fails.
        clock: Where the time comes from.
        report: Filled on the way.
        say: Told how far the recording was played.

    Returns:
        What the user must know of how the recording was read.

    Raises:
        DataError: A source cannot be used.
        UsageError: A live source, a model or streams that do not fit, or a sink that cannot be written to.
    """
    _refuse_live(sources)
    protocol.check(setup.model)
    with contextlib.ExitStack() as at_end:
        for source in sources:
            at_end.callback(source.ensure_stopped)
            source.ensure_ready()
        at_end.enter_context(_opened(sinks))
        for source in sources:
            source.start()
        specs = tuple(spec for source in sources for spec in source.specs)
        recording = Recording(setup, specs, _told(merged(sources), specs, say), clock)
        report.counted = lambda: recording.counters
        for prediction in protocol.predict(recording):
            report.count(prediction)
            for sink in sinks:
                sink.write(prediction)
    return recording.notes


def _refuse_live(sources: Sequence[Source]) -> None:
    live = [shown(source.uri) for source in sources if source.is_live]
    if live:
        raise UsageError(
            f"{', '.join(live)}: a protocol looks at a whole recording, and a live source has no end",
            expected="recordings only, e.g. file:clip.mp4",
            hint="record it to a file first, or leave out --protocol",
        )


@contextlib.contextmanager
def _opened(sinks: Sequence[Sink]) -> Iterator[None]:
    """Sinks that get their names if all goes well; a reader that has seen enough is no failure."""
    is_whole = False
    try:
        for sink in sinks:
            sink.open()
        yield
        is_whole = True
    except BrokenPipeError:
        is_whole = True
        raise
    finally:
        with contextlib.ExitStack() as endings:
            for sink in sinks:
                endings.callback(sink.close if is_whole else sink.abandon)


def _told(
    chunks: Iterable[Chunk], specs: Iterable[StreamSpec], say: Callable[[str], None]
) -> Iterator[Chunk]:
    """The chunks, once they are what their source describes; now and then a word on how far they are."""
    known, next_ns = {spec.name: spec for spec in specs}, TELL_EVERY_NS
    for chunk in chunks:
        check_chunk(chunk, known)
        if chunk.t_ns >= next_ns:
            seconds = chunk.t_ns // NS_PER_S
            say(f"played {seconds // 60}:{seconds % 60:02d} of the recording")
            next_ns += TELL_EVERY_NS * (1 + (chunk.t_ns - next_ns) // TELL_EVERY_NS)
        yield chunk
