"""On the GPU: from biosignals to the pieces that encoders take. Twins of those in `preprocess.signal`.

What has state, courses and personal baselines, stays on the processor.
"""

from __future__ import annotations

import math

import numpy as np

from edge_mer.cuda import Gpu, GpuTensor, Kernel
from edge_mer.errors import UsageError
from edge_mer.types.model import Signal

_THREADS = 128


class GpuSignalWriter:
    """Writes the pieces of a batch of steps in one launch.

    Args:
        gpu: Where it runs.
        kernels: Of `load_kernels`.
        spec: What the model declares.
        out: (batch, channels, n) float32; the engine's own input.

    Attributes:
        samples: (batch, n, channels) float32 in `spec.unit`, or courses; missing samples are zero.

    Raises:
        UsageError: `out` has another number of channels or another type.
    """

    def __init__(self, gpu: Gpu, kernels: dict[str, Kernel], spec: Signal, out: GpuTensor) -> None:
        _check(spec, out)
        n_pieces, n_channels, n_samples = out.shape
        self.samples = gpu.tensor((n_pieces, n_samples, n_channels), np.float32)
        self._kernel = kernels["write_signal"]
        self._grid = (math.ceil(n_samples / _THREADS), n_channels, n_pieces)
        self._arguments = (self.samples, n_samples, n_channels, float(spec.mean), float(spec.std), out)

    def write(self) -> None:
        """Upload what lies in `samples.host`, and write the pieces, when the stream comes to it."""
        if self.samples.n_bytes:
            self.samples.upload()
            self._kernel.launch(self._grid, (_THREADS, 1, 1), *self._arguments)

    def free(self) -> None:
        """Give back what it holds on the GPU; `out` is not its own."""
        self.samples.free()


class GpuSignalResampler:
    """Writes the pieces of a batch of steps, of a stream of another rate than the model's, in one launch.

    Args:
        gpu: Where it runs.
        kernels: Of `load_kernels`.
        spec: What the model declares.
        n_samples: Samples of the stream in a piece.
        step: Samples of the stream from one sample of a piece to the next.
        out: (batch, 1, n) float32; the engine's own input.

    Attributes:
        samples: (batch, n_samples) float32 in `spec.unit`; NaN where missing.
        firsts: (batch,) float64, where each piece's first sample lies, counted in samples of the stream.

    Raises:
        UsageError: `out` has another number of channels or another type.
    """

    def __init__(
        self, gpu: Gpu, kernels: dict[str, Kernel], spec: Signal, n_samples: int, step: float, out: GpuTensor
    ) -> None:
        _check(spec, out)
        n_pieces, _, n_written = out.shape
        self.samples = gpu.tensor((n_pieces, n_samples), np.float32)
        self.firsts = gpu.tensor((n_pieces,), np.float64)
        self._kernel = kernels["resample_signal"]
        self._grid = (math.ceil(n_written / _THREADS), n_pieces, 1)
        scale = (float(spec.mean), float(spec.std))
        places = (self.firsts, np.float64(step), n_written)
        self._arguments = (self.samples, n_samples, *places, *scale, out)
        self._is_empty = out.n_bytes == 0

    def write(self) -> None:
        """Upload what lies in `samples.host` and `firsts.host`, and write, when the stream comes to it."""
        if not self._is_empty:
            self.samples.upload()
            self.firsts.upload()
            self._kernel.launch(self._grid, (_THREADS, 1, 1), *self._arguments)

    def free(self) -> None:
        """Give back what it holds on the GPU; `out` is not its own."""
        self.samples.free()
        self.firsts.free()


def _check(spec: Signal, out: GpuTensor) -> None:
    if len(out.shape) != 3 or out.shape[1] != spec.n_channels or out.dtype != np.float32:
        raise UsageError(
            "the pieces do not fit the tensor that they are to be written into",
            expected=f"float32 (batch, {spec.n_channels}, samples)",
            found=f"{out.dtype} {out.shape}",
        )
