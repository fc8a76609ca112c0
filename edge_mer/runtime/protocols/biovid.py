"""One prediction per clip of BioVid: 20 frames of the face around the peak, and the whole EDA.

Frames 52-56, 56-60, 60-64 and 64-68 of a clip, counted from 1 at 25 fps, are looked at together with the
5.5 s of EDA from its start. A model whose window has this form runs on it in the pipeline, with its window
moved so that the EDA piece of the first window starts at 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from fractions import Fraction

from edge_mer.clock import NS_PER_S
from edge_mer.errors import DataError
from edge_mer.runtime.arrivals import end_ns
from edge_mer.runtime.pipeline import NS_PER_MS, Pipeline
from edge_mer.runtime.protocols.base import Need, Recording, demand
from edge_mer.types.model import Encoder, FaceClip, ModelSpec, Signal, to_ns
from edge_mer.types.predictions import ModalityStatus, Prediction
from edge_mer.types.signals import Chunk

NAME = "biovid"
FPS = 25
SEGMENTS = ((52, 56), (56, 60), (60, 64), (64, 68))
"""First and last frame of each piece of the face, counted from 1."""

_LONGER_NS = NS_PER_S // 10
"""What goes on for so long behind the clip is a longer recording."""


class Biovid:
    """One prediction per recording, of the clip that it starts with."""

    def check(self, model: ModelSpec) -> None:
        """Refuse a model of another form.

        Raises:
            UsageError: It does not fit.
        """
        demand(NAME, model, [_form_need(model)])
        demand(NAME, model, [_pieces_need(model)])

    def predict(self, recording: Recording) -> Iterator[Prediction]:
        """Play a recording up to the end of its first clip.

        Raises:
            DataError: Its EDA is shorter than the clip.
        """
        model = recording.setup.model
        span_ns = to_ns(_form(model).eda.span)
        setup = replace(recording.setup, model=moved(model), hop=None, gates=False)
        pipeline = Pipeline(setup, recording.specs, recording.clock)
        lengths = _Lengths(recording)
        found: list[Prediction] = []
        for chunk in recording.chunks:
            lengths.see(chunk)
            if lengths.longest_ns > span_ns + _LONGER_NS and found:
                break
            if not found:
                found = pipeline.push(chunk)
        found = found or pipeline.finish()
        counted = pipeline.counters
        recording.counters.n_gaps, recording.counters.n_late = counted.n_gaps, counted.n_late
        lengths.demand(span_ns, has_prediction=bool(found))
        if lengths.longest_ns > span_ns + _LONGER_NS:
            length_s = float(_form(model).eda.span)
            recording.notes.append(
                f"The recording goes on after {length_s:g} s: only that much was looked at."
            )
        yield self._of_the_clip(found[0], recording, span_ns)

    def _of_the_clip(self, found: Prediction, recording: Recording, span_ns: int) -> Prediction:
        """The pipeline's record, stamped with the clip instead of the moved grid."""
        later_ms, took = (span_ns - found.t_end_ns) / NS_PER_MS, found.latency_ms
        return replace(
            found,
            window_index=0,
            t_start_ns=0,
            t_end_ns=span_ns,
            utc=(recording.clock.utc() + timedelta(microseconds=span_ns // 1000)).isoformat(),
            modalities={name: _older(one, later_ms) for name, one in found.modalities.items()},
            latency_ms=replace(took, end_to_end=took.preprocess + took.infer + took.postprocess),
        )


@dataclass(frozen=True)
class _Form:
    """The two encoders of a model that may fit."""

    face: Encoder
    clip: FaceClip
    eda: Encoder

    @classmethod
    def of(cls, model: ModelSpec) -> _Form | None:
        """None for models that look at something else."""
        faces = [(e, e.preprocess) for e in model.encoders if isinstance(e.preprocess, FaceClip)]
        signals = [e for e in model.encoders if isinstance(e.preprocess, Signal) and e.modality == "eda"]
        n_steps = model.fusion.n_steps
        if len(faces) != 1 or len(signals) != 1 or len(model.encoders) != 2:
            return None
        if signals[0].repeat != n_steps or model.fusion.hop != n_steps:
            return None
        return cls(*faces[0], signals[0])


def _form_need(model: ModelSpec) -> Need:
    fusion = model.fusion
    return Need(
        "a model of face clips and EDA, whose one EDA feature serves a window of its own",
        f"{' and '.join(model.modalities)}, {fusion.n_steps} steps per window, a hop of {fusion.hop}",
        lambda: _Form.of(model) is not None,
    )


def _pieces_need(model: ModelSpec) -> Need:
    pieces = ", ".join(f"{first}-{last}" for first, last in SEGMENTS)
    return Need(
        f"{len(SEGMENTS)} steps whose frames are {pieces} at {FPS} fps when the EDA starts at 0",
        f"frames {_written(model)}",
        lambda: segments(model) == SEGMENTS,
    )


def _form(model: ModelSpec) -> _Form:
    form = _Form.of(model)
    if form is None:
        raise ValueError(f"model {model.name} was not checked")
    return form


def moved(model: ModelSpec) -> ModelSpec:
    """The same model, its first window moved to where the EDA piece starts at 0."""
    eda = _form(model).eda
    by = eda.span - eda.offset - eda.period
    encoders = tuple(e.model_copy(update={"offset": e.offset + by}) for e in model.encoders)
    return model.model_copy(update={"encoders": encoders})


def segments(model: ModelSpec) -> tuple[tuple[Fraction | int, Fraction | int], ...]:
    """First and last frame of each step when the EDA starts at 0; fractions where they lie between frames."""
    form = _form(moved(model))
    found = []
    for step in range(model.fusion.n_steps):
        last_s = model.step * (step + 1) + form.face.offset - form.clip.last_frame_before_end
        first_s = last_s - form.clip.frame_interval * (form.clip.n_frames - 1)
        found.append((1 + first_s * FPS, 1 + last_s * FPS))
    is_whole = form.clip.frame_interval == Fraction(1, FPS)
    return tuple(found) if is_whole else ()


def _written(model: ModelSpec) -> str:
    pieces = segments(model) or ("not one after the other",)
    return ", ".join(
        one if isinstance(one, str) else "-".join(f"{float(f):g}" for f in one) for one in pieces
    )


def _older(one: ModalityStatus, by_ms: float) -> ModalityStatus:
    return one if one.age_ms is None else replace(one, age_ms=one.age_ms + by_ms)


class _Lengths:
    """How far each stream of a recording has come.

    Args:
        recording: It.
    """

    def __init__(self, recording: Recording) -> None:
        self._specs = {spec.name: spec for spec in recording.specs}
        self._ends_ns: dict[str, int] = {}

    def see(self, chunk: Chunk) -> None:
        """Take a chunk into account."""
        spec = self._specs[chunk.stream]
        if spec.modality in ("visual", "eda"):
            last_ns = end_ns(chunk, spec.rate_hz)
            self._ends_ns[spec.modality] = max(last_ns, self._ends_ns.get(spec.modality, 0))

    @property
    def longest_ns(self) -> int:
        """Of all streams that are looked at."""
        return max(self._ends_ns.values(), default=0)

    def demand(self, span_ns: int, *, has_prediction: bool) -> None:
        """Refuse a recording that ends within the clip.

        Args:
            span_ns: Length of the clip.
            has_prediction: The pipeline came to its end.

        Raises:
            DataError: The EDA ends before, or there is too little of everything.
        """
        found_ns = self._ends_ns.get("eda", self.longest_ns)
        if found_ns + NS_PER_MS < span_ns or not has_prediction:
            raise DataError(
                f"protocol {NAME} looks at a clip of {span_ns / NS_PER_S:g} s, and the recording is shorter",
                expected=f"{span_ns / NS_PER_S:g} s of EDA from the start of the recording",
                found=f"{found_ns / NS_PER_S:.2f} s",
                hint="give the whole clip, with face and EDA from one start",
            )
