"""Recordings of a simulated person as cameras give them: H.264 with AAC, made once in build/scaling."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from benchmarks.scaling.kept import WORK, say
from edge_mer.runtime.session import merged
from edge_mer.sources.registry import open_source
from tests.helpers.media import add_audio, add_video, encode_frames, encode_samples, flush

FPS, SECONDS = 30, 24
CAMERA = (640, 480)
SMALL, LARGE = (320, 240), (1280, 720)
"""Sizes in pixels: width, height."""

_PERSON = 2


def clip(size_px: tuple[int, int] = CAMERA) -> Path:
    """The recording of that size; it is made if it is not there."""
    width, height = size_px
    path = WORK / f"person-{width}x{height}-{SECONDS}s.mp4"
    if not path.exists():
        say("clip", f"{width}x{height}")
        WORK.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{os.getpid()}-{path.name}")
        _write(part, size_px)
        part.replace(path)
    return path


def _write(path: Path, size_px: tuple[int, int]) -> None:
    width, height = size_px
    source = open_source(
        f"sim:seed=1&person={_PERSON}&duration_s={SECONDS}&fps={FPS}&width={width}&height={height}"
    )
    source.ensure_ready()
    rate_hz = next(round(one.rate_hz) for one in source.specs if one.modality == "audio" and one.rate_hz)
    source.start()
    n_frames = n_samples = 0
    with av.open(str(path), "w") as container:
        video = add_video(container, size_px, Fraction(FPS))
        audio = add_audio(container, rate_hz, "mono")
        for chunk in merged([source]):
            if chunk.modality == "visual":
                picture = np.asarray(chunk.data, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                encode_frames(container, video, [frame], [n_frames])
                n_frames += 1
            else:
                encode_samples(container, audio, np.asarray(chunk.data, np.float32), n_samples)
                n_samples += len(chunk.data)
        flush(container)
