"""What a session sees of one stream."""

from __future__ import annotations

from dataclasses import replace

from edge_mer.sync.rate_meter import RateMeter
from edge_mer.sync.regular import RegularStream
from edge_mer.sync.windower import StepWindower
from edge_mer.types.health import StreamHealth
from edge_mer.types.model import Encoder
from edge_mer.types.signals import Chunk, StreamSpec


class StreamWatch:
    """Notes what comes of a stream that a model looks at.

    Args:
        spec: What its source said of it.
        encoder: Who looks at it.

    Attributes:
        encoder: Who looks at it.
        regular: What puts its samples in time; None for frames and words.
    """

    def __init__(self, spec: StreamSpec, encoder: Encoder) -> None:
        self.encoder = encoder
        self.regular: RegularStream | None = None
        self._meter = RateMeter()
        self._spec = spec
        self._n_chunks = self._n_refused = 0
        self._last_arrival_ns: int | None = None
        self._newest_ns: int | None = None

    def arrived(self, chunk: Chunk, now_ns: int) -> None:
        """A chunk came, by the host's clock."""
        self._n_chunks += 1
        self._last_arrival_ns = now_ns if chunk.arrived_ns is None else chunk.arrived_ns

    def refused(self) -> None:
        """It is of a time yet to come."""
        self._n_refused += 1

    def used(self, chunk: Chunk) -> None:
        """It is of a time that can be."""
        self._meter.push(chunk.t_ns, chunk.n_samples)
        self._newest_ns = max(chunk.t_ns, self._newest_ns or 0)

    def health(self, windower: StepWindower) -> StreamHealth:
        """How it is doing."""
        modality, regular = self.encoder.modality, self.regular
        found = StreamHealth(
            self._spec.name,
            modality,
            self._spec.rate_hz,
            n_chunks=self._n_chunks,
            n_refused=self._n_refused,
            last_arrival_ns=self._last_arrival_ns,
            newest_ns=self._newest_ns,
            measured_hz=self._meter.rate_hz,
            n_late=windower.n_late_of(modality),
            n_duplicate=windower.n_duplicate_of(modality),
        )
        if regular is None:
            return found
        return replace(
            found,
            drift_ppm=regular.drift_ppm,
            n_duplicate=found.n_duplicate + regular.order.n_duplicate,
            n_reordered=regular.order.n_reordered,
            n_gaps=regular.n_gaps,
            n_corrections=regular.n_corrections,
            uncertainty_ns=regular.uncertainty_ns,
        )
