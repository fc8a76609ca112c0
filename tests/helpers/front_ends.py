"""The preprocessing that the published models declare, with their own numbers."""

from __future__ import annotations

from fractions import Fraction

from edge_mer.types.model import FaceClip, LogMel

FRAME = Fraction(1, 30)

JMT_LOG_MEL = LogMel(
    rate_hz=44_100,
    n_fft=1024,
    win_samples=882,
    hop_samples=441,
    n_mels=64,
    f_min_hz=0.0,
    f_max_hz=22_050.0,
    amin=1e-10,
    top_db=80.0,
    mean=-14.8,
    std=19.895,
    width=107,
)

JMT_CLIP = FaceClip(
    size_px=112,
    n_frames=8,
    frame_interval=4 * FRAME,
    last_frame_before_end=FRAME,
    frame_tolerance=2 * FRAME,
    mean=(0.43216, 0.394666, 0.37645),
    std=(0.22803, 0.22145, 0.216989),
)
