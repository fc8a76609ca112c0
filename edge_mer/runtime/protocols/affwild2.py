"""One prediction per frame from interleaved blocks, smoothed: the evaluation on Affwild2 of JMT and its kin.

A model whose window is L sub-clips of F frames (16 of 32) is run on blocks of F x L frames in F phases. In
phase r of block b, sub-clips end with the frames F L b + 1 + r + F i, i = 0 .. L - 1, counted from 1, and the
i-th output of the window is that of its i-th end. So each frame is the end of one sub-clip, and gets one
prediction. Sub-clips that reach over the edges of the recording take what frames exist.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from edge_mer.clock import NS_PER_S
from edge_mer.engine.base import Array, Engine
from edge_mer.engine.sharing import OFFLINE_BATCH, parts
from edge_mer.errors import DataError
from edge_mer.preprocess.audio import SoundConditioner, log_mel
from edge_mer.runtime.blank import as_clip, blank_tensor
from edge_mer.runtime.pipeline import NS_PER_MS, PipelineSetup
from edge_mer.runtime.protocols.base import Need, Recording, demand
from edge_mer.runtime.protocols.counting import GRID_FPS, Count, Picture, Pictures, counting, place
from edge_mer.runtime.protocols.frames import Costs, FrameTable, records
from edge_mer.runtime.streams import check_fits, chosen_streams
from edge_mer.sync.samples import Continuity, Piece, SampleRing
from edge_mer.sync.windower import MAX_WAIT_NS
from edge_mer.types.model import AffectOutput, Encoder, FaceClip, LogMel, ModelSpec, Output, to_ns
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk, StreamSpec

NAME = "affwild2"
FRAME = Fraction(1, GRID_FPS)
SMOOTHED_OVER = {"valence": 20, "arousal": 50}
"""Frames of the moving average."""

LEAST_SAMPLES = 45_599
"""Shorter sound is padded in front to so many samples, 31 frames' worth at 44.1 kHz; a shorter step to its
own length."""

LONGEST_SPAN = 2
"""Where frames are lacking, F of them may take longer than a step; their sound is cut to so many steps."""

Samples = NDArray[np.float32]


class Affwild2:
    """All outputs of all phases, scattered to frames, clipped and smoothed."""

    def check(self, model: ModelSpec) -> None:
        """Refuse a model of another form.

        Raises:
            UsageError: It does not fit.
        """
        form, frames = Form.of(model), model.step * GRID_FPS
        needs = [
            Need("a model of face clips and log-mel spectrograms", _kinds(model), lambda: form is not None),
            Need(
                f"a step of whole frames at {GRID_FPS} fps",
                f"{float(frames):g} frames",
                lambda: frames.denominator == 1,
            ),
            Need(
                "sub-clips of one step that end with its last frame, their frames evenly apart",
                "another geometry",
                lambda: form is not None and form.is_regular,
            ),
            Need(
                "valence or arousal of every step of the window",
                "other outputs, or those of its last step only",
                lambda: _gives_every_step(model),
            ),
        ]
        demand(NAME, model, needs)

    def predict(self, recording: Recording) -> Iterator[Prediction]:
        """Play a recording to its end.

        Raises:
            DataError: There is no frame in it.
        """
        run = _Run(recording)
        for chunk in recording.chunks:
            run.push(chunk)
        n = run.finish()
        if n == 0:
            raise DataError(f"protocol {NAME} found no frame", expected="a recording with a picture")
        rows, outputs = run.table.rows(n), recording.setup.model.outputs
        with run.costs.of("postprocess"):
            values = [smoothed(output, rows["total"][:, i]) for i, output in enumerate(outputs)]
        yield from records(recording.setup, rows, np.stack(values, axis=1), run.costs)


@dataclass(frozen=True)
class Form:
    """What the protocol needs to know of a model.

    Attributes:
        face: Encoder of the face.
        clip: What it looks at.
        voice: Encoder of the voice.
        mel: What it listens to.
        n_frames: Frames of a step (F).
        n_steps: Steps of a window (L).
    """

    face: Encoder
    clip: FaceClip
    voice: Encoder
    mel: LogMel
    n_frames: int
    n_steps: int

    @classmethod
    def of(cls, model: ModelSpec) -> Form | None:
        """None for models that look at something else."""
        faces = [(e, e.preprocess) for e in model.encoders if isinstance(e.preprocess, FaceClip)]
        voices = [(e, e.preprocess) for e in model.encoders if isinstance(e.preprocess, LogMel)]
        if len(faces) != 1 or len(voices) != 1 or len(model.encoders) != 2:
            return None
        return cls(*faces[0], *voices[0], int(model.step * GRID_FPS), model.fusion.n_steps)

    @property
    def n_block(self) -> int:
        """Frames of a block."""
        return self.n_frames * self.n_steps

    @property
    def is_regular(self) -> bool:
        """A whole sub-clip of the protocol is the same as a step of the model."""
        face, clip = self.face, self.clip
        stride = self.n_frames // clip.n_frames
        ends = (face.offset - clip.last_frame_before_end, self.voice.offset)
        spans = {face.span, face.period, self.voice.span, self.voice.period}
        return (
            ends == (-FRAME, Fraction(0))
            and spans == {self.n_frames * FRAME}
            and clip.frame_interval == stride * FRAME
        )


def _kinds(model: ModelSpec) -> str:
    return " and ".join(f"{e.preprocess.kind} ({e.modality})" for e in model.encoders)


def _gives_every_step(model: ModelSpec) -> bool:
    are_affect = all(isinstance(output, AffectOutput) for output in model.outputs)
    return are_affect and all("steps" in spec.axes for spec in model.fusion.outputs)


def chosen(listed: list[Picture], n: int) -> list[Picture]:
    """The frames of a sub-clip that its model looks at, oldest first.

    Every s-th one counted back from the last, s as large as the sub-clip allows; of more than n the last n.
    Fewer than n frames are all taken, and the last one repeated.

    Args:
        listed: Those in which the face was found, oldest first; at least one.
        n: Frames that the model looks at.
    """
    stride = max(1, len(listed) // n)
    found = listed[::-1][::stride][:n][::-1]
    return found + found[-1:] * (n - len(found))


def smoothed(output: Output, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Clipped, then a moving average in which there are zeros beyond the edges; NaN near what is no number.

    Args:
        output: What it is.
        values: (frame,) raw.
    """
    if not isinstance(output, AffectOutput):
        raise TypeError(f"{output.name} is not smoothed")
    size, is_broken = SMOOTHED_OVER[output.name], ~np.isfinite(values)
    clipped = np.clip(np.where(is_broken, 0.0, values), output.low, output.high)
    mean: NDArray[np.float64] = uniform_filter1d(clipped, size, mode="constant")
    mean[maximum_filter1d(is_broken.astype(np.uint8), size, mode="constant") > 0] = np.nan
    return mean


# -- from chunks to sub-clips -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sound:
    """The sound that belongs to the sub-clip that ends with a frame."""

    frame: int
    start_ns: int
    end_ns: int


class _Run:
    """One recording on its way; frames count from 1.

    Args:
        recording: It.
    """

    def __init__(self, recording: Recording) -> None:
        setup, model = recording.setup, recording.setup.model
        form = Form.of(model)
        if form is None:
            raise ValueError(f"model {model.name} was not checked")
        self._recording, self._form = recording, form
        self.costs, self.table = Costs(recording.clock), FrameTable(model)
        self._blocks = _Blocks(setup, form, self.table, self.costs)
        picture = recording.demand_picture(NAME)
        streams = chosen_streams(model, recording.specs)
        check_fits(form.face, picture)
        self._face = model.encoders.index(form.face)
        self._voice = model.encoders.index(form.voice)
        self._pictures = Pictures(setup.detector, form.clip, model.name)
        self._counting = counting(picture, form.clip, recording.notes)
        self._window: deque[Picture | None] = deque(maxlen=form.n_frames)
        self._times_ns: deque[int] = deque(maxlen=form.n_frames)
        self._n = 0
        self._names = {picture.name: "visual"}
        self._track = None
        if "audio" in streams:
            check_fits(form.voice, streams["audio"])
            self._names[streams["audio"].name] = "audio"
            self._track = _Track(form, streams["audio"])
        self._unheard: deque[_Sound] = deque()

    def push(self, chunk: Chunk) -> None:
        """Take a chunk; those of other streams are left alone."""
        kind = self._names.get(chunk.stream)
        if kind == "audio" and self._track is not None:
            with self.costs.of("preprocess"):
                self._track.push(chunk)
        elif kind == "visual":
            for count in self._counting.push(place(chunk)):
                self._take(count)
        if kind is not None:
            self._hear(chunk.t_ns)

    def finish(self) -> int:
        """The recording is over; returns its number of frames."""
        for count in self._counting.finish():
            self._take(count)
        if self._track is not None:
            self._track.finish()
            self._recording.counters.n_gaps = self._track.n_gaps
        self._hear(None)
        for frame in range(self._n + 1, self._blocks.end_of_last(self._n) + 1):
            while len(self._window) > max(0, self._n - (frame - self._form.n_frames)):
                self._window.popleft()
            if self._blocks.is_needed(frame, self._n):
                self._look(frame)
                self._blocks.put_blank(self._form.voice, frame)
        self._blocks.finish(self._n)
        self._recording.counters.n_steps = self._n
        return self._n

    def _take(self, count: Count) -> None:
        """The next frame, and the sub-clip that ends with it."""
        self._n += 1
        with self.costs.of("preprocess"):
            self._window.append(self._pictures.of(count))
        self._times_ns.append(count.t_ns)
        self.table.row(self._n - 1)["t_ns"] = count.t_ns
        self._look(self._n)
        self._unheard.append(self._sound_of(count.t_ns))

    def _look(self, frame: int) -> None:
        """The face of the sub-clip that ends with a frame."""
        row, form = self.table.row(frame - 1), self._form
        listed = [one for one in self._window if one is not None]
        row["coverage"][self._face] = len(listed) / min(frame, form.n_frames)
        row["missing"][self._face] = row["coverage"][self._face] < form.face.min_coverage
        if not listed:
            self._blocks.put_blank(form.face, frame)
            return
        used = chosen(listed, form.clip.n_frames)
        row["newest_ns"][self._face] = listed[-1].t_ns
        row["skew_ms"] = abs(sum(one.skew_ns for one in used)) / len(used) / NS_PER_MS
        row["unaligned"] = not all(one.is_aligned for one in used)
        row["person"], row["switched"] = listed[-1].person, len({one.person for one in listed}) > 1
        with self.costs.of("preprocess"):
            tensor = np.empty(form.face.input.concrete(batch=1), np.float32)
            np.stack([one.pixels for one in used], axis=1, out=as_clip(tensor[0], form.clip))
        self._blocks.put(form.face, frame, tensor)

    # -- sound ----------------------------------------------------------------------------------------

    def _sound_of(self, t_ns: int) -> _Sound:
        """From the start of the first of the last F frames to the end of the newest, at `t_ns`."""
        span_ns, end_ns = to_ns(self._form.voice.span), t_ns + to_ns(FRAME)
        start_ns = self._times_ns[0] if self._n >= self._form.n_frames else end_ns - span_ns
        return _Sound(self._n, max(0, start_ns, end_ns - LONGEST_SPAN * span_ns), end_ns)

    def _hear(self, now_ns: int | None) -> None:
        """Encode the sounds that are whole; None: nothing more comes."""
        while self._unheard and self._is_whole(self._unheard[0], now_ns):
            self._listen(self._unheard.popleft())
        if self._track is not None and now_ns is not None:
            oldest_ns = now_ns - LONGEST_SPAN * to_ns(self._form.voice.span)
            self._track.forget(self._unheard[0].start_ns if self._unheard else oldest_ns)

    def _is_whole(self, sound: _Sound, now_ns: int | None) -> bool:
        if self._track is None or now_ns is None or self._track.reaches(sound.end_ns):
            return True
        return now_ns >= sound.end_ns + MAX_WAIT_NS

    def _listen(self, sound: _Sound) -> None:
        row, voice = self.table.row(sound.frame - 1), self._form.voice
        piece = None if self._track is None else self._track.between(sound.start_ns, sound.end_ns)
        if piece is None or piece.newest_ns is None:
            self._blocks.put_blank(voice, sound.frame)
            return
        row["coverage"][self._voice], row["newest_ns"][self._voice] = piece.coverage, piece.newest_ns
        row["missing"][self._voice] = piece.coverage < voice.min_coverage
        with self.costs.of("preprocess"):
            tensor = spectrogram(piece.samples, self._form)
        self._blocks.put(voice, sound.frame, tensor)


def least_samples(form: Form) -> int:
    """Samples to which shorter sound is padded."""
    return min(LEAST_SAMPLES, int(form.voice.span * form.mel.rate_hz))


def spectrogram(samples: Samples, form: Form) -> Samples:
    """The step tensor, batch = 1, of (n,) samples; zeros stand before those that are too few."""
    n_lacking = max(0, least_samples(form) - samples.size)
    tensor = np.empty(form.voice.input.concrete(batch=1), np.float32)
    log_mel(np.pad(samples, (n_lacking, 0)), form.mel, tensor[0])
    return tensor


class _Track(SampleRing):
    """The sound of a recording; any piece of its last seconds.

    Args:
        form: What the model listens to.
        stream: What comes.
    """

    def __init__(self, form: Form, stream: StreamSpec) -> None:
        super().__init__(form.voice, form.mel.rate_hz)
        rate_hz = stream.rate_hz or form.mel.rate_hz
        self._conditioner = SoundConditioner(round(rate_hz), form.mel.rate_hz)
        self._continuity = Continuity(rate_hz)
        self._is_over = False
        self.n_gaps = 0

    def push(self, chunk: Chunk) -> None:
        """Take samples; a break in them stays a break."""
        if self._continuity.is_gap(chunk.t_ns, chunk.n_samples):
            self.n_gaps += int(chunk.seq > 0)
            self.append(self._conditioner.flush())
            self.anchor(chunk.t_ns)
        self.append(self._conditioner.push(chunk.data))

    def finish(self) -> None:
        """Nothing more comes."""
        self.append(self._conditioner.flush())
        self._is_over = True

    def reaches(self, t_ns: int) -> bool:
        """Whether everything before this time has come."""
        return self._filled_to >= self._index(t_ns)

    def between(self, start_ns: int, end_ns: int) -> Piece:
        """Samples from one time to another; where the sound is over before, up to there."""
        start, stop = (self._index(t_ns) for t_ns in (start_ns, end_ns))
        n_asked = stop - start
        stop = min(stop, max(start, self._filled_to)) if self._is_over else stop
        samples, n_present, newest = np.zeros(stop - start, np.float32), 0, None
        for first, held in self._segments:
            low, high = max(first, start), min(first + held.size, stop)
            if low < high:
                samples[low - start : high - start] = held[low - first : high - first]
                n_present, newest = n_present + high - low, high
        newest_ns = None if newest is None else newest * NS_PER_S // self._rate_hz
        return Piece(samples, n_present / n_asked, newest_ns)

    def forget(self, before_ns: int) -> None:
        """Let go of what is older."""
        self._forget_before(self._index(before_ns))

    def _index(self, t_ns: int) -> int:
        return round(Fraction(t_ns * self._rate_hz, NS_PER_S))


# -- from sub-clips to outputs ------------------------------------------------------------------------


class _Encoding:
    """Step tensors of one encoder, run several at a time.

    Args:
        encoder: Its declaration.
        engine: Runs it.
        costs: Where the work is counted.
    """

    def __init__(self, encoder: Encoder, engine: Engine, costs: Costs) -> None:
        self._encoder, self._engine, self._costs = encoder, engine, costs
        self._batch = OFFLINE_BATCH if isinstance(encoder.input.shape[0], str) else 1
        self._waiting: list[tuple[int, Samples]] = []

    def add(self, frame: int, tensor: Samples) -> list[tuple[int, Samples]]:
        """Take a step tensor, batch = 1; returns the features that are ready, by frame."""
        self._waiting.append((frame, tensor))
        return self.flush() if len(self._waiting) == self._batch else []

    def flush(self) -> list[tuple[int, Samples]]:
        """The features of all that wait."""
        if not self._waiting:
            return []
        frames, tensors = zip(*self._waiting, strict=True)
        self._waiting.clear()
        rows = [self.run(np.concatenate(tensors[part])) for part in parts(len(tensors), self._batch)]
        return list(zip(frames, np.concatenate(rows), strict=True))

    def run(self, tensors: Samples) -> Samples:
        """(batch, feature)."""
        with self._costs.of("infer"):
            found = self._engine.run({self._encoder.input.name: tensors})
        return np.asarray(found[self._encoder.output.name], np.float32)


class _Block:
    """Features of the sub-clips of one block, and which of them show or say anything.

    Args:
        model: Declares the encoders.
        n: Frames of a block.
    """

    def __init__(self, model: ModelSpec, n: int) -> None:
        self.features = {e.stage: np.zeros((n, e.feature), np.float32) for e in model.encoders}
        self.there = {e.stage: np.zeros(n, np.bool_) for e in model.encoders}
        self.n_lacking = n * len(model.encoders)


class _Blocks:
    """Gathers features, and runs every phase of a block once it is whole.

    Args:
        setup: Model and engines.
        form: Of the model.
        table: Where outputs go.
        costs: Where the work is counted.
    """

    def __init__(self, setup: PipelineSetup, form: Form, table: FrameTable, costs: Costs) -> None:
        self._model, self._form, self._table, self._costs = setup.model, form, table, costs
        self._fusion = setup.engines[setup.model.fusion.stage]
        self._encodings = {
            e.stage: _Encoding(e, setup.engines[e.stage], costs) for e in (form.face, form.voice)
        }
        self._blanks: dict[str, Samples] = {}
        self._blocks: dict[int, _Block] = {}

    def put(self, encoder: Encoder, frame: int, tensor: Samples) -> None:
        """The step tensor, batch = 1, of the sub-clip that ends with a frame."""
        for ready, feature in self._encodings[encoder.stage].add(frame, tensor):
            self._store(encoder.stage, ready, feature, is_there=True)

    def put_blank(self, encoder: Encoder, frame: int) -> None:
        """A sub-clip without anything: black pictures, or silence."""
        if encoder.stage not in self._blanks:
            is_voice = encoder.stage == self._form.voice.stage
            silence = np.zeros(least_samples(self._form), np.float32)
            tensor = spectrogram(silence, self._form) if is_voice else blank_tensor(encoder)
            self._blanks[encoder.stage] = self._encodings[encoder.stage].run(tensor)[0]
        self._store(encoder.stage, frame, self._blanks[encoder.stage], is_there=False)

    def end_of_last(self, length: int) -> int:
        """The last frame of the block that frame `length` is in."""
        return -(-length // self._form.n_block) * self._form.n_block

    def is_needed(self, frame: int, length: int) -> bool:
        """Whether a sub-clip that ends behind the recording is part of a phase that has an end in it."""
        into = (frame - 1) % self._form.n_block
        return frame - into + into % self._form.n_frames <= length

    def finish(self, length: int) -> None:
        """Run what waits, and the phases of the last block that end in the recording at least once."""
        for stage, encoding in self._encodings.items():
            for frame, feature in encoding.flush():
                self._store(stage, frame, feature, is_there=True)
        for number, block in self._blocks.items():
            n_phases = min(self._form.n_frames, length - number * self._form.n_block)
            self._fuse(number, block, n_phases)
        self._blocks.clear()

    def _store(self, stage: str, frame: int, feature: Samples, *, is_there: bool) -> None:
        number, into = divmod(frame - 1, self._form.n_block)
        if number not in self._blocks:
            self._blocks[number] = _Block(self._model, self._form.n_block)
        block = self._blocks[number]
        block.features[stage][into], block.there[stage][into] = feature, is_there
        block.n_lacking -= 1
        if block.n_lacking == 0:
            self._fuse(number, self._blocks.pop(number), self._form.n_frames)

    def _fuse(self, number: int, block: _Block, n_phases: int) -> None:
        form = self._form
        for phase in range(n_phases):
            with self._costs.of("infer"):
                found = self._fusion.run(self._feed(block, phase))
            outputs = np.stack([found[spec.name][0] for spec in self._model.fusion.outputs], axis=1)
            frames = number * form.n_block + np.arange(phase, form.n_block, form.n_frames, dtype=np.int64)
            first = int(frames[0]) - form.n_frames + 1
            self._table.see_window(frames, outputs, first=max(0, first), is_cut=first < 0)

    def _feed(self, block: _Block, phase: int) -> dict[str, Any]:
        fusion, every = self._model.fusion, slice(phase, None, self._form.n_frames)
        feed: dict[str, Array] = {
            spec.name: np.ascontiguousarray(block.features[encoder.stage][every])[np.newaxis]
            for encoder, spec in zip(self._model.encoders, fusion.inputs, strict=False)
        }
        if fusion.has_present_input:
            mask = [block.there[encoder.stage][every] for encoder in self._model.encoders]
            feed[fusion.inputs[-1].name] = np.stack(mask)[np.newaxis]
        return feed
