"""From chunks to predictions: with `window`, the only file that joins the rooms.

Each step is encoded once; what was found in it goes into the window of the person that it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S, Clock
from edge_mer.engine.base import Engine
from edge_mer.engine.standby import Origin, origin_of
from edge_mer.errors import AwayError
from edge_mer.preprocess.audio import SoundConditioner
from edge_mer.preprocess.courses import CourseConditioner
from edge_mer.preprocess.look_ahead import LookAheadDetector
from edge_mer.preprocess.quality import QualityTrack
from edge_mer.preprocess.scene import SceneClipMaker, clip_maker
from edge_mer.preprocess.signal import SignalConditioner
from edge_mer.preprocess.visual import ClipReport, FaceClipMaker
from edge_mer.preprocess.words import WordTokenizer, write_words
from edge_mer.runtime.front import WriteClip, WriteSamples
from edge_mer.runtime.pipeline_setup import PipelineSetup as PipelineSetup  # who runs one, sets one up
from edge_mer.runtime.stream_watch import StreamWatch
from edge_mer.runtime.streams import check_fits, chosen_streams, rates_to_resample
from edge_mer.runtime.window import NS_PER_MS as NS_PER_MS
from edge_mer.runtime.window import Common, Found, LiveStreams, Relief, Spoken, Timing, Window
from edge_mer.runtime.window import StepTrace as StepTrace
from edge_mer.sync.frames import Frame
from edge_mer.sync.regular import RegularStream, Run
from edge_mer.sync.samples import SampleRing
from edge_mer.sync.windower import Step, StepWindower
from edge_mer.sync.words import Said
from edge_mer.types.health import StreamHealth
from edge_mer.types.model import (
    Clip,
    Encoder,
    FaceClip,
    SampledSpec,
    Signal,
    Words,
    to_ns,
)
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk, Modality, StreamSpec

TimedFrames = list[tuple[int, NDArray[np.uint8]] | None]
"""Capture time in ns and (height, width, 3) RGB, or None where none came."""

_LOST = "lost"
"""Noted of a word that nobody could encode."""

MAX_AHEAD_NS = NS_PER_S
"""A live chunk that says that it is of so much later than now was stamped by a clock that somebody set."""

MAX_BEHIND_HOPS, MAX_BEHIND_NS = 2, NS_PER_S
"""A live session that is farther behind than both drops whole windows until it is within a hop."""


@dataclass
class Counters:
    """What a session counted.

    Attributes:
        n_steps: Steps worked on.
        n_dropped_tail: Steps that the end of the session cut short.
        n_late: Frames, samples and words that came after its step was taken.
        n_gaps: Breaks in sampled streams.
        n_duplicate: Frames and samples that came again.
        n_corrections: Samples that the drift of devices added or took away.
        n_refused: Live chunks of a time that is yet to come.
        n_dropped_steps: Steps of a live session that there was no time to work on.
        n_people: People who were followed, where several are.
    """

    n_steps: int = 0
    n_dropped_tail: int = 0
    n_late: int = 0
    n_gaps: int = 0
    n_duplicate: int = 0
    n_corrections: int = 0
    n_refused: int = 0
    n_dropped_steps: int = 0
    n_people: int = 0


@dataclass
class _Sampled:
    """A sampled stream on its way into its ring."""

    conditioner: SoundConditioner | SignalConditioner | CourseConditioner
    regular: RegularStream
    ring: SampleRing
    quality: QualityTrack | None
    """None: whatever comes is taken."""


class Pipeline:
    """Fused inference over one session.

    Args:
        setup: Model, engines, detector.
        specs: The session's streams.
        clock: Where the time comes from.
        start_ns: The clock's time at the session's zero when chunks come as they are captured;
            None when a recording is played as fast as it goes.
        on_step: Called after every step with copies of its tensors.
        lateness_ns: Of a live session: how late its data may be, see `advance`; None: a recording.
        live: Says how the streams of live sources are; None: a recording.
        first_step: Where it begins; the first step of a hop.

    Raises:
        SpecMismatchError: A stream does not fit what the model declares.
        UsageError: Two streams of one modality, or none that the model looks at.
    """

    def __init__(
        self,
        setup: PipelineSetup,
        specs: Iterable[StreamSpec],
        clock: Clock,
        start_ns: int | None = None,
        on_step: Callable[[StepTrace], None] | None = None,
        lateness_ns: int | None = None,
        live: LiveStreams | None = None,
        first_step: int = 0,
    ) -> None:
        self._counted = Counters()
        self._setup = setup
        self._model = setup.model
        self._clock = clock
        self._start_ns = start_ns
        self._on_step = on_step
        self._capture_ns: int | None = None
        streams = chosen_streams(setup.model, specs)
        self._live = live
        self._lateness_ns = lateness_ns
        self._streams_hz = rates_to_resample(setup.model, streams)
        self._windower = StepWindower(
            setup.model, frozenset(streams), lateness_ns, self._streams_hz, first_step
        )
        self._common = Common(
            setup, streams, clock, start_ns, clock.utc(), clock.is_utc_synchronised(), live, self._stamps_ns
        )
        self._sampled: dict[str, _Sampled] = {}
        self._detector = None if setup.detector is None else LookAheadDetector(setup.detector)
        self._clips: dict[str, FaceClipMaker | SceneClipMaker] = {}
        self._write_clip: dict[str, WriteClip] = {}
        self._write_samples: dict[str, WriteSamples] = {}
        self._tokenizers: dict[str, WordTokenizer] = {}
        self._spoken: dict[str, list[Spoken]] = {}
        self._repeated: dict[str, Found] = {}
        self._early = Timing()
        self._timing = Timing()
        self._is_dropping = False
        self._hop_factor, self._spared = 1, frozenset[Modality]()
        self._window = Window(self._common)
        self._watched: dict[str, StreamWatch] = {}
        for encoder in setup.model.encoders:
            self._set_up(encoder, streams.get(encoder.modality))

    def _set_up(self, encoder: Encoder, stream: StreamSpec | None) -> None:
        spec = encoder.preprocess
        if isinstance(spec, Clip):
            engine = self._setup.engines[encoder.stage]
            self._clips[encoder.stage] = clip_maker(spec, self._detector, gates=self._setup.gates)
            self._write_clip[encoder.stage] = self._setup.front_end.clip_writer(encoder, spec, engine)
        if stream is None:
            return
        check_fits(encoder, stream)
        watch = self._watched[stream.name] = StreamWatch(stream, encoder)
        if isinstance(spec, Words):
            self._tokenizers[encoder.stage] = WordTokenizer(spec, self._setup.assets[spec.tokenizer])
        elif not isinstance(spec, Clip) and stream.rate_hz is not None:
            engine = self._setup.engines[encoder.stage]
            self._write_samples[encoder.stage] = self._setup.front_end.sample_writer(
                encoder, engine, self._streams_hz.get(encoder.modality)
            )
            watch.regular = RegularStream(stream.rate_hz)
            track = QualityTrack(encoder.modality, stream.rate_hz, to_ns(encoder.span))
            self._sampled[encoder.stage] = _Sampled(
                _conditioner(spec, round(stream.rate_hz)),
                watch.regular,
                self._windower.ring(encoder.modality),
                track if self._setup.gates else None,
            )

    # -- what comes in -------------------------------------------------------------------------

    def push(self, chunk: Chunk) -> list[Prediction]:
        """Take a chunk; returns the predictions that it completes (none for unused streams)."""
        watch = self._watched.get(chunk.stream)
        if watch is None or not self._is_of_now(watch, chunk):
            return []
        encoder = watch.encoder
        if (sampled := self._sampled.get(encoder.stage)) is not None:
            for run in sampled.regular.push(chunk):
                _append(sampled, run)
        elif encoder.stage in self._clips:
            self._windower.push_frame(encoder.modality, chunk.t_ns, chunk.data.astype(np.uint8, copy=False))
        else:
            self._push_words(encoder, chunk)
        predictions = self._run_ready()
        if not predictions and sampled is None:  # which are waited for
            self._look_ahead(encoder)
        return predictions

    def _is_of_now(self, watch: StreamWatch, chunk: Chunk) -> bool:
        """Note that a chunk came; False where it cannot be used."""
        now_ns = self._clock.now_ns()
        watch.arrived(chunk, now_ns)
        if self._start_ns is not None:
            self._capture_ns = now_ns - self._start_ns - chunk.t_ns
            if self._lateness_ns is not None and -self._capture_ns > MAX_AHEAD_NS:
                watch.refused()
                self._counted.n_refused += 1
                return False
        watch.used(chunk)
        return True

    def advance(self, now_ns: int) -> list[Prediction]:
        """Let a live session's time go on; returns the predictions that are due, whatever has come.

        Args:
            now_ns: The session's time, read before all sources were last asked for what they hold: what was
                captured, and came in time, has been pushed.
        """
        return self._run_ready(now_ns)

    @property
    def counters(self) -> Counters:
        """What was counted so far; any thread may ask."""
        regulars = [one.regular for one in self._sampled.values()]
        return replace(
            self._counted,
            n_late=self._windower.n_late,
            n_gaps=sum(regular.n_gaps for regular in regulars),
            n_duplicate=self._windower.n_duplicate + sum(regular.order.n_duplicate for regular in regulars),
            n_corrections=sum(regular.n_corrections for regular in regulars),
        )

    def health(self) -> tuple[StreamHealth, ...]:
        """How each stream is doing."""
        return tuple(watch.health(self._windower) for watch in self._watched.values())

    def _look_ahead(self, encoder: Encoder) -> None:
        """Search what the next step will use for faces, while others of its data are yet to come."""
        if self._detector is None or not isinstance(encoder.preprocess, FaceClip):
            return
        frames = self._windower.settled_frames(encoder.modality)
        if not frames or self._is_dropping or encoder.modality in self._spared:
            return
        began_ns = self._clock.now_ns()
        for frame in frames:
            self._detector.look_ahead(frame.pixels)
        self._early.preprocess_ns += self._clock.now_ns() - began_ns

    def _push_words(self, encoder: Encoder, chunk: Chunk) -> None:
        """Encode an utterance as a whole, and note each word's vector at its time."""
        engine, track = self._setup.engines[encoder.stage], self._windower.track(encoder.modality)
        began_ns = self._clock.now_ns()
        words = [str(word) for word in chunk.data[:, 0]]
        for utterance in self._tokenizers[encoder.stage].utterances(words):
            rows = chunk.data[utterance.first : utterance.first + utterance.n_words]
            times_ns = rows[:, 1:3].astype(np.int64)
            try:
                outputs = engine.run({encoder.input.name: utterance.ids})
            except AwayError:
                for start_ns, end_ns in times_ns.tolist():
                    track.push(start_ns, end_ns, None, _LOST)
                continue
            found, origin = outputs[encoder.output.name][0], origin_of(outputs)
            for (start_ns, end_ns), vector in zip(
                times_ns.tolist(), utterance.word_vectors(found), strict=True
            ):
                track.push(start_ns, end_ns, vector, origin)
            if self._on_step is not None:
                self._spoken.setdefault(encoder.stage, []).append(Spoken(utterance, times_ns))
        self._early.infer_ns += self._clock.now_ns() - began_ns

    def finish(self) -> list[Prediction]:
        """The session is over: the predictions of the last whole steps. A partial tail is counted."""
        end_ns = self._windower.reached_ns
        for encoder in (watch.encoder for watch in self._watched.values()):
            if (sampled := self._sampled.get(encoder.stage)) is not None:
                _finish(sampled)
            self._windower.close(encoder.modality)
        predictions = self._run_ready()
        self._counted.n_dropped_tail += self._windower.n_dropped_tail(end_ns)
        return predictions

    # -- one step ------------------------------------------------------------------------------

    def _run_ready(self, now_ns: int | None = None) -> list[Prediction]:
        predictions: list[Prediction] = []
        while (step := self._windower.take(now_ns)) is not None:
            self._begin_hop(step)
            predictions += self._drop_step(step) if self._is_overloaded(step) else self._run_step(step)
            self._counted.n_steps += 1
        return predictions

    def _stamps_ns(self) -> list[int]:
        return [sampled.regular.uncertainty_ns for sampled in self._sampled.values()]

    def _is_overloaded(self, step: Step) -> bool:
        """Whether a live session is so far behind that it gives up whole windows until it has caught up."""
        if self._live is None or self._lateness_ns is None or self._start_ns is None:
            return False
        if step.index % self._setup.hop_steps == 0:
            hop_ns = to_ns(self._model.step * self._setup.hop_steps)
            may_ns = hop_ns if self._is_dropping else max(MAX_BEHIND_HOPS * hop_ns, MAX_BEHIND_NS)
            behind_ns = self._clock.now_ns() - self._start_ns - self._windower.due_ns(step.index)
            self._is_dropping = behind_ns > may_ns + self._lateness_ns
        return self._is_dropping

    def _begin_hop(self, step: Step) -> None:
        """Spare the device, or no more, where a hop begins, however long it is."""
        relief = self._common.relief
        hop_steps = self._setup.hop_steps
        if step.index % (hop_steps * self._hop_factor) == 0:
            self._spared = relief.spared
            if step.index % (hop_steps * relief.hop_factor) == 0:
                self._hop_factor = relief.hop_factor

    def _drop_step(self, step: Step) -> list[Prediction]:
        """Work on nothing; at the end of a hop, say so."""
        self._counted.n_dropped_steps += 1
        self._timing = Timing()
        self._timing.start_step(self._clock.now_ns(), Timing(), None)
        found = self._nothing()
        self._repeated |= found
        is_hop = self._is_hop(step)
        dropped = self._window.drop_step(step, found, self._timing, ("overloaded",), is_hop=is_hop)
        if is_hop:
            self._timing = Timing()
        return [] if dropped is None else [dropped]

    def _nothing(self) -> dict[str, Found]:
        return {e.stage: Found(slot="absent", feature=None, coverage=0.0) for e in self._model.encoders}

    def relieve(self, relief: Relief) -> None:
        """Spare the device from the next hop on; any thread may say how."""
        self._common.relief = relief

    def _is_hop(self, step: Step) -> bool:
        """Whether a hop ends with this step."""
        return (step.index + 1) % (self._setup.hop_steps * self._hop_factor) == 0

    def _run_step(self, step: Step) -> list[Prediction]:
        """Encode a step; at the end of a hop, predict."""
        timing, window, found = self._timing, self._window, dict[str, Found]()
        timing.start_step(self._clock.now_ns(), self._early, self._capture_ns)
        self._early = Timing()
        for encoder in self._model.encoders:
            found[encoder.stage] = self._encode(encoder, step, timing)
            window.take(encoder, found[encoder.stage], timing)
        prediction, n_used, raw = window.end_step(step, found, timing, is_hop=self._is_hop(step))
        if self._is_hop(step):
            self._timing = Timing()
        if self._on_step is not None:
            spoken, self._spoken = self._spoken, {}
            self._on_step(window.trace(step, found, n_used, raw, spoken))
        return [] if prediction is None else [prediction]

    def _encode(self, encoder: Encoder, step: Step, timing: Timing) -> Found:
        if step.index % encoder.repeat == 0:
            self._repeated[encoder.stage] = self._encode_anew(encoder, step, timing)
        return self._repeated[encoder.stage].copy()

    def _encode_anew(self, encoder: Encoder, step: Step, timing: Timing) -> Found:
        if encoder.modality in self._spared:
            return Found(slot="absent", feature=None, coverage=0.0)
        if isinstance(encoder.preprocess, Words):
            return self._say(encoder, encoder.preprocess, step.words[encoder.modality])
        return self._encode_sensed(encoder, step, timing)

    def _say(self, encoder: Encoder, spec: Words, said: Said) -> Found:
        """The feature of what is being said; silence is no gap, but a session without a transcript is."""
        is_there = encoder.stage in self._tokenizers
        found = Found(
            slot="present" if is_there else "absent",
            feature=None,
            coverage=float(is_there),
            newest_ns=said.newest_ns,
        )
        if said.note == _LOST:
            found.lose()
        elif is_there:
            found.origin = said.note if isinstance(said.note, Origin) else None
            found.feature = np.zeros(encoder.feature, np.float32)
            write_words(said.vector, spec, found.feature)
        return found

    def _encode_sensed(self, encoder: Encoder, step: Step, timing: Timing) -> Found:
        engine = self._setup.engines[encoder.stage]
        began_ns = self._clock.now_ns()
        found = self._preprocess(encoder, step)
        timing.preprocess_ns += self._clock.now_ns() - began_ns
        if found.slot == "present":
            self._infer(engine, encoder, found, timing)
        return found

    def _preprocess(self, encoder: Encoder, step: Step) -> Found:
        if isinstance(encoder.preprocess, Clip):
            found = self._preprocess_clip(encoder, step.frames[encoder.modality])
        else:
            found = self._preprocess_samples(encoder, step)
        found.skew_ns = step.skew_ns.get(encoder.modality, 0)
        if found.coverage >= encoder.min_coverage and found.slot != "absent":
            found.quality = None
        else:
            found.slot = "absent"
        return found

    def _preprocess_samples(self, encoder: Encoder, step: Step) -> Found:
        piece, sampled = step.samples[encoder.modality], self._sampled.get(encoder.stage)
        track = None if sampled is None else sampled.quality
        quality = None if track is None else track.verdict(self._windower.end_ns(encoder, step.index))
        if piece.coverage > 0:
            self._write_samples[encoder.stage](piece)
        return Found(
            slot="present" if quality is None else "absent",
            feature=None,
            coverage=piece.coverage,
            newest_ns=piece.newest_ns,
            settling=piece.is_settling and quality != "not_a_number",
            quality=quality,
        )

    def _preprocess_clip(self, encoder: Encoder, frames: list[Frame | None]) -> Found:
        report = self._make_clip(encoder, [None if one is None else (one.t_ns, one.pixels) for one in frames])
        return Found(
            slot="present",
            feature=None,
            coverage=report.coverage,
            newest_ns=report.newest_ns,
            switched=report.switched,
            unaligned=report.n_unaligned > 0,
            quality=report.quality,
        )

    def _make_clip(self, encoder: Encoder, frames: TimedFrames) -> ClipReport:
        return self._clips[encoder.stage].make(frames, self._write_clip[encoder.stage])

    def _infer(self, engine: Engine, encoder: Encoder, found: Found, timing: Timing) -> None:
        began_ns = self._clock.now_ns()
        try:
            outputs = engine.infer()
            found.feature = np.asarray(outputs[encoder.output.name][0], np.float32)
            found.origin = origin_of(outputs)
        except AwayError:
            found.lose()
        timing.infer_ns += self._clock.now_ns() - began_ns


def _append(sampled: _Sampled, run: Run) -> None:
    conditioner, ring = sampled.conditioner, sampled.ring
    if run.t_ns is not None:
        ring.append(conditioner.flush())
        ring.anchor(conditioner.resume(run.t_ns))
    if sampled.quality is not None:
        sampled.quality.push(run.t_ns, run.samples)
    ring.append(conditioner.push(run.samples))


def _finish(sampled: _Sampled) -> None:
    for run in sampled.regular.finish():
        _append(sampled, run)
    sampled.ring.append(sampled.conditioner.flush())


def _conditioner(spec: SampledSpec, rate_hz: int) -> SoundConditioner | SignalConditioner | CourseConditioner:
    if not isinstance(spec, Signal):
        return SoundConditioner(rate_hz, spec.rate_hz)
    return SignalConditioner() if spec.courses is None else CourseConditioner(spec)
