"""From the samples of one step to VGGish's log-mel spectrogram."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.fft
import scipy.sparse
from numpy.typing import NDArray

from edge_mer.types.model import VggishLogMel


def vggish_log_mel(samples: NDArray[np.float32], spec: VggishLogMel, out: NDArray[np.float32]) -> None:
    """Write the spectrogram of one step into `out`.

    Args:
        samples: (`spec.n_samples`,) float32 in [-1, 1] at `spec.rate_hz`; missing samples are zero.
        spec: What the model declares.
        out: (column, mel) float32.
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, spec.win_samples)[:: spec.hop_samples]
    magnitude = np.abs(
        scipy.fft.rfft(frames * vggish_window(spec), n=spec.n_fft, axis=1)
    )  # (column, frequency)
    bands = _narrow_bands(spec) @ magnitude.T  # (mel, column); BLAS would wake its threads for it
    np.log(bands.T + spec.offset, out=out, casting="same_kind")


@lru_cache(maxsize=8)
def vggish_window(spec: VggishLogMel) -> NDArray[np.float64]:
    """Periodic Hann window; (win_samples,)."""
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(spec.win_samples) / spec.win_samples)


@lru_cache(maxsize=8)
def mel_bands(spec: VggishLogMel) -> NDArray[np.float64]:
    """Triangles that are linear in mel, peak 1, nothing at 0 Hz; (frequency, mel)."""
    mel = _hz_to_mel(np.linspace(0.0, spec.rate_hz / 2, spec.n_fft // 2 + 1))
    edges = np.linspace(_hz_to_mel(spec.f_min_hz), _hz_to_mel(spec.f_max_hz), spec.n_mels + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (mel[:, np.newaxis] - low) / (centre - low)
    falling = (high - mel[:, np.newaxis]) / (high - centre)
    bands = np.maximum(0.0, np.minimum(rising, falling))
    bands[0] = 0.0
    return np.asarray(bands)


@lru_cache(maxsize=8)
def _narrow_bands(spec: VggishLogMel) -> scipy.sparse.csr_array:
    """Without their zeros, which are nearly all; (mel, frequency)."""
    return scipy.sparse.csr_array(mel_bands(spec).T)


def _hz_to_mel(frequency_hz: float | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1127.0 * np.log1p(np.asarray(frequency_hz) / 700.0))
