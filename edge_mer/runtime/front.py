"""Who writes a step's tensor into its engine: the processor, or kernels on the engine's own GPU."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from edge_mer.engine.base import Engine
from edge_mer.preprocess.audio import log_mel
from edge_mer.preprocess.image import Crop, write_clip
from edge_mer.preprocess.signal import write_resampled, write_signal
from edge_mer.preprocess.vggish_audio import vggish_log_mel
from edge_mer.runtime.blank import as_clip
from edge_mer.sync.samples import Piece
from edge_mer.types.model import Clip, Encoder, LogMel, Signal, VggishLogMel

WriteClip = Callable[[Sequence[Crop | None]], None]
"""Takes a clip's crops, oldest first; None = missing."""

WriteSamples = Callable[[Piece], None]
"""Takes a step's samples."""


class FrontEnd(ABC):
    """The stateless half of preprocessing, from a step's pieces to its tensor."""

    @abstractmethod
    def clip_writer(self, encoder: Encoder, spec: Clip, engine: Engine) -> WriteClip:
        """Writes clips into an encoder's engine."""

    @abstractmethod
    def sample_writer(self, encoder: Encoder, engine: Engine, stream_hz: float | None = None) -> WriteSamples:
        """Writes spectrograms or biosignals into an encoder's engine.

        Args:
            encoder: Declares them.
            engine: Where they are written.
            stream_hz: Rate of the pieces of a biosignal that are to be resampled; None: none are.
        """


class CpuFrontEnd(FrontEnd):
    """Into the arrays that the engine reads."""

    def clip_writer(self, encoder: Encoder, spec: Clip, engine: Engine) -> WriteClip:
        """With NumPy."""
        out = as_clip(engine.inputs[encoder.input.name][0].view(np.float32), spec)
        return lambda crops: write_clip(crops, spec, out)

    def sample_writer(self, encoder: Encoder, engine: Engine, stream_hz: float | None = None) -> WriteSamples:
        """With NumPy and SciPy."""
        spec, out = encoder.preprocess, engine.inputs[encoder.input.name][0].view(np.float32)
        if isinstance(spec, LogMel):
            return lambda piece: log_mel(piece.samples, spec, out)
        if isinstance(spec, VggishLogMel):
            return lambda piece: vggish_log_mel(piece.samples, spec, out)
        if isinstance(spec, Signal):
            if stream_hz is None:
                return lambda piece: write_signal(piece.samples, spec, out)
            step = stream_hz / spec.rate_hz
            return lambda piece: write_resampled(piece.samples, piece.first, step, spec, out)
        raise TypeError(f"{encoder.stage} takes no samples: {spec}")
