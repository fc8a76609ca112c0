"""Where the time of a pipeline goes: each moment is charged to one part, so parts add up to the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import Clock, ManualClock
from edge_mer.engine.base import Array, Engine
from edge_mer.preprocess.face import Detection, FaceDetector
from edge_mer.preprocess.visual import ClipReport
from edge_mer.runtime.front import FrontEnd, WriteClip, WriteSamples
from edge_mer.runtime.pipeline import Pipeline, TimedFrames
from edge_mer.runtime.pipeline_setup import PipelineSetup
from edge_mer.types.model import Clip, Encoder
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk, StreamSpec

DETECTOR, TRACKER, TENSORS, RUNTIME = "face detector", "face tracker", "step tensors", "runtime"
"""Parts that are no stage of the model: the runtime is what no other part is."""

_Result = TypeVar("_Result")


class Meter:
    """Adds up what parts take; what a part calls, and is itself a part, does not count for it.

    Args:
        clock: Where times come from.

    Attributes:
        is_filling: Encoders are skipped and give zeros: the window is only being filled.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._spent_ns: dict[str, int] = {}
        self._open: list[str] = []
        self._since_ns = 0
        self.is_filling = False

    def timed(self, part: str, work: Callable[[], _Result]) -> _Result:
        """Do some work of a part."""
        self._charge()
        self._open.append(part)
        try:
            return work()
        finally:
            self._charge()
            self._open.pop()

    def take(self) -> dict[str, int]:
        """Part -> nanoseconds since the last time."""
        spent_ns, self._spent_ns = self._spent_ns, {}
        return spent_ns

    def _charge(self) -> None:
        now_ns = self._clock.now_ns()
        if self._open:
            part = self._open[-1]
            self._spent_ns[part] = self._spent_ns.get(part, 0) + now_ns - self._since_ns
        self._since_ns = now_ns


class MeteredPipeline(Pipeline):
    """A pipeline over a recording whose every push is charged to a meter.

    Args:
        meter: What it is charged to.
        setup: Model, engines, detector.
        specs: The session's streams.
    """

    def __init__(self, meter: Meter, setup: PipelineSetup, specs: Iterable[StreamSpec]) -> None:
        self._meter = meter
        super().__init__(_metered(setup, meter), specs, ManualClock())

    def push(self, chunk: Chunk) -> list[Prediction]:
        """As the pipeline itself."""
        push = super().push
        return self._meter.timed(RUNTIME, lambda: push(chunk))

    def _make_clip(self, encoder: Encoder, frames: TimedFrames) -> ClipReport:
        make = super()._make_clip
        part = RUNTIME if self._setup.detector is None else TRACKER
        return self._meter.timed(part, lambda: make(encoder, frames))


def parts_of(setup: PipelineSetup) -> list[str]:
    """What there is to charge."""
    faces = [] if setup.detector is None else [DETECTOR, TRACKER]
    return [*setup.model.stages, *faces, TENSORS, RUNTIME]


def _metered(setup: PipelineSetup, meter: Meter) -> PipelineSetup:
    encoders = {encoder.stage for encoder in setup.model.encoders}
    return replace(
        setup,
        engines={
            stage: _MeteredEngine(engine, meter, may_skip=stage in encoders)
            for stage, engine in setup.engines.items()
        },
        detector=None if setup.detector is None else _MeteredDetector(setup.detector, meter),
        front_end=_MeteredFrontEnd(setup.front_end, meter),
    )


class _MeteredEngine(Engine):
    """An engine whose runs are charged to its stage."""

    def __init__(self, inner: Engine, meter: Meter, *, may_skip: bool) -> None:
        self.inner, self._meter, self._may_skip = inner, meter, may_skip
        self.stage, self.name, self.inputs = inner.stage, inner.name, inner.inputs
        self.input_specs, self.output_specs = inner.input_specs, inner.output_specs

    def infer(self) -> dict[str, Array]:
        if self._may_skip and self._meter.is_filling:
            return {spec.name: np.zeros(spec.concrete(batch=1), spec.dtype) for spec in self.output_specs}
        return self._meter.timed(self.stage, self.inner.infer)

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        return self._meter.timed(self.stage, lambda: self.inner.run(feed))

    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        return self.inner.run(feed)


class _MeteredDetector:
    """A face detector whose searches are charged to it."""

    def __init__(self, inner: FaceDetector, meter: Meter) -> None:
        self._inner, self._meter, self.name = inner, meter, inner.name

    def detect(self, frame: NDArray[np.uint8]) -> list[Detection]:
        return self._meter.timed(DETECTOR, lambda: self._inner.detect(frame))


class _MeteredFrontEnd(FrontEnd):
    """Writers of step tensors that are charged to them; they see the engines as they are."""

    def __init__(self, inner: FrontEnd, meter: Meter) -> None:
        self._inner, self._meter = inner, meter

    def clip_writer(self, encoder: Encoder, spec: Clip, engine: Engine) -> WriteClip:
        write = self._inner.clip_writer(encoder, spec, _inner(engine))
        return lambda crops: self._meter.timed(TENSORS, lambda: write(crops))

    def sample_writer(self, encoder: Encoder, engine: Engine, stream_hz: float | None = None) -> WriteSamples:
        write = self._inner.sample_writer(encoder, _inner(engine), stream_hz)
        return lambda piece: self._meter.timed(TENSORS, lambda: write(piece))


def _inner(engine: Engine) -> Engine:
    return engine.inner if isinstance(engine, _MeteredEngine) else engine
