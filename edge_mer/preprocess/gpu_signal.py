"""On the GPU: from biosignals to the pieces that encoders take. Twin of `preprocess.signal.write_signal`.

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
        if len(out.shape) != 3 or out.shape[1] != spec.n_channels or out.dtype != np.float32:
            raise UsageError(
                "the pieces do not fit the tensor that they are to be written into",
                expected=f"float32 (batch, {spec.n_channels}, samples)",
                found=f"{out.dtype} {out.shape}",
            )
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
