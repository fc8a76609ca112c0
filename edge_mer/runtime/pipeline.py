"""From chunks to predictions: the only file that joins the rooms.

Each step is encoded once; its features lie in rings inside the fusion engine's inputs, and every
hop runs the fusion over them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S, Clock
from edge_mer.engine.base import Engine
from edge_mer.errors import UsageError
from edge_mer.postprocess.certainty import confidence, intervals
from edge_mer.postprocess.decode import decode
from edge_mer.postprocess.gate import Evidence, judge
from edge_mer.preprocess.audio import SoundConditioner
from edge_mer.preprocess.courses import CourseConditioner
from edge_mer.preprocess.face import FaceDetector
from edge_mer.preprocess.quality import Quality, QualityTrack
from edge_mer.preprocess.scene import SceneClipMaker, clip_maker
from edge_mer.preprocess.signal import SignalConditioner
from edge_mer.preprocess.visual import FaceClipMaker
from edge_mer.preprocess.words import Utterance, WordTokenizer, write_words
from edge_mer.runtime.blank import blank_feature
from edge_mer.runtime.front import CpuFrontEnd, FrontEnd, WriteClip, WriteSamples
from edge_mer.runtime.stream_watch import StreamWatch
from edge_mer.runtime.streams import check_fits, chosen_streams
from edge_mer.sync.features import FeatureRing, Slot
from edge_mer.sync.frames import Frame
from edge_mer.sync.regular import RegularStream, Run
from edge_mer.sync.windower import Step, StepWindower
from edge_mer.sync.words import Said
from edge_mer.types.evaluation import Findings, SubsetFindings
from edge_mer.types.health import StreamHealth
from edge_mer.types.model import (
    Clip,
    Encoder,
    FaceClip,
    MissingPolicy,
    ModelSpec,
    SampledSpec,
    Signal,
    Words,
    to_ns,
)
from edge_mer.types.predictions import Latency, ModalityStatus, Prediction, SyncQuality
from edge_mer.types.signals import Chunk, Modality, StreamSpec

Array = NDArray[np.generic]
Samples = NDArray[np.float32]
Raw = dict[str, Samples]
NS_PER_MS = 1_000_000

MAX_AHEAD_NS = NS_PER_S
"""A live chunk that says that it is of so much later than now was stamped by a clock that somebody set."""


MAX_BEHIND_HOPS, MAX_BEHIND_NS = 2, NS_PER_S
"""A live session that is farther behind than both drops whole windows until it is within a hop."""


@dataclass(frozen=True)
class Spoken:
    """An utterance that was encoded, with its words' times.

    Attributes:
        utterance: Its tokens.
        times_ns: (word, 2) int64, start and end.
    """

    utterance: Utterance
    times_ns: NDArray[np.int64]


@dataclass(frozen=True)
class StepTrace:
    """What happened inside one step, for proofs and calibration; arrays are copies.

    Attributes:
        index: The step.
        inputs: Stage -> its step tensor (batch = 1), of words the step's feature (1, feature); only
            stages whose modality was there.
        features: Stage -> the fusion's window of its features, (1, L, feature); within a hop, where the
            fusion does not look, the newest one alone, (1, 1, feature).
        present: (modality, L) bool.
        n_used: Steps that the fusion looked at; 0 when it did not run.
        raw: Output name -> raw numbers for this step, of the output's `value_shape`; empty when the
            fusion did not run.
        is_real: Every modality was there in this step.
        spoken: Stage -> utterances encoded since the last step.
    """

    index: int
    inputs: dict[str, NDArray[np.float32]]
    features: dict[str, NDArray[np.float32]]
    present: NDArray[np.bool_]
    n_used: int
    raw: Raw
    is_real: bool
    spoken: dict[str, list[Spoken]] = field(default_factory=dict)


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
    """

    n_steps: int = 0
    n_dropped_tail: int = 0
    n_late: int = 0
    n_gaps: int = 0
    n_duplicate: int = 0
    n_corrections: int = 0
    n_refused: int = 0
    n_dropped_steps: int = 0


@dataclass
class _Sampled:
    """A sampled stream on its way into its ring."""

    conditioner: SoundConditioner | SignalConditioner | CourseConditioner
    regular: RegularStream
    quality: QualityTrack | None
    """None: whatever comes is taken."""


@dataclass
class _Found:
    """What one encoder's step held."""

    slot: Slot
    feature: NDArray[np.float32] | None
    coverage: float
    newest_ns: int | None = None
    skew_ns: int = 0
    switched: bool = False
    unaligned: bool = False
    settling: bool = False
    quality: Quality | None = None


@dataclass
class _Timing:
    """The work of a hop; `before_ns` of it was done before its last step began."""

    start_ns: int = 0
    preprocess_ns: int = 0
    infer_ns: int = 0
    before_ns: int = 0
    capture_ns: int | None = None

    def start_step(self, now_ns: int, early_ns: int, capture_ns: int | None) -> None:
        """A step begins; `early_ns` went into encoding what it needs before."""
        self.infer_ns += early_ns
        self.before_ns = self.preprocess_ns + self.infer_ns
        self.start_ns, self.capture_ns = now_ns, capture_ns


class LiveStreams(Protocol):
    """What a live session knows of its streams, by their names."""

    def state(self, stream: str) -> str | None:
        """How its source is, e.g. "stalled"."""

    def clock_uncertainty_ns(self, stream: str) -> int | None:
        """How far off the clock may be that stamps it; None while nothing is known."""

    def is_clock_known(self, stream: str) -> bool:
        """Whether that clock is known well enough."""


class Closeable(Protocol):
    """What holds memory or a device."""

    def close(self) -> None:
        """Give it back."""


@dataclass(frozen=True)
class PipelineSetup:
    """What a pipeline runs on.

    Attributes:
        model: The model's declaration.
        engines: Stage -> engine.
        detector: Finds faces; needed by models that look at them.
        engine_name: For the records.
        precision: For the records.
        bundle_id: For the records.
        missing: Policies that replace the declared ones.
        assets: Path in the bundle -> content of files that preprocessing reads.
        hop: Steps between two predictions; None takes the declared hop.
        findings: How sure estimates are; None if that was never measured.
        resources: What the engines run on, closed after them.
        front_end: Writes step tensors into the engines.
        gates: What is too bad to be read counts as missing; papers' protocols take everything.
    """

    model: ModelSpec
    engines: Mapping[str, Engine]
    detector: FaceDetector | None
    engine_name: str = "onnxruntime-cpu"
    precision: str = "fp32"
    bundle_id: str = ""
    missing: Mapping[Modality, MissingPolicy] = field(default_factory=dict)
    assets: Mapping[str, bytes] = field(default_factory=dict)
    hop: int | None = None
    findings: Findings | None = None
    resources: tuple[Closeable, ...] = ()
    front_end: FrontEnd = field(default_factory=CpuFrontEnd)
    gates: bool = True

    def close(self) -> None:
        """Free what the engines hold; nothing can run afterwards. Twice does no harm."""
        for one in (*self.engines.values(), *self.resources):
            one.close()

    def __post_init__(self) -> None:
        for encoder in self.model.encoders:
            if self.hop is not None and (self.hop < 1 or self.hop % encoder.repeat):
                raise UsageError(
                    f"model {self.model.name} cannot predict every {self.hop} steps",
                    expected=f"a multiple of {encoder.repeat}: so many share a feature of {encoder.modality}",
                )

    @property
    def hop_steps(self) -> int:
        """Steps between two predictions."""
        return self.hop or self.model.fusion.hop


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
    ) -> None:
        self.counters = Counters()
        self._setup = setup
        self._model = setup.model
        self._clock = clock
        self._start_ns = start_ns
        self._utc_start = clock.utc()
        self._utc_synchronised = clock.is_utc_synchronised()
        self._on_step = on_step
        self._end_ns = 0
        self._capture_ns: int | None = None
        streams = chosen_streams(setup.model, specs)
        self._live = live
        self._streams = streams
        self._states: dict[Modality, str | None] = {}
        self._lateness_ns = lateness_ns
        self._windower = StepWindower(setup.model, frozenset(streams), lateness_ns)
        self._fusion = setup.engines[setup.model.fusion.stage]
        self._rings = {
            encoder.stage: _fresh_ring(self._fusion, spec.name)
            for encoder, spec in zip(setup.model.encoders, setup.model.fusion.inputs, strict=False)
        }
        self._sampled: dict[str, _Sampled] = {}
        self._clips: dict[str, FaceClipMaker | SceneClipMaker] = {}
        self._write_clip: dict[str, WriteClip] = {}
        self._write_samples: dict[str, WriteSamples] = {}
        self._tokenizers: dict[str, WordTokenizer] = {}
        self._spoken: dict[str, list[Spoken]] = {}
        self._repeated: dict[str, _Found] = {}
        self._blanks: dict[str, Samples] = {}
        self._early_infer_ns = 0
        self._timing = _Timing()
        self._switched = self._is_dropping = False
        self._unaligned: list[bool] = [False] * setup.model.fusion.n_steps
        self._watched: dict[str, StreamWatch] = {}
        for encoder in setup.model.encoders:
            self._set_up(encoder, streams.get(encoder.modality))

    def _set_up(self, encoder: Encoder, stream: StreamSpec | None) -> None:
        spec = encoder.preprocess
        if isinstance(spec, Clip):
            engine = self._setup.engines[encoder.stage]
            self._clips[encoder.stage] = clip_maker(spec, self._setup.detector, gates=self._setup.gates)
            self._write_clip[encoder.stage] = self._setup.front_end.clip_writer(encoder, spec, engine)
        if stream is None:
            return
        check_fits(encoder, stream)
        watch = self._watched[stream.name] = StreamWatch(stream, encoder)
        if isinstance(spec, Words):
            self._tokenizers[encoder.stage] = WordTokenizer(spec, self._setup.assets[spec.tokenizer])
        elif not isinstance(spec, Clip) and stream.rate_hz is not None:
            engine = self._setup.engines[encoder.stage]
            self._write_samples[encoder.stage] = self._setup.front_end.sample_writer(encoder, engine)
            watch.regular = RegularStream(stream.rate_hz)
            track = QualityTrack(encoder.modality, stream.rate_hz, to_ns(encoder.span))
            self._sampled[encoder.stage] = _Sampled(
                _conditioner(spec, round(stream.rate_hz)),
                watch.regular,
                track if self._setup.gates else None,
            )

    # -- what comes in -------------------------------------------------------------------------

    def push(self, chunk: Chunk) -> list[Prediction]:
        """Take a chunk; returns the predictions that it completes (none for unused streams)."""
        watch = self._watched.get(chunk.stream)
        if watch is None or not self._is_of_now(watch, chunk):
            return []
        encoder = watch.encoder
        if isinstance(encoder.preprocess, Clip):
            self._windower.push_frame(encoder.modality, chunk.t_ns, chunk.data.astype(np.uint8, copy=False))
            self._end_ns = max(self._end_ns, chunk.t_ns)
        elif isinstance(encoder.preprocess, Words):
            self._push_words(encoder, chunk)
        else:
            self._push_samples(encoder, chunk)
        return self._run_ready()

    def _is_of_now(self, watch: StreamWatch, chunk: Chunk) -> bool:
        """Note that a chunk came; False where it cannot be used."""
        now_ns = self._clock.now_ns()
        watch.arrived(chunk, now_ns)
        if self._start_ns is not None:
            self._capture_ns = now_ns - self._start_ns - chunk.t_ns
            if self._lateness_ns is not None and -self._capture_ns > MAX_AHEAD_NS:
                watch.refused()
                self.counters.n_refused += 1
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

    def health(self) -> tuple[StreamHealth, ...]:
        """How each stream is doing."""
        return tuple(watch.health(self._windower) for watch in self._watched.values())

    def _push_samples(self, encoder: Encoder, chunk: Chunk) -> None:
        for run in self._sampled[encoder.stage].regular.push(chunk):
            self._append(encoder, run)
        self._end_ns = max(self._end_ns, self._windower.ring(encoder.modality).watermark_ns)

    def _append(self, encoder: Encoder, run: Run) -> None:
        sampled, ring = self._sampled[encoder.stage], self._windower.ring(encoder.modality)
        if run.t_ns is not None:
            ring.append(sampled.conditioner.flush())
            ring.anchor(sampled.conditioner.resume(run.t_ns))
        if sampled.quality is not None:
            sampled.quality.push(run.t_ns, run.samples)
        ring.append(sampled.conditioner.push(run.samples))

    def _push_words(self, encoder: Encoder, chunk: Chunk) -> None:
        """Encode an utterance as a whole, and note each word's vector at its time."""
        engine, track = self._setup.engines[encoder.stage], self._windower.track(encoder.modality)
        began_ns = self._clock.now_ns()
        words = [str(word) for word in chunk.data[:, 0]]
        for utterance in self._tokenizers[encoder.stage].utterances(words):
            found = engine.run({encoder.input.name: utterance.ids})[encoder.output.name][0]
            rows = chunk.data[utterance.first : utterance.first + utterance.n_words]
            times_ns = rows[:, 1:3].astype(np.int64)
            for (start_ns, end_ns), vector in zip(
                times_ns.tolist(), utterance.word_vectors(found), strict=True
            ):
                track.push(start_ns, end_ns, vector)
            if self._on_step is not None:
                self._spoken.setdefault(encoder.stage, []).append(Spoken(utterance, times_ns))
        self._early_infer_ns += self._clock.now_ns() - began_ns

    def finish(self) -> list[Prediction]:
        """The session is over: the predictions of the last whole steps. A partial tail is counted."""
        for encoder in (watch.encoder for watch in self._watched.values()):
            if encoder.stage in self._sampled:
                self._finish_samples(encoder)
            self._windower.close(encoder.modality)
        predictions = self._run_ready()
        self.counters.n_dropped_tail += self._windower.n_dropped_tail(self._end_ns)
        return predictions

    def _finish_samples(self, encoder: Encoder) -> None:
        sampled = self._sampled[encoder.stage]
        for run in sampled.regular.finish():
            self._append(encoder, run)
        self._windower.ring(encoder.modality).append(sampled.conditioner.flush())

    # -- one step ------------------------------------------------------------------------------

    def _run_ready(self, now_ns: int | None = None) -> list[Prediction]:
        predictions = []
        while (step := self._windower.take(now_ns)) is not None:
            prediction = self._drop_step(step) if self._is_overloaded(step) else self._run_step(step)
            self.counters.n_steps += 1
            if prediction is not None:
                predictions.append(prediction)
        self._count()
        return predictions

    def _count(self) -> None:
        counters, regulars = self.counters, [one.regular for one in self._sampled.values()]
        counters.n_late = self._windower.n_late
        counters.n_gaps = sum(regular.n_gaps for regular in regulars)
        counters.n_corrections = sum(regular.n_corrections for regular in regulars)
        counters.n_duplicate = self._windower.n_duplicate
        counters.n_duplicate += sum(regular.order.n_duplicate for regular in regulars)

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

    def _drop_step(self, step: Step) -> Prediction | None:
        """Work on nothing; at the end of a hop, say so."""
        self.counters.n_dropped_steps += 1
        self._timing = _Timing()
        self._timing.start_step(self._clock.now_ns(), 0, None)
        found = {e.stage: _Found(slot="absent", feature=None, coverage=0.0) for e in self._model.encoders}
        self._repeated |= found
        for stage in found:
            self._rings[stage].push(None, "absent")
        self._unaligned = [*self._unaligned[1:], False]
        if (step.index + 1) % self._setup.hop_steps:
            return None
        self._states = self._ask_states()
        timing, self._timing = self._timing, _Timing()
        return self._predict(step, found, Raw(), ("overloaded",), timing)

    def _run_step(self, step: Step) -> Prediction | None:
        """Encode a step; at the end of a hop, fuse and predict."""
        timing = self._timing
        timing.start_step(self._clock.now_ns(), self._early_infer_ns, self._capture_ns)
        self._early_infer_ns = 0
        found = {encoder.stage: self._encode(encoder, step, timing) for encoder in self._model.encoders}
        self._unaligned = [*self._unaligned[1:], any(one.unaligned for one in found.values())]
        self._switched |= any(one.switched for one in found.values())
        prediction, n_used, raw = None, 0, Raw()
        if (step.index + 1) % self._setup.hop_steps == 0:
            prediction, n_used, raw = self._fuse_step(step, found, timing)
            self._timing, self._switched = _Timing(), False
        if self._on_step is not None:
            self._on_step(self._trace(step, found, n_used, raw))
        return prediction

    def _fuse_step(
        self, step: Step, found: dict[str, _Found], timing: _Timing
    ) -> tuple[Prediction, int, Raw]:
        self._states = self._ask_states()
        withheld = self._why_withheld(found)
        n_used = 0 if withheld else self._n_usable()
        if not withheld and n_used == 0:
            withheld = ("warming_up",) if self.counters.n_steps + 1 < self._n_steps else ("window_has_gaps",)
        raw = {} if withheld else self._fuse(n_used, timing)
        return self._predict(step, found, raw, withheld, timing), n_used, raw

    def _encode(self, encoder: Encoder, step: Step, timing: _Timing) -> _Found:
        ring = self._rings[encoder.stage]
        if step.index % encoder.repeat == 0:
            self._repeated[encoder.stage] = self._encode_anew(encoder, step, timing)
        found = replace(self._repeated[encoder.stage])
        if found.switched:
            ring.clear()
        if found.slot != "present":
            self._stand_in(encoder, found, timing)
        ring.push(found.feature, found.slot)
        return found

    def _encode_anew(self, encoder: Encoder, step: Step, timing: _Timing) -> _Found:
        if isinstance(encoder.preprocess, Words):
            return self._say(encoder, encoder.preprocess, step.words[encoder.modality])
        return self._encode_sensed(encoder, step, timing)

    def _say(self, encoder: Encoder, spec: Words, said: Said) -> _Found:
        """The feature of what is being said; silence is no gap, but a session without a transcript is."""
        is_there = encoder.stage in self._tokenizers
        found = _Found(
            slot="present" if is_there else "absent",
            feature=None,
            coverage=float(is_there),
            newest_ns=said.newest_ns,
        )
        if is_there:
            found.feature = np.zeros(encoder.feature, np.float32)
            write_words(said.vector, spec, found.feature)
        return found

    def _encode_sensed(self, encoder: Encoder, step: Step, timing: _Timing) -> _Found:
        engine = self._setup.engines[encoder.stage]
        began_ns = self._clock.now_ns()
        found = self._preprocess(encoder, step)
        timing.preprocess_ns += self._clock.now_ns() - began_ns
        if found.slot == "present":
            found.feature = self._infer(engine, encoder, timing)
        return found

    def _preprocess(self, encoder: Encoder, step: Step) -> _Found:
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

    def _preprocess_samples(self, encoder: Encoder, step: Step) -> _Found:
        piece, sampled = step.samples[encoder.modality], self._sampled.get(encoder.stage)
        end_ns = to_ns(encoder.period * (step.index // encoder.repeat + 1) + encoder.offset)
        track = None if sampled is None else sampled.quality
        quality = None if track is None else track.verdict(end_ns)
        if piece.coverage > 0:
            self._write_samples[encoder.stage](piece.samples)
        return _Found(
            slot="present" if quality is None else "absent",
            feature=None,
            coverage=piece.coverage,
            newest_ns=piece.newest_ns,
            settling=piece.is_settling and quality != "not_a_number",
            quality=quality,
        )

    def _preprocess_clip(self, encoder: Encoder, frames: list[Frame | None]) -> _Found:
        timed = [None if frame is None else (frame.t_ns, frame.pixels) for frame in frames]
        report = self._clips[encoder.stage].make(timed, self._write_clip[encoder.stage])
        return _Found(
            slot="present",
            feature=None,
            coverage=report.coverage,
            newest_ns=report.newest_ns,
            switched=report.switched,
            unaligned=report.n_unaligned > 0,
            quality=report.quality,
        )

    def _infer(self, engine: Engine, encoder: Encoder, timing: _Timing) -> NDArray[np.float32]:
        began_ns = self._clock.now_ns()
        feature = engine.infer()[encoder.output.name][0]
        timing.infer_ns += self._clock.now_ns() - began_ns
        return np.asarray(feature, np.float32)

    def _stand_in(self, encoder: Encoder, found: _Found, timing: _Timing) -> None:
        """What the missing-modality policy puts in the place of an absent step."""
        policy = self._policy(encoder)
        if policy == "zero_feature":
            found.slot = "filled"
        elif policy == "blank_input":
            began_ns = self._clock.now_ns()
            found.slot, found.feature = "filled", self._blank_feature(encoder)
            timing.infer_ns += self._clock.now_ns() - began_ns
        elif policy == "hold" and encoder.hold_max_age is not None:
            held = self._rings[encoder.stage].held(int(encoder.hold_max_age / self._model.step))
            if held is not None:
                found.slot, found.feature = "filled", held

    def _blank_feature(self, encoder: Encoder) -> Samples:
        """What an encoder makes of nothing; encoded once a session."""
        if encoder.stage not in self._blanks:
            self._blanks[encoder.stage] = blank_feature(encoder, self._setup.engines[encoder.stage])
        return self._blanks[encoder.stage]

    def _policy(self, encoder: Encoder) -> MissingPolicy:
        """Never measured means abstain."""
        return self._setup.missing.get(encoder.modality) or encoder.missing or "abstain"

    # -- the window ----------------------------------------------------------------------------

    @property
    def _n_steps(self) -> int:
        return self._model.fusion.n_steps

    def _why_withheld(self, found: dict[str, _Found]) -> tuple[str, ...]:
        if all(one.slot != "present" for one in found.values()):
            if any(one.settling for one in found.values()):
                return ("warming_up",)
            return tuple(f"{encoder.modality}_missing" for encoder in self._model.encoders)
        absent = [e for e in self._model.encoders if found[e.stage].slot == "absent"]
        reasons = [f"{encoder.modality}_missing" for encoder in absent if self._policy(encoder) != "mask"]
        most_ms = self._model.max_skew_ms
        if most_ms is not None and _skew_ms(found) > most_ms:
            reasons.append("bad_sync")
        return tuple(reasons)

    def _n_usable(self) -> int:
        """Steps, counted back from the last, that the fusion may look at; 0 = it may not run."""
        if self._model.fusion.has_present_input:
            return self._n_steps
        n = 0
        for slots in zip(*(reversed(ring.slots) for ring in self._rings.values()), strict=True):
            if any(slot not in ("present", "filled") for slot in slots):
                break
            n += 1
        return n if n == self._n_steps or self._model.fusion.warm_up in ("shorten", "pad") else 0

    def _present(self) -> NDArray[np.bool_]:
        return np.array([ring.present for ring in self._rings.values()], np.bool_)

    def _fuse(self, n_used: int, timing: _Timing) -> Raw:
        began_ns = self._clock.now_ns()
        feed: dict[str, Array] = {}
        for encoder, spec in zip(self._model.encoders, self._model.fusion.inputs, strict=False):
            rows = self._rings[encoder.stage].buffer[:, self._n_steps - n_used :]
            feed[spec.name] = self._padded(encoder, rows) if self._is_padded else rows
        if self._model.fusion.has_present_input:
            name = self._model.fusion.inputs[-1].name
            feed[name] = self._fusion.inputs[name]
            feed[name][0] = self._present()
        outputs = self._fusion.run(feed)
        timing.infer_ns += self._clock.now_ns() - began_ns
        names = zip(self._model.outputs, self._model.fusion.outputs, strict=True)
        last = n_used - 1 if self._is_padded else -1
        return {
            output.name: np.array(spec.step_of(outputs[spec.name][0], last), np.float32)
            for output, spec in names
        }

    @property
    def _is_padded(self) -> bool:
        return self._model.fusion.warm_up == "pad"

    def _padded(self, encoder: Encoder, rows: Samples) -> Samples:
        """A window with the features of nothing behind the steps that are there; (1, n, D) -> (1, L, D)."""
        n_lacking = self._n_steps - rows.shape[1]
        if n_lacking == 0:
            return rows
        blank = np.broadcast_to(self._blank_feature(encoder), (1, n_lacking, encoder.feature))
        return np.concatenate([rows, blank], axis=1)

    def _why_degraded(self, found: dict[str, _Found]) -> tuple[str, ...]:
        reasons: list[str] = []
        if self.counters.n_steps + 1 < self._n_steps:
            reasons.append("warming_up")
        for encoder in self._model.encoders:
            slots = self._rings[encoder.stage].slots
            if isinstance(encoder.preprocess, FaceClip) and (self._switched or "cleared" in slots):
                reasons.append("face_switched")
            if slots[-1] in ("absent", "filled"):
                reasons.append(f"{encoder.modality}_missing")
            elif any(slot in ("absent", "filled") for slot in slots):
                reasons.append(f"{encoder.modality}_gap")
        if any(self._unaligned):
            reasons.append("unaligned_face")
        return (*reasons, *self._troubles())

    def _ask_states(self) -> dict[Modality, str | None]:
        if self._live is None:
            return {}
        return {modality: self._live.state(stream.name) for modality, stream in self._streams.items()}

    def _troubles(self) -> tuple[str, ...]:
        """What is wrong with live sources."""
        reasons = []
        for modality, state in self._states.items():
            if state == "stalled":
                reasons.append(f"{modality}_stalled")
            elif state == "wrong_rate":
                reasons.append(f"{modality}_wrong_rate")
            elif state == "restarting":
                reasons.append(f"{modality}_restarting")
        if not self._are_clocks_known():
            reasons.append("clock_unknown")
        return tuple(reasons)

    # -- what goes out -------------------------------------------------------------------------

    def _predict(
        self,
        step: Step,
        found: dict[str, _Found],
        raw: Raw,
        withheld: tuple[str, ...],
        timing: _Timing,
    ) -> Prediction:
        began_ns = self._clock.now_ns()
        estimates = decode(self._model.outputs, raw) if raw else None
        measured = self._measured() if estimates is not None else None
        affect = None if estimates is None else estimates.affect
        if affect is not None and measured is not None:
            affect = replace(affect, interval=intervals(self._model.outputs, raw, measured))
        if withheld:
            withheld = (*withheld, *self._troubles())
        status, reasons = judge(
            Evidence(withheld, self._why_degraded(found), estimates is not None or bool(withheld))
        )
        if status == "withheld" and self._switched:
            reasons = (*reasons, "face_switched")
        return Prediction(
            window_index=step.index // self._setup.hop_steps,
            t_start_ns=self._model.step_start_ns(max(0, step.index + 1 - self._n_steps)),
            t_end_ns=step.t_end_ns,
            utc=(self._utc_start + timedelta(microseconds=step.t_end_ns // 1000)).isoformat(),
            utc_synchronised=self._utc_synchronised,
            status=status,
            reasons=reasons,
            affect=affect,
            pain=None if estimates is None else estimates.pain,
            emotion=None if estimates is None else estimates.emotion,
            modalities={
                e.modality: _modality_status(found[e.stage], step, self._states.get(e.modality))
                for e in self._model.encoders
            },
            sync=self._sync_quality(found),
            latency_ms=self._latency(step, timing, self._clock.now_ns() - began_ns),
            engine=self._setup.engine_name,
            precision=self._setup.precision,
            bundle_id=self._setup.bundle_id,
            confidence=None if measured is None else confidence(self._model.outputs, raw, measured),
        )

    def _sync_quality(self, found: dict[str, _Found]) -> SyncQuality:
        names = [stream.name for stream in self._streams.values()]
        clocks = [] if self._live is None else [self._live.clock_uncertainty_ns(name) for name in names]
        stamps = [sampled.regular.uncertainty_ns for sampled in self._sampled.values()]
        known = [clock for clock in clocks if clock is not None]
        most_ms = None if len(known) < len(clocks) else max([*known, *stamps], default=0) / NS_PER_MS
        return SyncQuality(_skew_ms(found), most_ms, warming_up=not self._are_clocks_known())

    def _are_clocks_known(self) -> bool:
        names = [stream.name for stream in self._streams.values()]
        return self._live is None or all(self._live.is_clock_known(name) for name in names)

    def _measured(self) -> SubsetFindings | None:
        """What was found for the modalities that are there in the whole window; None if nothing was.

        One that is there in some steps only counts as missing, which errs on the careful side.
        """
        if self._setup.findings is None:
            return None
        n_there = min(self.counters.n_steps + 1, self._n_steps)
        is_whole = {
            encoder.modality: set(self._rings[encoder.stage].slots[-n_there:]) == {"present"}
            for encoder in self._model.encoders
        }
        found = self._setup.findings.of(tuple(modality for modality, whole in is_whole.items() if whole))
        policies = {self._policy(e) for e in self._model.encoders if not is_whole[e.modality]}
        return found if found is not None and policies <= {found.stand_in} else None

    def _latency(self, step: Step, timing: _Timing, postprocess_ns: int) -> Latency:
        wait_ns = None if self._start_ns is None else timing.start_ns - self._start_ns - step.t_end_ns
        work_ns = timing.preprocess_ns + timing.infer_ns - timing.before_ns + postprocess_ns
        return Latency(
            capture=None if timing.capture_ns is None else timing.capture_ns / NS_PER_MS,
            wait=None if wait_ns is None else wait_ns / NS_PER_MS,
            preprocess=timing.preprocess_ns / NS_PER_MS,
            infer=timing.infer_ns / NS_PER_MS,
            postprocess=postprocess_ns / NS_PER_MS,
            end_to_end=(work_ns + (wait_ns or 0)) / NS_PER_MS,
        )

    def _trace(self, step: Step, found: dict[str, _Found], n_used: int, raw: Raw) -> StepTrace:
        there = [e for e in self._model.encoders if found[e.stage].slot == "present"]
        spoken, self._spoken = self._spoken, {}
        n_kept = 1 if (step.index + 1) % self._setup.hop_steps else self._n_steps
        return StepTrace(
            index=step.index,
            inputs={e.stage: self._step_tensor(e, found[e.stage]) for e in there},
            features={stage: ring.buffer[:, -n_kept:].copy() for stage, ring in self._rings.items()},
            present=self._present(),
            n_used=n_used if raw else 0,
            raw=dict(raw),
            is_real=len(there) == len(self._model.encoders),
            spoken=spoken,
        )

    def _step_tensor(self, encoder: Encoder, found: _Found) -> Samples:
        if isinstance(encoder.preprocess, Words):
            return np.array([found.feature], np.float32)
        return self._setup.engines[encoder.stage].read_input(encoder.input.name).view(np.float32)


def _conditioner(spec: SampledSpec, rate_hz: int) -> SoundConditioner | SignalConditioner | CourseConditioner:
    if not isinstance(spec, Signal):
        return SoundConditioner(rate_hz, spec.rate_hz)
    return SignalConditioner() if spec.courses is None else CourseConditioner(spec)


def _fresh_ring(fusion: Engine, name: str) -> FeatureRing:
    buffer = fusion.inputs[name]
    buffer[...] = 0
    return FeatureRing(buffer.view(np.float32))


def _modality_status(found: _Found, step: Step, source: str | None) -> ModalityStatus:
    age_ms = None if found.newest_ns is None else (step.t_end_ns - found.newest_ns) / NS_PER_MS
    return ModalityStatus(
        present=found.slot == "present",
        coverage=round(found.coverage, 4),
        age_ms=age_ms,
        source=source,
        quality=found.quality,
    )


def _skew_ms(found: dict[str, _Found]) -> float:
    skews = [one.skew_ns for one in found.values() if one.coverage > 0]
    return (max(skews) - min(skews)) / NS_PER_MS if skews else 0.0
