"""What an encoder is given where there is nothing, as its published code does it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_mer.engine.base import Engine
from edge_mer.engine.standby import Origin, origin_of
from edge_mer.preprocess.audio import log_mel
from edge_mer.preprocess.image import normalise_into
from edge_mer.preprocess.signal import write_signal
from edge_mer.preprocess.words import write_words
from edge_mer.types.model import Clip, Encoder, LogMel, Signal, Words

Samples = NDArray[np.float32]


def as_clip(out: Samples, spec: Clip) -> Samples:
    """The same memory as (3, frame, height, width): a model of single frames has no axis for them."""
    return out.reshape(3, spec.n_frames, *spec.shape_px)


def blank_tensor(encoder: Encoder) -> Samples:
    """A step tensor, batch = 1: black frames, silence, zeros of a biosignal.

    Of VGGish it is zero after the logarithm, which is what its windows are padded with.
    """
    blank = np.zeros(encoder.input.concrete(batch=1), np.float32)
    spec = encoder.preprocess
    if isinstance(spec, Clip):
        clip = as_clip(blank[0], spec)
        for index in range(spec.n_frames):
            normalise_into(None, spec, clip[:, index])
    elif isinstance(spec, LogMel):
        log_mel(np.zeros(int(encoder.span * spec.rate_hz), np.float32), spec, blank[0])
    elif isinstance(spec, Signal):
        write_signal(np.zeros(blank.shape[-1], np.float32), spec, blank[0])
    return blank


def blank_feature(encoder: Encoder, engine: Engine) -> Samples:
    """What the encoder makes of it, (feature,); of words, what stands where nothing is said."""
    return encode_blank(encoder, engine)[0]


def encode_blank(encoder: Encoder, engine: Engine) -> tuple[Samples, Origin | None]:
    """The same, and what made it where that was not the engine that was to make it."""
    if isinstance(encoder.preprocess, Words):
        feature = np.zeros(encoder.feature, np.float32)
        write_words(None, encoder.preprocess, feature)
        return feature, None
    found = engine.run({encoder.input.name: blank_tensor(encoder)})
    return np.asarray(found[encoder.output.name][0], np.float32), origin_of(found)
