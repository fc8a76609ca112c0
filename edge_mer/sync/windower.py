"""From chunks in any interleaving to complete steps of the grid, by capture time alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.sync.frames import Frame, FrameSelector
from edge_mer.sync.samples import Piece, SampleRing
from edge_mer.types.model import FaceClip, ModelSpec, to_ns
from edge_mer.types.signals import Modality

MAX_WAIT_NS = 2 * NS_PER_S
"""A stream this far behind the others no longer holds a step back."""


@dataclass(frozen=True)
class Step:
    """The raw data of one step: frames (None where missing) or samples, per modality.

    `skew_ns` is how far each modality's capture times lie from the grid, on average.
    """

    index: int
    t_start_ns: int
    t_end_ns: int
    frames: dict[Modality, list[Frame | None]]
    samples: dict[Modality, Piece]
    skew_ns: dict[Modality, int]


class StepWindower:
    """Gathers what each step needs; pure with respect to time.

    Args:
        model: Declares grid and encoders.
        present: Modalities that the session has a stream for; the others never hold a step back.
    """

    def __init__(self, model: ModelSpec, present: frozenset[Modality]) -> None:
        self._model = model
        self._open = set(present)
        self._next = 0
        self._selectors: dict[Modality, FrameSelector] = {}
        self._rings: dict[Modality, SampleRing] = {}
        for encoder in model.encoders:
            spec = encoder.preprocess
            if isinstance(spec, FaceClip):
                self._selectors[encoder.modality] = FrameSelector(encoder, spec)
            else:
                self._rings[encoder.modality] = SampleRing(encoder, spec.rate_hz)

    def push_frame(self, modality: Modality, t_ns: int, pixels: NDArray[np.uint8]) -> None:
        """Take one frame, captured at `t_ns`."""
        self._selectors[modality].push(t_ns, pixels)

    def ring(self, modality: Modality) -> SampleRing:
        """Where the samples of `modality` go."""
        return self._rings[modality]

    def close(self, modality: Modality) -> None:
        """Nothing more comes for `modality`."""
        self._open.discard(modality)

    def take(self) -> Step | None:
        """The next step once its data has come, else None."""
        if not self._is_ready(self._next):
            return None
        step = self._next
        self._next += 1
        frames = {modality: selector.take(step) for modality, selector in self._selectors.items()}
        return Step(
            index=step,
            t_start_ns=self._model.step_start_ns(step),
            t_end_ns=self._model.step_end_ns(step),
            frames=frames,
            samples={modality: ring.take(step) for modality, ring in self._rings.items()},
            skew_ns={m: self._selectors[m].skew_ns(step, chosen) for m, chosen in frames.items()},
        )

    def n_dropped_tail(self, end_ns: int) -> int:
        """1 when the session ended inside a step, which is then dropped; else 0."""
        return int(end_ns > self._model.step_start_ns(self._next))

    @property
    def n_late(self) -> int:
        """Frames and samples that came after their step was taken."""
        return sum(part.n_late for part in self._parts.values())

    def _is_ready(self, step: int) -> bool:
        return bool(self._parts) and self._has_come(step)

    @property
    def _parts(self) -> dict[Modality, FrameSelector | SampleRing]:
        return {**self._selectors, **self._rings}

    def _has_come(self, step: int) -> bool:
        parts = self._parts
        if any(not part.is_complete(step) for m, part in parts.items() if m in self._open):
            return self._is_overdue(step)
        return any(part.is_complete(step) for part in parts.values())

    def _is_overdue(self, step: int) -> bool:
        due_ns = self._model.step_end_ns(step) + to_ns(self._model.latency) + MAX_WAIT_NS
        return any((part.watermark_ns or 0) >= due_ns for part in self._parts.values())
