"""From chunks in any interleaving to complete steps of the grid, by capture time alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.sync.frames import Frame, FrameSelector
from edge_mer.sync.samples import Piece, SampleRing
from edge_mer.sync.words import Said, WordTrack
from edge_mer.types.model import (
    Clip,
    Encoder,
    ModelSpec,
    SampledSpec,
    Signal,
    VggishLogMel,
    Words,
    line_ns,
    to_ns,
)
from edge_mer.types.signals import Modality

MAX_WAIT_NS = 2 * NS_PER_S
"""In a recording, a stream this far behind the others no longer holds a step back."""

LATENESS_LIMITS_NS = (NS_PER_S // 5, NS_PER_S)
"""Devices deliver pieces of up to a tenth of a second, and on busy hosts not at once: no sensor would keep a
shorter bound. A longer one would only delay what there is to say of a stall."""


def lateness_ns(model: ModelSpec, hop: int | None = None) -> int:
    """How late data of a live session may be: one hop, so that a stall is seen within one, but within limits.

    Args:
        model: Declares step and hop.
        hop: Steps between two predictions, in the place of the declared ones.
    """
    shortest_ns, longest_ns = LATENESS_LIMITS_NS
    return min(max(to_ns(model.step * (hop or model.fusion.hop)), shortest_ns), longest_ns)


@dataclass(frozen=True)
class Step:
    """The data of one step: frames (None where missing), samples or what was being said, per modality.

    `skew_ns` is how far each modality's capture times lie from the grid, on average.
    """

    index: int
    t_start_ns: int
    t_end_ns: int
    frames: dict[Modality, list[Frame | None]]
    samples: dict[Modality, Piece]
    words: dict[Modality, Said]
    skew_ns: dict[Modality, int]


class StepWindower:
    """Gathers what each step needs; pure with respect to time.

    A recording's data come in order, however slowly: a step is complete when the streams have come past it,
    and only the other streams' progress shows that one has stopped. In a live session the clock decides: a
    step is given out when all its data have come, holes filled, or when `lateness_ns` have passed since they
    should have.

    Args:
        model: Declares grid and encoders.
        present: Modalities that the session has a stream for; the others never hold a step back.
        lateness_ns: How late a live session's data may be; None: a recording.
        streams_hz: Samples per second of streams whose pieces are yet to be resampled.
        first_step: The steps before it are none of its.
    """

    def __init__(
        self,
        model: ModelSpec,
        present: frozenset[Modality],
        lateness_ns: int | None = None,
        streams_hz: Mapping[Modality, float] | None = None,
        first_step: int = 0,
    ) -> None:
        self._model = model
        self._lateness_ns = lateness_ns
        self._now_ns = 0
        self._end_ns = {e.stage: line_ns(e.period, e.period + e.offset) for e in model.encoders}
        self._due = -1, 0
        self._awaited: Modality | None = None  # lacked something of the next step when all were asked last
        self._open = {e.modality for e in model.encoders} & present
        # Words alone end no step: a transcript may go on long after the camera stopped.
        sensed = {e.modality for e in model.encoders if not isinstance(e.preprocess, Words)} & present
        self._leading = sensed or present
        self._next = 0
        self._selectors: dict[Modality, FrameSelector] = {}
        self._rings: dict[Modality, SampleRing] = {}
        self._tracks: dict[Modality, WordTrack] = {}
        for encoder in model.encoders:
            spec = encoder.preprocess
            if isinstance(spec, Clip):
                self._selectors[encoder.modality] = FrameSelector(encoder, spec)
            elif isinstance(spec, Words):
                self._tracks[encoder.modality] = WordTrack(encoder)
            else:
                stream_hz = None if streams_hz is None else streams_hz.get(encoder.modality)
                self._rings[encoder.modality] = _ring(encoder, spec, stream_hz)
        self._sensors: dict[Modality, FrameSelector | SampleRing] = {**self._selectors, **self._rings}
        if first_step > 0:
            self._next = first_step - 1
            self._taken()

    def push_frame(self, modality: Modality, t_ns: int, pixels: NDArray[np.uint8]) -> None:
        """Take one frame, captured at `t_ns`."""
        self._selectors[modality].push(t_ns, pixels)

    def settled_frames(self, modality: Modality) -> list[Frame]:
        """Frames of the next step that are sure to be used unless frames come out of order; each once."""
        return self._selectors[modality].settled()

    def ring(self, modality: Modality) -> SampleRing:
        """Where the samples of `modality` go."""
        return self._rings[modality]

    def track(self, modality: Modality) -> WordTrack:
        """Where the words of `modality` go."""
        return self._tracks[modality]

    def close(self, modality: Modality) -> None:
        """Nothing more comes for `modality`."""
        self._open.discard(modality)

    def take(self, now_ns: int | None = None) -> Step | None:
        """The next step once its data has come, else None.

        Args:
            now_ns: Of a live session: its time, up to which all that arrived was pushed; None: no news of it.
        """
        if now_ns is not None:
            self._now_ns = max(self._now_ns, now_ns)
        return self._taken() if self._is_ready(self._next) else None

    def _taken(self) -> Step:
        step = self._next
        self._next += 1
        frames = {modality: selector.take(step) for modality, selector in self._selectors.items()}
        return Step(
            index=step,
            t_start_ns=self._model.step_start_ns(step),
            t_end_ns=self._model.step_end_ns(step),
            frames=frames,
            samples={modality: ring.take(step) for modality, ring in self._rings.items()},
            words={modality: track.take(step) for modality, track in self._tracks.items()},
            skew_ns={m: self._selectors[m].skew_ns(step, chosen) for m, chosen in frames.items()},
        )

    def n_dropped_tail(self, end_ns: int) -> int:
        """1 when the session ended inside a step, which is then dropped; else 0."""
        return int(end_ns > self._model.step_start_ns(self._next))

    @property
    def n_late(self) -> int:
        """Frames, samples and words that came after their step was taken."""
        return sum(one.n_late for one in (*self._sensors.values(), *self._tracks.values()))

    def n_late_of(self, modality: Modality) -> int:
        """Those of one modality."""
        return (self._sensors.get(modality) or self._tracks[modality]).n_late

    @property
    def n_duplicate(self) -> int:
        """Frames and samples whose time was filled before."""
        return sum(sensor.n_duplicate for sensor in self._sensors.values())

    def n_duplicate_of(self, modality: Modality) -> int:
        """Frames and samples of one modality whose time was filled before."""
        sensor = self._sensors.get(modality)
        return 0 if sensor is None else sensor.n_duplicate

    def _is_ready(self, step: int) -> bool:
        settled_ns = None if self._lateness_ns is None else self._now_ns - self._lateness_ns
        if settled_ns is not None and self._open and settled_ns >= self.due_ns(step):
            return True
        if self._is_waiting(step, settled_ns):
            return settled_ns is None and self.reached_ns >= self.due_ns(step) + MAX_WAIT_NS
        return any(
            self._is_complete(modality, step, settled_ns) and self._has_ended(modality, step)
            for modality in self._leading
        )

    def _is_waiting(self, step: int, settled_ns: int | None) -> bool:
        """Whether a stream lacks something; the one that did when it was last asked is asked first."""
        if self._awaited in self._open and not self._is_complete(self._awaited, step, settled_ns):
            return True
        lacking = (one for one in self._open if not self._is_complete(one, step, settled_ns))
        self._awaited = next(lacking, None)
        return self._awaited is not None

    def _is_complete(self, modality: Modality, step: int, settled_ns: int | None) -> bool:
        if modality in self._selectors:
            return self._selectors[modality].is_complete(step)
        if modality in self._rings:
            return self._rings[modality].is_complete(step, settled_ns)
        return self._tracks[modality].is_complete(step, self.reached_ns)

    @property
    def reached_ns(self) -> int:
        """How far the stream has come that is ahead of the others."""
        return max([sensor.watermark_ns or 0 for sensor in self._sensors.values()], default=0)

    def _has_ended(self, modality: Modality, step: int) -> bool:
        """Whether a stream reaches to the end of `step`; one whose pieces end before it may stop earlier."""
        encoder = next(e for e in self._model.encoders if e.modality == modality)
        if encoder.offset >= 0 or modality not in self._sensors:
            return True
        spec, end = encoder.preprocess, self._model.step * (step + 1)
        # Subtracted before it is rounded: the sum of two rounded times may lie a nanosecond before the end.
        last = end - spec.last_frame_before_end if isinstance(spec, Clip) else end
        return (self._sensors[modality].watermark_ns or 0) >= to_ns(last)

    def due_ns(self, step: int) -> int:
        """When all pieces of `step` should be there; one that serves several steps ends with the last."""
        if step != self._due[0]:  # asked again and again, until it is taken
            ends_ns = [self.end_ns(encoder, step) for encoder in self._model.encoders]
            self._due = step, max(self._model.step_end_ns(step), *ends_ns)
        return self._due[1]

    def end_ns(self, encoder: Encoder, step: int) -> int:
        """When the piece ends that an encoder looks at in `step`."""
        return self._end_ns[encoder.stage](step // encoder.repeat)


def _ring(encoder: Encoder, spec: SampledSpec, stream_hz: float | None) -> SampleRing:
    if isinstance(spec, Signal):
        n_courses = None if spec.courses is None else len(spec.courses)
        return SampleRing(encoder, spec.piece_hz, n_courses=n_courses, stream_hz=stream_hz)
    grid = spec.hop_samples if isinstance(spec, VggishLogMel) else 1
    return SampleRing(encoder, spec.rate_hz, grid)
