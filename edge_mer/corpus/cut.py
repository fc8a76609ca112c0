"""Long recordings come in pieces: cut where nothing was recorded for so long that nothing is remembered.

A piece begins as much before its data as the model's window is long, so that its first window is as full,
or as empty, as that of one who had played everything before it. Whose face it is, is asked anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

import av

from edge_mer.clock import NS_PER_S
from edge_mer.labels.manifest import Recording
from edge_mer.preprocess.quality import FLAT_S, LOOK_BACK_S
from edge_mer.runtime.arrivals import end_ns
from edge_mer.runtime.labelled import measure
from edge_mer.sources.base import Source
from edge_mer.sources.file import FileSource
from edge_mer.sources.file_open import expand, open_container, open_regular, used_streams
from edge_mer.sources.registry import open_source
from edge_mer.sources.signal import SignalSource
from edge_mer.sync.regular import is_exact
from edge_mer.types.model import FaceClip, ModelSpec, Signal, to_ns

LEAST_S = 300
"""No piece is shorter: it would cost more to begin it than it saves."""

Span = tuple[int, int]
"""Begin and end in ns."""


@dataclass(frozen=True)
class Piece:
    """A part of a recording, to be played for itself.

    Attributes:
        recording: What it is a part of.
        number: Of the recording's pieces, from 0.
        from_ns: What was captured before is left out.
        first_step: Where the pipeline begins.
        begin_step: The first step whose predictions count.
        end_step: The first one of the next piece; None: to the end.
        seconds: How long it plays.
    """

    recording: Recording
    number: int = 0
    from_ns: int = 0
    first_step: int = 0
    begin_step: int = 0
    end_step: int | None = None
    seconds: float = 0.0

    @property
    def is_whole(self) -> bool:
        """It is all of its recording."""
        return self.number == 0 and self.end_step is None


@dataclass(frozen=True)
class Cutter:
    """Cuts recordings of a model; a worker.

    Args:
        model: Its declaration.
        hop_steps: Steps between two predictions.
        least_s: No piece is shorter.
        cuts: False: every recording stays whole, and is only measured.
    """

    model: ModelSpec
    hop_steps: int
    least_s: float = LEAST_S
    cuts: bool = True

    def do(self, job: Recording) -> list[Piece]:
        """The pieces of a recording, in order.

        Raises:
            EdgeMerError: It cannot be used.
        """
        duration_ns = max(measure(uri).duration_ns for uri in job.sources)
        whole = Piece(job, seconds=duration_ns / NS_PER_S)
        remembered_ns = memory_ns(self.model)
        if not self.cuts or remembered_ns is None or duration_ns < 2 * self.least_s * NS_PER_S:
            return [whole]
        occupied = _occupied(job, remembered_ns)
        return [whole] if occupied is None else self._cut(whole, occupied, remembered_ns, duration_ns)

    def _cut(self, whole: Piece, occupied: list[Span], memory: int, duration_ns: int) -> list[Piece]:
        pieces, begin_ns = [whole], 0
        for (_, stop_ns), (start_ns, _) in itertools.pairwise(occupied):
            enough = self.least_s * NS_PER_S
            if start_ns - begin_ns < enough or duration_ns - start_ns < enough:
                continue
            step = self._first_full(start_ns)
            first = step - self._n_before
            if first <= 0 or self.model.step_end_ns(first) < stop_ns + memory:
                continue
            last = pieces[-1]
            pieces[-1] = replace(last, end_step=step, seconds=(start_ns - begin_ns) / NS_PER_S)
            rest_s = (duration_ns - start_ns) / NS_PER_S
            pieces.append(Piece(whole.recording, len(pieces), start_ns, first, step, None, rest_s))
            begin_ns = start_ns
        return pieces

    def _first_full(self, start_ns: int) -> int:
        """The first step of a hop whose data all come before a time."""
        step = max(0, int(start_ns / NS_PER_S / self.model.step) - _reach_steps(self.model))
        return step // self.hop_steps * self.hop_steps

    @property
    def _n_before(self) -> int:
        """Steps, in whole hops, that fill a window."""
        return -(-self.model.fusion.n_steps // self.hop_steps) * self.hop_steps


def memory_ns(model: ModelSpec) -> int | None:
    """After so long without any data a pipeline remembers nothing of them; None: nobody can tell.

    What it remembers beside its window: an encoder's piece, what quality is judged by, held features,
    eyes, and the mean of courses.
    """
    past_s = [Fraction(LOOK_BACK_S)]
    for encoder in model.encoders:
        past_s.append(Fraction(FLAT_S.get(encoder.modality, 0.0)))
        past_s.append(encoder.hold_max_age or Fraction(0))
        if isinstance(encoder.preprocess, FaceClip):
            past_s.append(Fraction(encoder.preprocess.alignment.eyes_max_age_s))
        if isinstance(encoder.preprocess, Signal) and encoder.preprocess.courses is not None:
            return None  # they begin anew after their memory, and tell so in how they settle
    reach = model.step * _reach_steps(model)
    return to_ns(max(past_s) + reach)


def _reach_steps(model: ModelSpec) -> int:
    """Steps that a piece of data may reach beyond the step that it is of, either way, rounded up."""
    longest = max(e.span + abs(e.offset) + e.period * e.repeat for e in model.encoders)
    return -int(-longest // model.step)


def _occupied(recording: Recording, memory: int) -> list[Span] | None:
    """When any of its streams had data, breaks shorter than `memory` left out; None: it must stay whole."""
    spans: list[Span] = []
    for uri in recording.sources:
        source = open_source(uri)
        if isinstance(source, FileSource) and not _has_breaks(source, memory):
            return None
        if not isinstance(source, (FileSource, SignalSource)):
            return (
                None  # simulated people never pause, and the clocks of others are followed from their begin
            )
        found = _spans_of(source, memory)
        if found is None:
            return None
        spans += found
    return _joined(spans, memory)


def _has_breaks(source: FileSource, memory: int) -> bool:
    """Whether a file may have breaks, by its packets, which are not decoded."""
    times_s: list[float] = []
    path = expand(source.uri.removeprefix("file:"))
    with open_regular(path) as file, open_container(file, path) as container:
        try:
            for packet in container.demux(*used_streams(container, path)):
                if packet.pts is not None and packet.time_base is not None:
                    times_s.append(float(packet.pts * packet.time_base))
        except av.FFmpegError:
            return True  # playing it tells
    times_s.sort()
    return any(b - a > memory / NS_PER_S / 2 for a, b in itertools.pairwise(times_s))


def _spans_of(source: Source, memory: int) -> list[Span] | None:
    spans: list[Span] = []
    try:
        source.ensure_ready()
        source.start()
        rates = {spec.name: spec.rate_hz for spec in source.specs}
        last: dict[str, Span] = {}
        while not source.ended:
            chunk = source.read(1000)
            if chunk is None:
                continue
            if not is_exact(chunk):
                return None
            start_ns, stop_ns = chunk.t_ns, end_ns(chunk, rates[chunk.stream])
            held = last.get(chunk.stream)
            if held is not None and start_ns - held[1] <= memory:
                last[chunk.stream] = held[0], max(held[1], stop_ns)
                continue
            if held is not None:
                spans.append(held)
            last[chunk.stream] = start_ns, stop_ns
        return [*spans, *last.values()]
    finally:
        source.ensure_stopped()


def _joined(spans: Iterable[Span], memory: int) -> list[Span]:
    """All that overlap or nearly touch become one."""
    joined: list[Span] = []
    for start_ns, stop_ns in sorted(spans):
        if joined and start_ns - joined[-1][1] <= memory:
            joined[-1] = joined[-1][0], max(joined[-1][1], stop_ns)
        else:
            joined.append((start_ns, stop_ns))
    return joined
