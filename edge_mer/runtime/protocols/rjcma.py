"""One prediction per frame from windows of K frames that overlap, averaged: RJCMA's evaluation.

K is 300 and the hop 200; the last window is moved back so that it ends with the recording, and a shorter
recording is padded behind with what the encoders make of nothing. Features are those of the pipeline, for
which the sound's last sample goes on for a second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.engine.base import Array, Engine
from edge_mer.errors import DataError
from edge_mer.runtime.arrivals import end_ns
from edge_mer.runtime.blank import blank_feature
from edge_mer.runtime.pipeline import NS_PER_MS, Pipeline, PipelineSetup, StepTrace
from edge_mer.runtime.protocols.base import Need, Recording, demand
from edge_mer.runtime.protocols.frames import NOBODY, Costs, FrameTable, records
from edge_mer.sync.windower import MAX_WAIT_NS
from edge_mer.types.model import AffectOutput, Clip, Encoder, Fusion, ModelSpec, TensorSpec, to_ns
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk

NAME = "rjcma"
MAX_PAUSE_NS = 60 * NS_PER_S
"""A picture that stops for longer has ended."""

EDGE_NS = NS_PER_S
"""For so long the last sample of the sound goes on."""

STOPPED_NS = MAX_WAIT_NS - NS_PER_S // 10
"""Sound that is this far behind the picture has stopped; a little less than a step waits for it."""

Row = dict[str, NDArray[np.float32]]
"""Stage -> (feature,) of one frame."""


class Rjcma:
    """The mean of all windows that hold a frame."""

    def check(self, model: ModelSpec) -> None:
        """Refuse a model of another form.

        Raises:
            UsageError: It does not fit.
        """
        fusion, faces = model.fusion, _faces(model)
        sizes = {spec.shape[1] for spec in fusion.inputs[: len(model.encoders)]}
        needs = [
            Need(
                "a model whose step is one frame",
                f"{faces[0][1].n_frames} frames per step" if faces else "no picture",
                lambda: [clip.n_frames for _, clip in faces] == [1],
            ),
            Need(
                "features of their own for each frame",
                "features that serve several steps",
                lambda: all(encoder.repeat == 1 for encoder in model.encoders),
            ),
            Need(
                f"a fusion that always looks at {fusion.n_steps} frames",
                "a window of any length",
                lambda: sizes == {fusion.n_steps},
            ),
            Need(
                "valence or arousal of every frame of the window",
                "other outputs, or those of its last frame only",
                lambda: _gives_every_step(model),
            ),
        ]
        demand(NAME, model, needs)

    def predict(self, recording: Recording) -> Iterator[Prediction]:
        """Play a recording to the end of its picture.

        Raises:
            DataError: There is no frame in it.
        """
        recording.demand_picture(NAME)
        setup, costs = recording.setup, Costs(recording.clock)
        windows = _Windows(setup, costs)
        for frame in _frames(recording, costs):
            windows.push(frame)
        n = windows.finish()
        if n == 0:
            raise DataError(f"protocol {NAME} found no frame", expected="a recording with a picture")
        with costs.of("postprocess"):
            rows = windows.table.rows(n)
            values = rows["total"] / rows["n_windows"][:, np.newaxis]
        yield from records(setup, rows, values, costs)


def _faces(model: ModelSpec) -> list[tuple[Encoder, Clip]]:
    return [(e, e.preprocess) for e in model.encoders if isinstance(e.preprocess, Clip)]


def _gives_every_step(model: ModelSpec) -> bool:
    are_affect = all(isinstance(output, AffectOutput) for output in model.outputs)
    return are_affect and all("steps" in spec.axes for spec in model.fusion.outputs)


def hop_of(n_steps: int) -> int:
    """Frames from one window to the next: 200 of 300, and as much of windows of other lengths."""
    return max(1, 2 * n_steps // 3)


# -- features, frame by frame -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Frame:
    """A step of the pipeline: its features, and its record without an estimate."""

    trace: StepTrace
    record: Prediction
    t_ns: int

    @property
    def row(self) -> Row:
        return {stage: window[0, 0] for stage, window in self.trace.features.items()}


class _NoFusion(Engine):
    """Stands where nothing is fused: zeros for whatever comes."""

    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        return {spec.name: np.zeros(spec.concrete(batch=1), np.float32) for spec in self.output_specs}


def one_step(setup: PipelineSetup) -> PipelineSetup:
    """The same encoders in windows of one step, without a fusion; what is missing is blank."""
    model, fusion = setup.model, setup.model.fusion
    inputs = tuple(
        TensorSpec(name=spec.name, axes=spec.axes, shape=("batch", 1, encoder.feature))
        for spec, encoder in zip(fusion.inputs, model.encoders, strict=False)
    )
    outputs = tuple(
        TensorSpec(name=spec.name, axes=("batch", *spec.axes[2:]), shape=("batch", *spec.shape[2:]))
        for spec in fusion.outputs
    )
    single = Fusion(stage=fusion.stage, n_steps=1, inputs=inputs, outputs=outputs, warm_up="withhold")
    engines = {**setup.engines, fusion.stage: _NoFusion(fusion.stage, inputs, outputs, {"batch": 1})}
    return replace(
        setup,
        model=model.model_copy(update={"fusion": single}),
        engines=engines,
        missing=dict.fromkeys(model.modalities, "blank_input"),
        hop=None,
        gates=False,
    )


def _frames(recording: Recording, costs: Costs) -> Iterator[_Frame]:
    """Every step up to the last frame of the picture, in order."""
    setup, pictures = one_step(recording.setup), _Picture(recording.setup.model)
    traces: list[StepTrace] = []
    pipeline = Pipeline(setup, recording.specs, recording.clock, on_step=traces.append)
    waiting: deque[_Frame] = deque()

    def ready(found: list[Prediction]) -> Iterator[_Frame]:
        """What the steps just done leave to hand on: not what may come after the picture's end."""
        for trace, record in zip(traces, found, strict=True):
            costs.preprocess += round(record.latency_ms.preprocess * NS_PER_MS)
            costs.infer += round(record.latency_ms.infer * NS_PER_MS)
            waiting.append(_Frame(trace, record, pictures.time_ns(trace.index)))
        traces.clear()
        while waiting and pictures.reaches(waiting[0].t_ns):
            yield waiting.popleft()

    for chunk in _with_edge(recording):
        if chunk.modality == "visual":
            pictures.last_ns = chunk.t_ns
        yield from ready(pipeline.push(chunk))
        if waiting and waiting[-1].t_ns - waiting[0].t_ns > MAX_PAUSE_NS:
            recording.notes.append("The picture stopped: nothing was looked at after that.")
            break
    else:
        yield from ready(pipeline.finish())
    counted = pipeline.counters
    recording.counters.n_gaps, recording.counters.n_late = counted.n_gaps, counted.n_late
    recording.counters.n_steps = counted.n_steps - len(waiting)


def _with_edge(recording: Recording) -> Iterator[Chunk]:
    """The chunks, and where the sound stops its last sample, repeated.

    It comes before any step of its time is given up, which is when the picture is `MAX_WAIT_NS` ahead; or not
    at all, where the sound itself came later than that.
    """
    rates_hz = {spec.name: spec.rate_hz or 1.0 for spec in recording.specs}
    newest: Chunk | None = None
    stopped_ns = picture_ns = 0
    for chunk in recording.chunks:
        if chunk.modality == "audio" and chunk.n_samples:
            newest, stopped_ns = chunk, end_ns(chunk, rates_hz[chunk.stream])
        elif chunk.modality == "visual":
            if newest is not None and chunk.t_ns >= stopped_ns + STOPPED_NS:
                if picture_ns < stopped_ns + STOPPED_NS:
                    yield _edge(newest, rates_hz[newest.stream])
                newest = None
            picture_ns = chunk.t_ns
        yield chunk
    if newest is not None and picture_ns < stopped_ns + STOPPED_NS:
        yield _edge(newest, rates_hz[newest.stream])


def _edge(last: Chunk, rate_hz: float) -> Chunk:
    """The last sample of the sound, going on."""
    data = np.repeat(last.data[-1:], round(rate_hz * EDGE_NS / NS_PER_S), axis=0)
    return replace(last, seq=last.seq + 1, t_ns=end_ns(last, rate_hz), data=data)


class _Picture:
    """How far the picture of a recording has come.

    Args:
        model: Declares the grid of frames.
    """

    def __init__(self, model: ModelSpec) -> None:
        encoder, clip = _faces(model)[0]
        self._model = model
        self._shift = encoder.offset - clip.last_frame_before_end
        self._half_ns = to_ns(model.step / 2)
        self.last_ns: int | None = None

    def time_ns(self, step: int) -> int:
        """When the frame of a step is captured, nominally."""
        return max(0, to_ns(self._model.step * (step + 1) + self._shift))

    def reaches(self, t_ns: int) -> bool:
        """Whether it has a frame at this time or later."""
        return self.last_ns is not None and t_ns <= self.last_ns + self._half_ns


# -- windows ------------------------------------------------------------------------------------------


class _Windows:
    """Runs each window as soon as its last frame is there; holds no more features than one needs.

    Args:
        setup: Model and engines.
        costs: Where the work is counted.
    """

    def __init__(self, setup: PipelineSetup, costs: Costs) -> None:
        self._setup, self._model, self._costs = setup, setup.model, costs
        self._length = setup.model.fusion.n_steps
        self._held: deque[tuple[Row, list[bool]]] = deque(maxlen=self._length)
        self._n = self._n_covered = self._person = 0
        self.table = FrameTable(setup.model)

    def push(self, frame: _Frame) -> None:
        """Take the next frame."""
        self._note(self.table.row(self._n), frame)
        there = [frame.record.modalities[modality].present for modality in self._model.modalities]
        self._held.append((frame.row, there))
        self._n += 1
        since_first = self._n - self._length
        if since_first >= 0 and since_first % hop_of(self._length) == 0:
            self._run()

    def finish(self) -> int:
        """Run what is left; returns the number of frames."""
        if self._n_covered < self._n:
            self._run()
        return self._n

    def _note(self, row: np.void, frame: _Frame) -> None:
        record = frame.record
        self._person += "face_switched" in record.reasons
        row["t_ns"], row["skew_ms"] = frame.t_ns, record.sync.skew_ms
        row["unaligned"] = "unaligned_face" in record.reasons
        for index, modality in enumerate(self._model.modalities):
            found = record.modalities[modality]
            row["coverage"][index], row["missing"][index] = found.coverage, not found.present
            if found.age_ms is not None:
                row["newest_ns"][index] = max(0, record.t_end_ns - round(found.age_ms * NS_PER_MS))
        face = _faces(self._model)[0][0].modality
        row["person"] = self._person if record.modalities[face].present else NOBODY

    def _run(self) -> None:
        """The window that ends with the newest frame; short ones are padded behind."""
        n = len(self._held)
        feed: dict[str, Array] = {}
        with self._costs.of("infer"):
            for encoder, spec in zip(self._model.encoders, self._model.fusion.inputs, strict=False):
                feed[spec.name] = self._window(encoder)[np.newaxis]
            if self._model.fusion.has_present_input:
                feed[self._model.fusion.inputs[-1].name] = self._mask()[np.newaxis]
            found = self._setup.engines[self._model.fusion.stage].run(feed)
        outputs = np.stack([found[spec.name][0, :n] for spec in self._model.fusion.outputs], axis=1)
        first = self._n - n
        frames = np.arange(first, self._n, dtype=np.int64)
        self.table.see_window(frames, outputs, first=first, is_cut=n < self._length)
        self._n_covered = self._n

    def _window(self, encoder: Encoder) -> NDArray[np.float32]:
        """(K, feature)."""
        window = np.empty((self._length, encoder.feature), np.float32)
        n = len(self._held)
        window[:n] = [row[encoder.stage] for row, _ in self._held]
        if n < self._length:
            window[n:] = blank_feature(encoder, self._setup.engines[encoder.stage])
        return window

    def _mask(self) -> NDArray[np.bool_]:
        """(modality, K)."""
        mask = np.zeros((len(self._model.encoders), self._length), np.bool_)
        mask[:, : len(self._held)] = np.array([there for _, there in self._held], np.bool_).T
        return mask
