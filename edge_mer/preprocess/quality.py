"""Whether what came is good enough to be looked at: a dead, saturated or loose sensor says nothing.

The bounds are far from what good recordings hold. Of 20 people who wore a wristband for an hour each, skin
conductance never stood still for more than 4.3 s, the pulse for 0.2 s and the temperature for 18 s; of 539
seconds of speech the quietest, whispered, reached 0.012 of full scale, and in the loudest 0.09 % of the
samples came near it. Eleven sharp videos of faces have a `sharpness` of 0.31 and more.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.types.signals import Modality

Quality = Literal[
    "black",
    "no_face",
    "small_face",
    "blurred_face",
    "silent",
    "clipped",
    "flat",
    "saturated",
    "lead_off",
    "not_a_number",
]
"""What is wrong with a piece."""

Samples = NDArray[np.float32]

SILENT_PEAK = 1e-4
"""Sound that never reaches this part of full scale comes from no microphone that is on."""

CLIPPED_AT, CLIPPED_SHARE = 0.99, 0.01
"""Sound of which so much lies so near to full scale is distorted."""

LOOK_BACK_S = 2.0
"""How much of a signal is looked at; of sound it is the encoder's piece."""

FLAT_S: dict[Modality, float] = {"eda": 10.0, "skt": 60.0, "ecg": 1.0, "emg": 1.0, "ppg": 1.0, "rsp": 1.0}
"""A signal that does not change at all for so long comes from no body."""

SATURATED_SHARE = 0.25
"""Of ECG, EMG, pulse and breath: so much exactly at one bound is cut off there."""

EDA_US = (0.01, 99.0)
"""Less conductance is no skin; more is the end of what sensors measure."""

SKT_DEGC = (20.0, 45.0)
"""Temperatures of skin."""

LEAST_SHARPNESS = 0.02
"""Of an aligned face; a Gaussian blur of 3 % of the face's width leaves 0.013 to 0.021."""

MOST_ENLARGED = 3.0
"""A face that must be enlarged more to fill its crop is too small."""

_SHARPNESS_PX = 64
_LEAST_CONTRAST = 1.0
_LEAST_LIGHT = 16
"""Both in levels of 255."""


class QualityTrack:
    """What came of late of one sampled stream.

    Args:
        modality: What it carries.
        rate_hz: Its samples per second.
        span_ns: Of the encoder's piece.
    """

    def __init__(self, modality: Modality, rate_hz: float, span_ns: int) -> None:
        self._modality, self._rate_hz = modality, rate_hz
        self._look_back_ns = span_ns if modality == "audio" else _to_ns(LOOK_BACK_S)
        self._flat_ns = _to_ns(FLAT_S.get(modality, 0.0))
        self._pieces: deque[tuple[int, Samples]] = deque()
        self._anchor_ns = self._n = 0

    def push(self, t_ns: int | None, data: NDArray[np.generic]) -> None:
        """Take samples (n, channels), of which the first was captured at `t_ns`; None: they continue."""
        if t_ns is not None:
            self._anchor_ns, self._n = t_ns, 0
        first_ns = self._anchor_ns + int(self._n * NS_PER_S / self._rate_hz)
        self._pieces.append((first_ns, np.asarray(data, np.float32)))
        self._n += len(data)

    def verdict(self, end_ns: int) -> Quality | None:
        """What is wrong with what was captured before `end_ns`; None: nothing, or nothing came.

        Older samples are forgotten: `end_ns` never goes back.
        """
        self._forget_before(end_ns - max(self._look_back_ns, self._flat_ns))
        samples = self._since(end_ns - self._look_back_ns, end_ns)
        if not len(samples):
            return None
        if _is_mostly_nan(samples):
            return "not_a_number"
        if self._modality == "audio":
            return _of_sound(samples)
        if self._is_flat(end_ns):
            return "flat"
        return _of_body(samples, self._modality)

    def _is_flat(self, end_ns: int) -> bool:
        samples = self._since(end_ns - self._flat_ns, end_ns)
        is_whole = len(samples) >= self._flat_ns * self._rate_hz / NS_PER_S - 1
        return is_whole and bool((samples == samples[0]).all())

    def _since(self, start_ns: int, end_ns: int) -> Samples:
        parts = []
        for t_ns, data in self._pieces:
            first = self._index(start_ns - t_ns) if t_ns < start_ns else 0
            parts.append(data[first : max(0, self._index(end_ns - t_ns))])
        return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)

    def _forget_before(self, start_ns: int) -> None:
        while self._pieces and self._index(start_ns - self._pieces[0][0]) >= len(self._pieces[0][1]):
            self._pieces.popleft()

    def _index(self, after_ns: int) -> int:
        """The first sample that is not before a time after a piece's begin."""
        return round(after_ns * self._rate_hz / NS_PER_S)


def _is_mostly_nan(samples: Samples) -> bool:
    """Of (n, channels): whether more than half of the times lack a channel."""
    if not np.isnan(samples.min()):  # one look at all of them, since there is hardly ever a NaN
        return False
    return bool(np.isnan(samples).any(axis=1).mean() > 0.5)


def _of_sound(samples: Samples) -> Quality | None:
    peak = max(samples.max(), -samples.min())
    if peak < SILENT_PEAK:
        return "silent"
    if peak < CLIPPED_AT:
        return None
    return "clipped" if (np.abs(samples) >= CLIPPED_AT).mean() > CLIPPED_SHARE else None


def _of_body(samples: Samples, modality: Modality) -> Quality | None:
    least, most = float(np.nanmin(samples)), float(np.nanmax(samples))
    if modality == "eda":
        return "lead_off" if most < EDA_US[0] else "saturated" if least > EDA_US[1] else None
    if modality == "skt":
        return "lead_off" if most < SKT_DEGC[0] or least > SKT_DEGC[1] else None
    at_bound = max((samples == bound).mean() for bound in (least, most))
    return "saturated" if at_bound > SATURATED_SHARE else None


def sharpness(frame: NDArray[np.uint8], transform: NDArray[np.float64], size_px: int) -> float:
    """How much of a face's contrast is in its finest details; 0 for one without contrast.

    Args:
        frame: (height, width, 3) RGB.
        transform: (2, 3), from the aligned crop's pixels to the frame's.
        size_px: The crop's side.

    Returns:
        Variance of the crop's Laplacian over its own, at 64 x 64 pixels of grey.
    """
    scaled = transform.copy()
    scaled[:, :2] *= size_px / _SHARPNESS_PX
    face = cv2.warpAffine(
        frame, scaled, (_SHARPNESS_PX, _SHARPNESS_PX), flags=cv2.INTER_AREA | cv2.WARP_INVERSE_MAP
    )
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY).astype(np.float32)
    contrast = _deviation(grey)
    if contrast < _LEAST_CONTRAST:
        return 0.0
    return (_deviation(cv2.Laplacian(grey, cv2.CV_32F)[2:-2, 2:-2]) / contrast) ** 2


def _deviation(values: NDArray[np.integer | np.floating]) -> float:
    """Of a small picture; OpenCV has it many times faster than NumPy."""
    return float(cv2.meanStdDev(values)[1][0, 0])


def is_black(frame: NDArray[np.uint8]) -> bool:
    """Whether a picture, (height, width, 3) RGB, shows nothing: a covered lens, or a camera that fails."""
    return int(frame.max()) < _LEAST_LIGHT


def of_face(frame: NDArray[np.uint8], transform: NDArray[np.float64], size_px: int) -> Quality | None:
    """What is wrong with a face that was found, in a frame and by a crop as for `sharpness`."""
    if math.hypot(*transform[:, 0]) < 1.0 / MOST_ENLARGED:
        return "small_face"
    return "blurred_face" if sharpness(frame, transform, size_px) < LEAST_SHARPNESS else None


def _to_ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)
