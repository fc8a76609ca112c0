"""A simulated person filmed with breaks, in which nothing at all was recorded: as one file."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from edge_mer.sources.sim import SimSource

RATE_HZ = 16000
_FPS = 30


def write_film(path: Path, parts: Sequence[tuple[float, int]], shown_s: int = 12, seed: int = 3) -> Path:
    """Write a Matroska file without loss.

    Args:
        path: The file.
        parts: When each part begins in seconds, and which person it shows.
        shown_s: How long each is.
        seed: Of what is felt.
    """
    with av.open(str(path), "w", format="matroska") as container:
        video = container.add_stream("ffv1", rate=_FPS, options={"threads": "1"})
        video.width, video.height, video.pix_fmt = 192, 160, "bgr0"
        video.time_base = video.codec_context.time_base = Fraction(1, 30000)
        sound = container.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono")
        for begin_s, person in parts:
            source = SimSource(f"seed={seed}&person={person}&duration_s={shown_s}")
            source.ensure_ready()
            source.start()
            while not source.ended:
                chunk = source.read(0)
                if chunk is None:
                    continue
                if chunk.modality == "visual":
                    frame = av.VideoFrame.from_ndarray(chunk.data, format="rgb24")
                    frame.pts = round((begin_s + chunk.t_ns / 1e9) * 30000)
                    frame.time_base = Fraction(1, 30000)
                    container.mux(video.encode(frame.reformat(format="bgr0")))
                else:
                    data = np.round(chunk.data[:, :1] * 32767).astype(np.int16)
                    voice = av.AudioFrame.from_ndarray(data.T.copy(), format="s16", layout="mono")
                    voice.sample_rate = RATE_HZ
                    voice.pts = round((begin_s + chunk.t_ns / 1e9) * RATE_HZ)
                    voice.time_base = Fraction(1, RATE_HZ)
                    container.mux(sound.encode(voice))
            source.ensure_stopped()
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return path
