"""On the GPU: rings of features inside the fusion's inputs. Twin of `sync.features.FeatureRing`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_mer.cuda import Gpu, GpuMemory, GpuTensor, Kernel
from edge_mer.errors import UsageError

_THREADS = 128

_RING = np.dtype(
    [
        ("buffer", np.uint64),
        ("feature", np.uint64),
        ("held", np.uint64),
        ("n_features", np.int32),
        ("clear", np.int32),
        ("present", np.int32),
        ("unused", np.int32),
    ]
)
"""`Ring` of features.cu."""


@dataclass(frozen=True)
class GpuStep:
    """What is appended to one ring.

    Attributes:
        feature: Where it lies on the GPU, (feature,) float32, e.g. an encoder's output or
            `GpuFeatureRings.held`; None: zeros.
        is_present: It counts as a feature of this person, encoded or filled in.
        is_kept: It was encoded in this step, and is kept for a policy that holds.
        clears: All steps before it are forgotten first: they are another person's.
    """

    feature: GpuTensor | GpuMemory | None
    is_present: bool
    is_kept: bool = False
    clears: bool = False


class GpuFeatureRings:
    """The rings of all modalities; each step of the session is one launch.

    Args:
        gpu: Where it runs.
        kernels: Of `load_kernels`.
        buffers: Per modality (1, L, feature) float32, the fusion engine's own inputs.
        present: (1, modality, L) bool, its mask; None where it takes none.

    Attributes:
        held: Per modality a copy of the last feature that was kept.

    Raises:
        UsageError: A buffer has another shape or type.
    """

    def __init__(
        self,
        gpu: Gpu,
        kernels: dict[str, Kernel],
        buffers: Sequence[GpuTensor],
        present: GpuTensor | None,
    ) -> None:
        n_steps = buffers[0].shape[1]
        for buffer in buffers:
            if buffer.dtype != np.float32 or buffer.shape[:2] != (1, n_steps) or len(buffer.shape) != 3:
                raise _unfit(f"float32 (1, {n_steps}, feature)", buffer)
        shape = (1, len(buffers), n_steps)
        if present is not None and (present.shape != shape or present.dtype != np.bool_):
            raise _unfit(f"bool {shape}", present)
        self._n_steps = n_steps
        self._present = present
        self._kernel = kernels["push_features"]
        self.held = tuple(gpu.scratch(4 * buffer.shape[2]) for buffer in buffers)
        self._rings = gpu.tensor((len(buffers),), _RING)
        self._fixed = np.zeros(len(buffers), _RING)
        self._fixed["buffer"] = [buffer.pointer for buffer in buffers]
        self._fixed["n_features"] = [buffer.shape[2] for buffer in buffers]
        widest = max(buffer.shape[2] for buffer in buffers)
        self._grid = (math.ceil(widest / _THREADS), len(buffers), 1)
        self._is_read = gpu.event()

    def push(self, steps: Sequence[GpuStep]) -> None:
        """Append one step to every ring, in the modalities' order, when the stream comes to it."""
        described = self._fixed.copy()
        for index, (step, held) in enumerate(zip(steps, self.held, strict=True)):
            described[index]["feature"] = 0 if step.feature is None else step.feature.pointer
            described[index]["held"] = held.pointer if step.is_kept else 0
            described[index]["present"], described[index]["clear"] = step.is_present, step.clears
        self._is_read.wait()  # the launch before may still need what it was given
        self._rings.host[...] = described
        self._rings.upload()
        mask = np.uintp(0) if self._present is None else self._present
        self._kernel.launch(self._grid, (_THREADS, 1, 1), self._rings, self._n_steps, mask)
        self._is_read.record()

    def free(self) -> None:
        """Give back what it holds on the GPU; buffers and mask are not its own."""
        for held in self.held:
            held.free()
        self._rings.free()
        self._is_read.free()


def _unfit(expected: str, found: GpuTensor) -> UsageError:
    return UsageError(
        "a ring of features does not fit the fusion's input",
        expected=expected,
        found=f"{found.dtype} {found.shape}",
    )
