"""Recordings whose frames carry their number, so that a test sees which of them came where."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S, ManualClock
from edge_mer.engine.base import Array, Engine
from edge_mer.errors import UsageError
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.protocols.playing import run_protocol
from edge_mer.runtime.protocols.registry import open_protocol
from edge_mer.runtime.session import SessionReport
from edge_mer.sources.base import Source
from edge_mer.types.model import Clip, ModelSpec
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk, StreamSpec
from tests.helpers.numpy_engines import NumpyEngine
from tests.helpers.tiny_session import LEFT, SIDE, TOP, SquareDetector, frame_of

Function = Callable[..., tuple[Array, ...]]
"""What a stage computes, from arrays to arrays."""

_MIDDLE = slice(TOP + SIDE // 2 - 7, TOP + SIDE // 2 + 7), slice(LEFT + SIDE // 2 - 7, LEFT + SIDE // 2 + 7)


def numbered(number: int, person: int | None = 0) -> NDArray[np.uint8]:
    """A picture of a person with a number from 0 to 120 in the middle of the face; of nobody, without."""
    picture = frame_of(person)
    if person is not None:
        picture[(*_MIDDLE, 2)] = 2 * number
    return picture


def numbers_in(clip: Array, spec: Clip) -> NDArray[np.float32]:
    """(batch, 3, frame, side, side) -> (batch, frame) numbers in the faces; 0 where there is none."""
    frames = clip.reshape(len(clip), 3, spec.n_frames, *spec.shape_px)
    middle = frames[:, 2, :, spec.shape_px[0] // 2, spec.shape_px[1] // 2]
    return np.round((middle * spec.std[2] + spec.mean[2]) * 255 / 2).astype(np.float32)


@dataclass
class ListSource:
    """Chunks from a list.

    Attributes:
        specs: Its streams.
        chunks: What comes, in order.
        is_live: As a camera would be.
        uri: Its name.
    """

    specs: tuple[StreamSpec, ...]
    chunks: Sequence[Chunk]
    is_live: bool = False
    uri: str = "list:"
    n_read: int = 0
    n_stopped: int = 0

    @property
    def ended(self) -> bool:
        return self.n_read >= len(self.chunks)

    def ensure_ready(self) -> None: ...

    def start(self) -> None: ...

    def read(self, timeout_ms: int) -> Chunk | None:
        self.n_read += 1
        return self.chunks[self.n_read - 1]

    def ensure_stopped(self) -> None:
        self.n_stopped += 1


@dataclass
class ListSink:
    """Predictions into a list."""

    target: None = None
    written: list[Prediction] = field(default_factory=list)
    ending: str = ""

    def open(self) -> None:
        self.ending = "opened"

    def write(self, prediction: Prediction) -> None:
        self.written.append(prediction)

    def close(self) -> None:
        self.ending = "closed"

    def abandon(self) -> None:
        self.ending = "abandoned"


def pictures(
    spec: StreamSpec,
    n: int,
    *,
    fps: float = 30.0,
    faceless: Container[int] = (),
    person: Callable[[int], int] = lambda number: 0,
) -> ListSource:
    """Frames 1 to n of a camera, each with its number.

    Args:
        spec: Of the stream; its rate is replaced.
        n: How many.
        fps: Of the camera.
        faceless: Numbers of those that show nobody.
        person: Number -> who is seen.
    """
    spec = dataclasses.replace(spec, rate_hz=fps)
    chunks = [
        Chunk(
            spec.name,
            "visual",
            i,
            int(i * NS_PER_S / fps),
            numbered(i + 1, None if i + 1 in faceless else person(i + 1)),
        )
        for i in range(n)
    ]
    return ListSource((spec,), chunks)


def samples(spec: StreamSpec, values: NDArray[np.float32], chunk: int = 160) -> ListSource:
    """A sampled stream from time 0 on, in pieces."""
    rate_hz = spec.rate_hz or 1.0
    parts = range(0, len(values), chunk)
    chunks = [
        Chunk(spec.name, spec.modality, i, int(at * NS_PER_S / rate_hz), values[at : at + chunk, np.newaxis])
        for i, at in enumerate(parts)
    ]
    return ListSource((spec,), chunks)


def engines_of(model: ModelSpec, functions: dict[str, Callable[..., tuple[Array, ...]]]) -> dict[str, Engine]:
    """Stage -> engine that runs a function over arrays."""
    engines: dict[str, Engine] = {
        e.stage: NumpyEngine(e.stage, (e.input,), (e.output,), {"batch": 1, "token": 4}, functions[e.stage])
        for e in model.encoders
    }
    fusion, sizes = model.fusion, {"batch": 1, "steps": model.fusion.n_steps}
    engines[fusion.stage] = NumpyEngine(
        fusion.stage, fusion.inputs, fusion.outputs, sizes, functions[fusion.stage]
    )
    return engines


@dataclass(frozen=True)
class Evaluated:
    """What a protocol made of a recording."""

    records: list[Prediction]
    notes: list[str]
    report: SessionReport
    sink: ListSink
    said: list[str]

    def series(self, name: str) -> NDArray[np.float64]:
        """Valence or arousal of every record; NaN where withheld."""
        return np.array([np.nan if r.affect is None else getattr(r.affect, name) for r in self.records])


def evaluate(
    protocol: str,
    model: ModelSpec,
    engines: dict[str, Engine],
    sources: Iterable[Source],
    sink: ListSink | None = None,
    detector: object = None,
) -> Evaluated:
    """Run a protocol over sources."""
    setup = PipelineSetup(model, engines, detector or SquareDetector())  # type: ignore[arg-type]
    sink, report, said = sink or ListSink(), SessionReport(), list[str]()
    notes = run_protocol(
        open_protocol(protocol), setup, list(sources), [sink], ManualClock(), report, said.append
    )
    assert sink.ending == "closed"
    assert report.n_predictions == len(sink.written)
    return Evaluated(sink.written, notes, report, sink, said)


def refused(protocol: str, model: ModelSpec) -> str:
    """Why a protocol does not take a model."""
    try:
        open_protocol(protocol).check(model)
    except UsageError as error:
        return str(error)
    raise AssertionError(f"{protocol} takes {model.name}")
