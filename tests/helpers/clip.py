"""A clip with a face and a voice, as a reader of the docs would have one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from edge_mer.sources.registry import open_source
from tests.helpers.media import write_media


def write_clip(path: Path, duration_s: int) -> Path:
    """Write a simulated person's picture and sound to `path`; returns it."""
    source = open_source(f"sim:seed=2&person=4&duration_s={duration_s}")
    source.start()
    frames, sound = [], []
    while (chunk := source.read(0)) is not None:
        if chunk.modality == "visual":
            frames.append(np.asarray(chunk.data, np.uint8))
        elif chunk.modality == "audio":
            sound.append(np.asarray(chunk.data, np.float32))
    rate_hz = next(round(spec.rate_hz or 0) for spec in source.specs if spec.modality == "audio")
    return write_media(path, frames=frames, fps=Fraction(30), samples=np.concatenate(sound), rate_hz=rate_hz)
