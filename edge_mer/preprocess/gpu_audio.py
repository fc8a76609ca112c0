"""On the GPU: from samples to log-mel spectrograms. Twin of `audio.log_mel` and `vggish_audio`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.cuda import Gpu, GpuMemory, GpuTensor, Kernel
from edge_mer.errors import DataError, UsageError
from edge_mer.preprocess.audio import hann_window, mel_filters
from edge_mer.preprocess.vggish_audio import mel_bands, vggish_window
from edge_mer.types.model import LogMel, VggishLogMel

SMALLEST_FFT, LARGEST_FFT = 64, 4096
"""Only powers of two between them."""

_THREADS = 256


class GpuSpectrogramWriter:
    """Writes the spectrograms of a batch of steps in one launch.

    Args:
        gpu: Where it runs.
        kernels: Of `load_kernels`.
        spec: What the model declares.
        n_samples: Samples of a step.
        out: float32 (batch, 1, mel, column), for VGGish (batch, column, mel); the engine's own input.

    Attributes:
        samples: (batch, n_samples) float32 in [-1, 1] at the model's rate; missing samples are zero.

    Raises:
        UsageError: The FFT's size is no power of two from 64 to 4096, or `out` has another shape or type.
        DataError: There are no samples, or not as many as VGGish takes.
    """

    def __init__(
        self,
        gpu: Gpu,
        kernels: dict[str, Kernel],
        spec: LogMel | VggishLogMel,
        n_samples: int,
        out: GpuTensor,
    ) -> None:
        _check(spec, n_samples, out)
        self._out = out
        self._held: list[GpuTensor | GpuMemory] = []
        self._gpu = gpu
        self.samples = gpu.tensor((out.shape[0], n_samples), np.float32)
        is_vggish = isinstance(spec, VggishLogMel)
        self._kernel = kernels[spec.kind]
        n_columns = spec.width if is_vggish else 1 + n_samples // spec.hop_samples
        self._grid = (n_columns, out.shape[0], 1)
        real_bytes = 8 if is_vggish else 4
        self._shared_bytes = real_bytes * 2 * spec.n_fft + 4 * max(spec.n_fft // 2 + 1, _THREADS)
        self._arguments = self._tables(spec, n_samples, n_columns)

    def _tables(self, spec: LogMel | VggishLogMel, n_samples: int, n_columns: int) -> list[Any]:
        real = np.float64 if isinstance(spec, VggishLogMel) else np.float32
        turns = self._constant(_turns(spec.n_fft), real)
        filters = mel_bands(spec) if isinstance(spec, VggishLogMel) else mel_filters(spec)
        first_bin, first_weight, weights = _packed(filters)
        bands = [
            self._constant(first_bin, np.int32),
            self._constant(first_weight, np.int32),
            self._constant(weights, np.float32),
        ]
        sizes: list[int | float] = [spec.n_fft]
        if isinstance(spec, VggishLogMel):
            window = self._constant(vggish_window(spec), real)
            sizes += [spec.win_samples, spec.hop_samples, spec.n_mels, float(spec.offset)]
            return [self.samples, n_samples, window, turns, *bands, *sizes, self._out]
        window = self._constant(hann_window(spec), real)
        between = self._gpu.scratch(4 * self.samples.shape[0] * n_columns * spec.n_mels)
        n_done = self._gpu.tensor((self.samples.shape[0],), np.int32)
        self._held += [between, n_done]
        scale = [float(number) for number in (spec.amin, spec.top_db, spec.mean, spec.std)]
        sizes += [spec.hop_samples, spec.n_mels, *scale, spec.width]
        return [self.samples, n_samples, window, turns, *bands, *sizes, between, n_done, self._out]

    def _constant(self, values: NDArray[Any], dtype: type[np.number[Any]]) -> GpuTensor:
        tensor = self._gpu.tensor(values.shape, dtype)
        tensor.host[...] = values
        tensor.upload()
        self._held.append(tensor)
        return tensor

    def write(self) -> None:
        """Upload what lies in `samples.host`, and write the spectrograms, when the stream comes to it."""
        self.samples.upload()
        self._kernel.launch(self._grid, (_THREADS, 1, 1), *self._arguments, shared_bytes=self._shared_bytes)

    def free(self) -> None:
        """Give back what it holds on the GPU; `out` is not its own."""
        self.samples.free()
        for one in self._held:
            one.free()


def _check(spec: LogMel | VggishLogMel, n_samples: int, out: GpuTensor) -> None:
    is_power_of_two = spec.n_fft & (spec.n_fft - 1) == 0
    if not (is_power_of_two and SMALLEST_FFT <= spec.n_fft <= LARGEST_FFT):
        raise UsageError(
            f"the GPU computes no spectrograms with an FFT of {spec.n_fft} samples",
            expected=f"a power of two from {SMALLEST_FFT} to {LARGEST_FFT}",
            hint="let the processor preprocess this modality",
        )
    if isinstance(spec, VggishLogMel):
        shape: tuple[int, ...] = (spec.width, spec.n_mels)
        least, most = spec.n_samples, spec.n_samples
    else:
        shape = (1, spec.n_mels, spec.width)
        least, most = 1, spec.hop_samples * 65_535
    if not least <= n_samples <= most:
        raise DataError(
            "a spectrogram of another number of samples than it can be made of",
            expected=f"{least}" if least == most else f"{least} to {most}",
            found=str(n_samples),
        )
    if out.shape[1:] != shape or out.dtype != np.float32:
        raise UsageError(
            "the spectrograms do not fit the tensor that they are to be written into",
            expected=f"float32 (batch, {', '.join(map(str, shape))})",
            found=f"{out.dtype} {out.shape}",
        )


def _turns(n_fft: int) -> NDArray[np.float64]:
    """(n, 2): cosines and sines as log_mel.cu reads them, each stage of the FFT its own in a row."""
    half = n_fft // 2
    angles = 2.0 * np.pi * np.arange(half + 1) / n_fft
    turns = np.stack([np.cos(angles), -np.sin(angles)], axis=1)
    n_done = 2 ** np.arange(half.bit_length() - 1)
    stages = [turns[: half : half // done] for done in n_done]
    return np.concatenate([turns, turns[:1], *stages])


def _packed(filters: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Of (frequency, mel): each band's first bin, where its weights begin, and all weights in a row."""
    first_bin, first_weight, weights = [], [0], []
    for band in filters.T:
        bins = np.flatnonzero(band)
        first = int(bins[0]) if bins.size else 0
        first_bin.append(first)
        weights += list(band[first : int(bins[-1]) + 1] if bins.size else [])
        first_weight.append(len(weights))
    return np.array(first_bin), np.array(first_weight), np.array(weights)
