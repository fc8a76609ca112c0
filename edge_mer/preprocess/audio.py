"""From raw sound to log-mel spectrograms.

The stateful half (`SoundConditioner`) mixes to mono and resamples; the stateless half (`log_mel`)
turns the samples of one step into a spectrogram.
"""

from __future__ import annotations

from functools import lru_cache

import av
import numpy as np
import scipy.fft
import scipy.sparse
from numpy.typing import NDArray

from edge_mer.types.model import LogMel

Samples = NDArray[np.float32]


class SoundConditioner:
    """Mono samples at the model's rate from chunks at any rate.

    Channels are averaged. Resampling is band-limited (FFmpeg's libswresample) and gives the same
    samples however the sound was cut into chunks.

    Args:
        source_rate_hz: Rate of the chunks.
        rate_hz: Rate that the model declares.
    """

    def __init__(self, source_rate_hz: int, rate_hz: int) -> None:
        self._source_rate_hz = source_rate_hz
        self._rate_hz = rate_hz
        self._resampler: av.AudioResampler | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the past: what follows does not continue what was given before."""
        if self._source_rate_hz != self._rate_hz:
            self._resampler = av.AudioResampler(format="flt", layout="mono", rate=self._rate_hz)

    def resume(self, t_ns: int) -> int:
        """What is pushed next was captured at `t_ns`; it is passed on from there."""
        return t_ns

    def push(self, data: NDArray[np.generic]) -> Samples:
        """The samples that `data` completes.

        Args:
            data: (n, channels) float32 in [-1, 1].

        Returns:
            (m,) float32; some of the last few milliseconds stay inside until more comes.
        """
        mono = _mono(np.asarray(data, np.float32))
        if self._resampler is None or mono.size == 0:
            return mono
        frame = av.AudioFrame.from_ndarray(mono[np.newaxis], format="flt", layout="mono")
        frame.sample_rate = self._source_rate_hz
        return _joined(self._resampler.resample(frame))

    def flush(self) -> Samples:
        """The samples still inside, at the end of a stream or before a gap; (m,) float32."""
        if self._resampler is None:
            return np.zeros(0, np.float32)
        rest = _joined(self._resampler.resample(None))
        self.reset()
        return rest


def _mono(data: NDArray[np.float32]) -> Samples:
    """The mean of (n, channels), by columns: sums of many short rows are slow."""
    if data.shape[1] == 1:
        return data[:, 0]
    total: Samples = data[:, 0] + data[:, 1]
    for channel in range(2, data.shape[1]):
        total += data[:, channel]
    total /= data.shape[1]
    return total


def _joined(frames: list[av.AudioFrame]) -> Samples:
    pieces = [frame.to_ndarray()[0] for frame in frames]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def log_mel(samples: Samples, spec: LogMel, out: NDArray[np.float32]) -> None:
    """Write the log-mel spectrogram of one step into `out`.

    Args:
        samples: (n,) float32 in [-1, 1] at `spec.rate_hz`; missing samples are zero.
        spec: What the model declares.
        out: (1, mel, column) float32 with `spec.width` columns.
    """
    db = _narrow_filters(spec) @ _power_spectrogram(samples, spec).T  # (mel, column)
    np.log10(np.maximum(db, spec.amin, out=db), out=db)
    db *= 10.0
    np.maximum(db, db.max() - spec.top_db, out=db)
    db -= spec.mean
    db /= spec.std
    columns = db[:, -spec.width :]
    out.fill(0.0)
    out[0, :, spec.width - columns.shape[1] :] = columns


def _power_spectrogram(samples: Samples, spec: LogMel) -> NDArray[np.float64]:
    before, after = _reflected(len(samples), spec.n_fft // 2)
    padded = np.concatenate([samples[before], samples, samples[after]], dtype=np.float64)
    n_columns = (len(padded) - spec.n_fft) // spec.hop_samples + 1
    strides = (spec.hop_samples * padded.itemsize, padded.itemsize)
    frames = np.ndarray((n_columns, spec.n_fft), np.float64, padded, strides=strides)
    spectrum = scipy.fft.rfft(frames * hann_window(spec), axis=1)
    return np.asarray(spectrum.real**2 + spectrum.imag**2)


@lru_cache(maxsize=8)
def _reflected(n: int, half: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of `n` samples stand before the first and after the last one, where edges are reflected."""
    places = np.pad(np.arange(n), half, mode="reflect")
    return places[:half], places[half + n :]


@lru_cache(maxsize=8)
def hann_window(spec: LogMel) -> NDArray[np.float64]:
    """Periodic Hann window, centred in the FFT; (n_fft,)."""
    n = spec.win_samples
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n) / n)
    left = (spec.n_fft - n) // 2
    return np.pad(window, (left, spec.n_fft - n - left))


@lru_cache(maxsize=8)
def mel_filters(spec: LogMel) -> NDArray[np.float64]:
    """Triangular filters on the HTK mel scale, peak 1; (frequency, mel)."""
    frequencies_hz = np.linspace(0.0, spec.rate_hz / 2, spec.n_fft // 2 + 1)
    mel_edges = np.linspace(_hz_to_mel(spec.f_min_hz), _hz_to_mel(spec.f_max_hz), spec.n_mels + 2)
    edges_hz = 700.0 * (10.0 ** (mel_edges / 2595.0) - 1.0)
    low, centre, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    rising = (frequencies_hz[:, np.newaxis] - low) / (centre - low)
    falling = (high - frequencies_hz[:, np.newaxis]) / (high - centre)
    return np.maximum(0.0, np.minimum(rising, falling))


@lru_cache(maxsize=8)
def _narrow_filters(spec: LogMel) -> scipy.sparse.csr_array:
    """Without their zeros, which are nearly all; (mel, frequency)."""
    return scipy.sparse.csr_array(mel_filters(spec).T)


def _hz_to_mel(frequency_hz: float) -> float:
    return float(2595.0 * np.log10(1.0 + frequency_hz / 700.0))
