"""What preprocessing must compute, written another way: slowly, in float64, by the textbook."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from edge_mer.types.model import LogMel

Doubles = NDArray[np.float64]


def log_mel_reference(samples: NDArray[np.floating], spec: LogMel) -> Doubles:
    """The spectrogram of `samples` (n,), normalised, cropped or padded; (1, mel, column)."""
    wave = samples.astype(np.float64)
    n_columns = 1 + wave.size // spec.hop_samples
    frames, dft = wave[_all_places(wave.size, spec)] * _hann(spec), _dft(spec.n_fft)
    power = (frames @ dft.real) ** 2 + (frames @ dft.imag) ** 2
    db = 10.0 * np.log10(np.maximum(power @ _triangles(spec), spec.amin))
    db = np.maximum(db, db.max() - spec.top_db)
    result = np.zeros((1, spec.n_mels, spec.width))
    for column in range(max(0, n_columns - spec.width), n_columns):
        place = spec.width - n_columns + column
        result[0, :, place] = (db[column] - spec.mean) / spec.std
    return result


@lru_cache(maxsize=2)
def _all_places(n_samples: int, spec: LogMel) -> NDArray[np.int64]:
    n_columns = 1 + n_samples // spec.hop_samples
    return np.array([_frame_places(column, n_samples, spec) for column in range(n_columns)])


def _frame_places(column: int, n_samples: int, spec: LogMel) -> list[int]:
    """Which sample stands at each place of a centred frame; the wave is mirrored at its ends."""
    turn = 2 * (n_samples - 1)
    places = []
    for k in range(spec.n_fft):
        place = column * spec.hop_samples - spec.n_fft // 2 + k
        place = abs(place) % turn if turn else 0
        places.append(turn - place if place >= n_samples else place)
    return places


def _hann(spec: LogMel) -> Doubles:
    window = np.zeros(spec.n_fft)
    left = (spec.n_fft - spec.win_samples) // 2
    for i in range(spec.win_samples):
        window[left + i] = math.sin(math.pi * i / spec.win_samples) ** 2
    return window


@lru_cache(maxsize=2)
def _dft(n: int) -> NDArray[np.complex128]:
    turns = np.outer(np.arange(n), np.arange(n // 2 + 1)) % n
    return np.exp(-2j * np.pi * turns / n)


@lru_cache(maxsize=2)
def _triangles(spec: LogMel) -> Doubles:
    """Triangular bands, equally wide in mel; (frequency, mel)."""
    n_bins = spec.n_fft // 2 + 1
    lowest, highest = (2595 * math.log10(1 + f / 700) for f in (spec.f_min_hz, spec.f_max_hz))
    corners = [
        700 * (10 ** ((lowest + (highest - lowest) * i / (spec.n_mels + 1)) / 2595) - 1)
        for i in range(spec.n_mels + 2)
    ]
    bands = np.zeros((n_bins, spec.n_mels))
    for band in range(spec.n_mels):
        left, middle, right = corners[band : band + 3]
        for k in range(n_bins):
            frequency = k * spec.rate_hz / spec.n_fft
            if left < frequency <= middle:
                bands[k, band] = (frequency - left) / (middle - left)
            elif middle < frequency < right:
                bands[k, band] = (right - frequency) / (right - middle)
    return bands


def crop_reference(frame: NDArray[np.uint8], transform: Doubles, size_px: int) -> Doubles:
    """Means of 1 or 2 x 2 bilinear samples of means over k x k pixels; (size, size, 3) in 0..255.

    Samples lie at multiples of 1/32 of such a block.
    """
    shrink = math.hypot(transform[0][0], transform[1][0])
    n = 1 if shrink <= 1 else 2
    ratios = {k: max(k * n / shrink, shrink / (k * n)) for k in range(1, 17)}
    k = min(ratios, key=ratios.__getitem__)
    height, width = frame.shape[:2]
    tall, wide = -(-height // k), -(-width // k)
    whole = np.zeros((tall * k, wide * k, 3))
    whole[:height, :width] = frame
    means = whole.reshape(tall, k, wide, k, 3).mean(axis=(1, 3))
    v, u = np.mgrid[: n * size_px, : n * size_px]
    places = []
    for across, down, shift in reversed([[float(number) for number in row] for row in transform]):
        first = shift + (across + down) * (0.5 / n - 0.5) - (k - 1) / 2
        start, step, fall = (round(number / k * 2**32) for number in (first, across / n, down / n))
        fine = (start + u * step) // 2**16 + v * fall // 2**16
        places.append((fine + 2**10) // 2**11 / 32 + 1.0)
    result = np.zeros((size_px, size_px, 3))
    for channel in range(3):
        # A black border of one block: beyond the last one, brightness falls to black within one.
        bordered = np.pad(means[:, :, channel], 1)
        samples = map_coordinates(bordered, places, order=1, mode="constant", cval=0.0)
        result[:, :, channel] = samples.reshape(size_px, n, size_px, n).mean(axis=(1, 3))
    return result
